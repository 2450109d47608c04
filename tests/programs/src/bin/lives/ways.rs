//! The ways to live and end, and what is right for each.

use nix::sys::signal::Signal;

use crate::way::{Act, Program, Way, Whom};

const RUN: &str = "exec \"$PROGRAM\"";
/// A shell with jobs, which waits for a line before it lets the stopped one go on.
const FG: &str = "set -m; \"$PROGRAM\"; until read -r line && [ \"$line\" = go ]; do :; done; fg >/dev/null";
const FLOOD: &str = "a flood of lines is cut, and counted";
const BATCH: &str = "results come by the batch";

/// All of them.
pub(crate) fn ways() -> Vec<Way> {
    [ends(), signals(), stops(), terminals(), outputs(), processes(), tools()].into_iter().flatten().collect()
}

/// The program ends by itself.
fn ends() -> Vec<Way> {
    vec![
        Way::new("returns from `main`", "return nap=0", RUN).short(),
        Way::new("ends by `exit(3)`", "exit nap=0", RUN).ends(12, 0, "exit 3").short(),
        Way::new("prints by C's `printf`, and returns", "return by=c", RUN).short(),
        Way::new("panics after its map", "panic", RUN).ends(12, 0, "exit 101"),
        Way::new("aborts after its map", "abort", RUN).ends(12, 0, "SIGABRT"),
        Way::new("drops its map after four answers", "leave", RUN).ends(4, 0, "exit 0"),
        Way::new("`exec` after its map", "exec-after", RUN).ends(12, 0, "exit 7"),
        Way::new("`panic = \"abort\"`, an item panics", "return panic=5", RUN)
            .program(Program::Abort)
            .ends(5, 0, "SIGABRT")
            .but(11, 0, "exit 0", "the item is answered by an error of its own")
            .executed_again(),
        Way::new(
            "`panic = \"abort\"`, 16 workers, 64 descriptors",
            "return nap=50",
            "ulimit -n 64; export FASTMAP_LOCAL_PROCESSES=16; exec \"$PROGRAM\"",
        )
        .program(Program::Abort),
    ]
}

/// Somebody sends a signal.
fn signals() -> Vec<Way> {
    let held = |name, whom, signal, end| {
        let way = Way::new(name, "return hold=4", RUN).act(Act::Signal(whom, signal)).ends(4, 0, end);
        way.but_cloud(0..=4, 0, end, BATCH)
    };
    let handled = |name, whom, signal| {
        Way::new(name, "handle nap=200", RUN).act(Act::Signal(whom, signal)).ends(12, 0, "exit 5")
    };
    let to_worker = |name, signal| {
        Way::new(name, "return nap=100", RUN).act(Act::Signal(Whom::Worker, signal)).of_a_worker()
    };
    vec![
        held("SIGINT to the group (Ctrl-C)", Whom::Group, Signal::SIGINT, "SIGINT").short(),
        held("SIGTERM to the host", Whom::Host, Signal::SIGTERM, "SIGTERM"),
        held("SIGTERM to the group", Whom::Group, Signal::SIGTERM, "SIGTERM").short(),
        held("SIGHUP to the group", Whom::Group, Signal::SIGHUP, "SIGHUP"),
        held("SIGQUIT to the group", Whom::Group, Signal::SIGQUIT, "SIGQUIT"),
        held("SIGKILL to the host", Whom::Host, Signal::SIGKILL, "SIGKILL").short(),
        handled("SIGINT to the group, handled", Whom::Group, Signal::SIGINT),
        handled("SIGTERM to the group, handled", Whom::Group, Signal::SIGTERM),
        to_worker("SIGKILL to a worker", Signal::SIGKILL),
        to_worker("SIGTERM to a worker", Signal::SIGTERM),
    ]
}

