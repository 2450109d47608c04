//! Progress bars on a real terminal, seen as a person does: what the screen shows is interpreted from what was written.

use std::fs::File;
use std::io::Read;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fastmap_test_programs::{LIMIT, Running, program, until};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A program whose terminal this is.
struct Terminal {
    child: Child,
    written: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    /// All that was written.
    raw: Vec<u8>,
    columns: u16,
}

fn nonzero(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has rows and columns")
}

fn host(scenario: &[&str]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(scenario).env("FASTMAP_VERBOSITY", "normal").env("TERM", "xterm-256color");
    command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command
}

impl Terminal {
    fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        command.stdin(Stdio::null()).stdout(slave(&pty.slave)).stderr(slave(&pty.slave)).process_group(0);
        let child = command.spawn().expect("the program starts");
        drop((command, pty.slave));
        let mut master = File::from(pty.master);
        let (sender, written) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with an error when nobody has the other end any more.
            while let Ok(read @ 1..) = master.read(&mut bytes) {
                if sender.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let parser = vt100::Parser::new(nonzero(rows), nonzero(columns), 1000);
        Terminal { child, written, parser, raw: Vec::new(), columns }
    }

    fn lines(&self) -> Vec<String> {
        self.parser.screen().rows(0, self.columns).map(|row| row.trim_end().to_owned()).collect()
    }