/// The program stands still for a while.
fn stops() -> Vec<Way> {
    let slow = "return nap=100";
    vec![
        Way::new("SIGSTOP and SIGCONT to the group", slow, RUN).act(Act::Pause(Whom::Group)),
        Way::new("SIGSTOP and SIGCONT to a worker", slow, RUN).act(Act::Pause(Whom::Worker)).of_a_worker(),
        Way::new("frozen and thawed", slow, "echo $$ >\"$CGROUP/cgroup.procs\"; exec \"$PROGRAM\"")
            .act(Act::Freeze)
            .needs("[ -n \"$CGROUP\" ]")
            .short(),
        Way::new("Ctrl-Z and `fg`", slow, FG).terminal(Act::CtrlZ).short(),
    ]
}

/// The program's terminal.
fn terminals() -> Vec<Way> {
    // As an interactive shell does, it passes the SIGHUP of its terminal on to its job.
    let shell =
        "set -m; \"$PROGRAM\" & trap \"kill -HUP -- -$!\" HUP; wait $!; wait $!; echo $? >\"$DIR/code\"";
    let nohup = "set -m; nohup \"$PROGRAM\" >\"$DIR/out\" & trap \"kill -HUP -- -$!\" HUP; \
                 wait $!; wait $!; echo $? >\"$DIR/code\"";
    vec![
        Way::new("its terminal is closed", "return hold=4", shell)
            .terminal(Act::Close)
            .ends(4, 0, "SIGHUP")
            .but_cloud(0..=4, 0, "SIGHUP", BATCH)
            .short(),
        Way::new("its terminal is closed, `nohup`", "return nap=100", nohup).terminal(Act::Close).short(),
        Way::new(
            "Ctrl-S, and Ctrl-Q later, with an `item_timeout`",
            "return print=300000 nap=200",
            "export FASTMAP_ITEM_TIMEOUT=2; exec \"$PROGRAM\"",
        )
        .terminal(Act::CtrlS)
        .but_cloud(12, 0..=12, "exit 0", FLOOD),
        Way::new("a session without a terminal (`setsid`)", "return", "exec setsid -w \"$PROGRAM\""),
    ]
}

/// The program's standard streams.
fn outputs() -> Vec<Way> {
    let late = "\"$PROGRAM\" | (sleep 3; cat); exit \"${PIPESTATUS[0]}\"";
    vec![
        Way::new(
            "stdout is read by `head -n 1`",
            "return",
            "\"$PROGRAM\" | head -n 1; exit \"${PIPESTATUS[0]}\"",
        )
        .ends(0..=11, 0..=11, "exit 101")
        .but(12, 0..=11, "exit 0", "what workers print is discarded after the reader has left"),
        Way::new("stdout is full", "return", "exec \"$PROGRAM\" >/dev/full")
            .ends(0, 0, "exit 101")
            .says("No space left on device")
            .but(12, 12, "exit 0", "results count; a warning says what is lost and why"),
        Way::new(
            "stdout is read late, with an `item_timeout`",
            "return print=300000 nap=250",
            "export FASTMAP_ITEM_TIMEOUT=1; \"$PROGRAM\" | (sleep 3; cat); exit \"${PIPESTATUS[0]}\"",
        )
        .but_cloud(12, 0..=12, "exit 0", FLOOD),
        Way::new("stdout is non-blocking, and read late", "nonblock print=20000", late)
            .ends(0..=11, 0..=11, "exit 101")
            .but(12, 0, "exit 0", "fastmap waits until there is room"),
        Way::new("stdout is closed at the start", "return", "exec \"$PROGRAM\" >&-").ends(12, 12, "exit 0"),
        Way::new("0 to 2 are closed at the start", "return", "exec \"$PROGRAM\" <&- >&- 2>&-")
            .ends(12, 12, "exit 0"),
        Way::new("0 to 2 are closed after the start", "close", RUN).ends(12, 12, "exit 0").short(),
    ]
}

/// The program's processes and rights.
fn processes() -> Vec<Way> {
    vec![
        Way::new("`exec` in the midst of its map", "exec", RUN).ends(4, 0, "exit 7").but(
            4,
            0..=4,
            "exit 7",
            "lines that the host has not read yet are lost",
        ),
        Way::new("forked in the midst; the copy ends by `exit`", "fork", RUN),
        Way::new("a daemon", "daemon", RUN),
        Way::new("gives up root in the midst", "unroot", RUN).needs("[ \"$(id -u)\" = 0 ]"),
        Way::new(
            "gives up root, and an item never ends, with an `item_timeout`",
            "unroot hold=11",
            "export FASTMAP_ITEM_TIMEOUT=2; exec timeout -s KILL 8 \"$PROGRAM\"",
        )
        .needs("[ \"$(id -u)\" = 0 ]")
        .ends(11, 0, "SIGKILL")
        .but(11, 0, "exit 0", "the item is answered by an error of its own"),
        Way::new("started by its loader", "return", "exec /lib64/ld-linux-x86-64.so.2 \"$PROGRAM\"")
            .says("executable")
            .needs("[ -x /lib64/ld-linux-x86-64.so.2 ]")
            .but(0, 0, "exit 1", "refused in words: workers are made of the executable"),
        Way::new(
            "a library in Python",
            "return",
            "exec python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).life())' \"$PROGRAM\"",
        )
        .program(Program::Library)
        .says("executable")
        .needs("command -v python3")
        .but(0, 0, "exit 1", "refused in words: workers are made of the executable"),
    ]
}

/// The program is run by another one, or with a library that looks at it.
fn tools() -> Vec<Way> {
    vec![
        Way::new("`timeout`, in time", "return", "exec timeout 60 \"$PROGRAM\""),
        Way::new("`timeout`, too late", "return hold=4", "exec timeout 3 \"$PROGRAM\"")
            .ends(4, 0, "exit 124")
            .but_cloud(0..=4, 0, "exit 124", BATCH)
            .short(),
        Way::new("`strace -f`", "return", "exec strace -f -o \"$DIR/calls\" \"$PROGRAM\"")
            .needs("command -v strace")
            .short(),
        // With libthread_db gdb now and then misses the end of a thread, and takes that for an error.
        Way::new(
            "`gdb`",
            "return",
            "exec gdb -q -batch -iex 'set auto-load libthread-db off' -iex 'set libthread-db-search-path /' \
             -return-child-result -ex run \"$PROGRAM\"",
        )
        .needs("command -v gdb")
        .short(),
        Way::new("`valgrind`", "return", "exec valgrind -q \"$PROGRAM\"")
            .needs("command -v valgrind")
            .but(
                0..=12,
                0,
                "exit 1 or exit 0",
                "the program that valgrind starts again is its own; the error has its words",
            )
            .but_cloud(12, 0, "exit 0", "as `map`"),
        Way::new("`perf record`", "return", "exec perf record -q -o \"$DIR/perf\" \"$PROGRAM\"")
            .needs("perf record -q -o /dev/null true"),
        Way::new(
            "gperftools' CPU profiler",
            "return",
            "LD_PRELOAD=libprofiler.so.0 CPUPROFILE=\"$DIR/profile\" \"$PROGRAM\"; code=$?; \
             [ \"$(find \"$DIR\" -name 'profile*' -size +0 | wc -l)\" -ge \"$PROCESSES\" ] || exit 90; \
             exit $code",
        )
        .needs("PATH=$PATH:/sbin ldconfig -p | grep libprofiler.so.0"),
        Way::new("LTTng-UST", "return", "export LD_PRELOAD=liblttng-ust.so.1; exec \"$PROGRAM\"")
            .needs("PATH=$PATH:/sbin ldconfig -p | grep liblttng-ust.so.1"),
        Way::new(
            "coverage",
            "return",
            "FASTMAP_SANDBOX=off LLVM_PROFILE_FILE=\"$DIR/%p.profraw\" \"$PROGRAM\"; code=$?; \
             [ \"$(find \"$DIR\" -name '*.profraw' -size +0 | wc -l)\" -ge \"$PROCESSES\" ] || exit 90; \
             exit $code",
        )
        .program(Program::Coverage)
        .short(),
    ]
}