    /// Reads until the screen is as `wanted`; `false`: the program has ended before.
    fn until(&mut self, wanted: impl Fn(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + LIMIT;
        while !wanted(&self.lines()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the screen stays {:#?}", self.lines());
            match self.written.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(bytes) => {
                    self.parser.process(&bytes);
                    self.raw.extend(bytes);
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// All lines that were ever written below each other, at the program's end.
    fn finish(&mut self) -> Vec<String> {
        assert!(!self.until(|_| false));
        assert!(self.child.wait().expect("it is a child").success());
        let mut lines = Vec::new();
        let screen = self.parser.screen_mut();
        screen.set_scrollback(usize::MAX);
        while screen.scrollback() > 0 {
            lines.extend(screen.rows(0, self.columns).next());
            screen.set_scrollback(screen.scrollback() - 1);
        }
        lines.extend(self.parser.screen().rows(0, self.columns));
        lines.into_iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it runs");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
            let _gone = self.child.wait();
        }
    }
}

fn bars(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.contains('█') || line.contains('░')).collect()
}

#[test]
fn several_maps_share_the_screen_and_break_nobody_s_lines() {
    let mut terminal = Terminal::start(host(&["shown", "3", "120", "10"]), 24, 240);
    // Each item that fails is among the first, but not before the bars.
    let complete = |bar: &String| bar.contains(" failed, ") && bar.contains(" left, ");
    let three = |lines: &[String]| bars(lines).len() == 3 && bars(lines).into_iter().all(complete);
    assert!(terminal.until(three), "three bars at a time");
    let shown = terminal.lines();
    // A map has its bar from its first answer on: their order is that of the answers.
    let mut shown: Vec<_> = bars(&shown).into_iter().cloned().collect();
    shown.sort();
    for (number, bar) in shown.iter().enumerate() {
        assert!(
            bar.starts_with(&format!("map {number} █")) || bar.starts_with(&format!("map {number} ░")),
            "{bar}"
        );
        assert!(bar.contains("/120  1 failed, ") && bar.contains(" left, ") && bar.contains("/s"), "{bar}");
    }
    let lines = terminal.finish();
    assert!(bars(&lines).is_empty(), "bars are left: {lines:#?}");
    // Each line of the function, of the logger and of the program stands alone.
    let count = |wanted: &str| lines.iter().filter(|line| *line == wanted).count();
    for n in (0..120).step_by(20) {
        assert_eq!(count(&format!("the function at {n}")), 3, "{n}: {lines:#?}");
    }
    for n in (10..120).step_by(25) {
        for who in ["[INFO] a record", "[INFO] a record inside", "the program"] {
            assert_eq!(count(&format!("{who} at {n}")), 1, "{n}: {lines:#?}");
        }
    }
    let closing = lines.iter().filter(|line| line.starts_with("fastmap: map ")).count();
    assert_eq!((closing, count("finished")), (3, 1), "{lines:#?}");
    assert_eq!(lines.len(), 6 * 3 + 5 * 3 + 4, "{lines:#?}");
}

#[test]
fn maps_may_end_while_the_program_has_the_bars_out_of_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut terminal =
        Terminal::start(host(&["end-suspended", folder.path().to_str().expect("text")]), 24, 400);
    let says = |name: &str| std::fs::write(folder.path().join(name), "").expect("room on the disk");
    let shown = |lines: &[String], label: &str| {
        lines.iter().filter(|line| line.strip_prefix(label).is_some_and(|rest| rest.starts_with(' '))).count()
    };
    let all = |lines: &[String]| ["left", "read", "other", "elsewhere"].map(|label| shown(lines, label));
    assert!(terminal.until(|lines| all(lines) == [1; 4]), "four bars at a time");
    says("end");
    let back = |lines: &[String]| {
        let end = lines.iter().position(|line| line == "the program ends");
        end.is_some_and(|at| shown(&lines[at..], "other") == 1)
    };
    assert!(terminal.until(back), "the bar that is left comes back");
    assert_eq!(all(&terminal.lines()), [0, 0, 1, 0], "{:#?}", terminal.lines());
    says("over");
    let lines = terminal.finish();
    let order = [
        "the program begins",
        "fastmap: left: ",
        "fastmap: read: ",
        "the rest: ",
        "another thread's: true",
        "the program ends",
        // What other threads write waits for the program.
        "fastmap: elsewhere: ",
        "fastmap: other: ",
        "finished",
    ];
    assert_eq!(lines.len(), order.len(), "{lines:#?}");
    for (line, begin) in lines.iter().zip(order) {
        assert!(line.starts_with(begin), "{begin:?}: {lines:#?}");
    }
}

#[test]
fn narrow_terminals_get_one_line_that_fits() {
    for (columns, needed) in [(20, "/120"), (40, " left")] {
        let mut terminal = Terminal::start(host(&["long-labels", "120"]), 10, columns);
        let shows =
            |lines: &[String]| lines.iter().any(|line| line.contains("/120") && line.contains(needed));
        assert!(terminal.until(shows), "{columns}");
        let lines = terminal.lines();
        let beside = |line: &&String| !line.is_empty() && *line != "first answer";
        assert_eq!(lines.iter().filter(beside).count(), 1, "{lines:#?}");
        let lines = terminal.finish();
        assert!(!lines.iter().any(|line| line.contains("/120")), "{lines:#?}");
    }
}

#[test]
fn colours_are_shown_where_they_are_wanted() {
    for (no_color, coloured) in [(None, true), (Some("1"), false)] {
        let mut command = host(&["shown", "1", "120", "20"]);
        if let Some(no_color) = no_color {
            command.env("NO_COLOR", no_color);
        }
        let mut terminal = Terminal::start(command, 10, 80);
        assert!(terminal.until(|lines| bars(lines).len() == 1));
        let sets_colours = terminal.raw.windows(3).any(|bytes| bytes == b"\x1b[3");
        assert_eq!(sets_colours, coloured, "{}", String::from_utf8_lossy(&terminal.raw));
    }
}

#[test]
fn a_dumb_terminal_gets_lines_and_no_escapes() {
    let mut command = host(&["shown", "1", "320", "40"]);
    command.env("TERM", "dumb");
    let mut terminal = Terminal::start(command, 24, 120);
    let told = |line: &String| line.starts_with("fastmap: map 0: ") && line.contains("/320 (");
    assert!(terminal.until(|lines| lines.iter().any(told)), "a line after some seconds");
    assert!(!terminal.raw.contains(&0x1b), "{}", String::from_utf8_lossy(&terminal.raw));
}

#[test]
fn without_a_terminal_a_long_map_writes_a_line_now_and_then_and_a_quiet_one_none() {
    let mut quiet = host(&["shown", "1", "320", "40"]);
    let quiet = Running::start(quiet.env("FASTMAP_VERBOSITY", "quiet"));
    let normal = Running::start(&mut host(&["shown", "1", "320", "40"]));
    let told = |stderr: &str| stderr.lines().filter(|line| line.contains("/320 (")).count();
    let (quiet, normal) = (quiet.finish().stderr, normal.finish().stderr);
    assert!((1..=2).contains(&told(&normal)), "{normal}");
    assert!(normal.contains("fastmap: map 0: ") && normal.contains(" %), 1 failed, "), "{normal}");
    assert!(!quiet.contains("fastmap: "), "{quiet}");
}

#[test]
fn after_a_stop_the_bars_leave_alone_what_the_shell_wrote() {
    let mut terminal = Terminal::start(host(&["shown", "2", "400", "10"]), 24, 80);
    assert!(terminal.until(|lines| bars(lines).len() == 2));
    terminal.signal(Signal::SIGSTOP);
    // What a shell writes, as far as this terminal is concerned.
    let quiet = |terminal: &mut Terminal| {
        while let Ok(bytes) = terminal.written.recv_timeout(Duration::from_millis(300)) {
            terminal.parser.process(&bytes);
        }
    };
    quiet(&mut terminal);
    terminal.parser.process(b"\r\n[1]+  Stopped\r\n$ fg\r\nhost\r\n");
    terminal.signal(Signal::SIGCONT);
    let below = |lines: &[String]| {
        let shell = lines.iter().position(|line| line == "host");
        shell.is_some_and(|at| bars(&lines[at..]).len() == 2)
    };
    assert!(terminal.until(below));
    let lines = terminal.lines();
    assert!(
        lines.iter().any(|line| line == "[1]+  Stopped") && lines.iter().any(|line| line == "$ fg"),
        "{lines:#?}"
    );
}

#[test]
fn an_interrupted_program_leaves_the_cursor_shown_and_its_colours_off() {
    let mut terminal = Terminal::start(host(&["shown", "1", "400", "10"]), 10, 80);
    assert!(terminal.until(|lines| bars(lines).len() == 1));
    terminal.signal(Signal::SIGINT);
    assert!(!terminal.until(|_| false));
    let screen = terminal.parser.screen();
    assert!(!screen.hide_cursor() && screen.fgcolor() == vt100::Color::Default);
}

#[test]
fn a_terminal_that_is_gone_costs_no_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let mut command = host(&["long-labels", "120"]);
    command.env("FASTMAP_TIMINGS", &path);
    let mut terminal = Terminal::start(command, 10, 80);
    assert!(terminal.until(|lines| bars(lines).len() == 1));
    // The reading thread finds that nobody listens, and closes the terminal: all that is written then is refused.
    terminal.written = channel().1;
    let mut ended = false;
    until("the end of the program", LIMIT, || {
        ended |= terminal.child.try_wait().expect("it is a child").is_some();
        ended
    });
    let report = std::fs::read_to_string(&path).expect("the map came to its end");
    assert!(report.contains("\"delivered\":120") && report.contains("\"complete\":true"), "{report}");
}
