//! The closing line beside what it speaks of: plain `map` takes its turn before and after each map, while
//! other programs have none, some or all of the cores. Run by `scripts/bench estimate`; prints the table of
//! `docs/progress-and-timings.md`.

use std::hint::black_box;
use std::io::Read as _;
use std::panic::{catch_unwind, set_hook};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use fastmap::{ExecPolicy, FastmapConfig, Options, Sandbox};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::functions::{Echo, Spin, Sqrt, Work as _, turns};
use crate::measure::seconds;
use crate::workload::CHILD;

/// The first argument of the program that has it measure this.
pub(crate) const WORD: &str = "estimate";

/// How far a figure may be off.
const RIGHT: f64 = 0.15;
/// Runs of each case, cold and warm.
const ROUNDS: usize = 3;
/// Time of an item that computes.
const ITEM: Duration = Duration::from_millis(5);

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Spin,
    /// The function binds its thread to the first core.
    Bound,
    Tiny,
    Collatz,
    Context,
    Sleep,
    Panics,
    Data,
}

struct Case {
    name: &'static str,
    what: What,
    /// Programs that spin meanwhile.
    spinners: usize,
    workers: usize,
}

const fn case(name: &'static str, what: What, spinners: usize, workers: usize) -> Case {
    Case { name, what, spinners, workers }
}

const CASES: [Case; 12] = [
    case("nothing else runs", What::Spin, 0, 2),
    case("6 workers", What::Spin, 0, 6),
    case("1 program spins", What::Spin, 1, 2),
    case("2 programs spin", What::Spin, 2, 2),
    case("4 programs spin", What::Spin, 4, 2),
    case("both workers on one core", What::Bound, 0, 2),
    case("1,000 square roots", What::Tiny, 0, 2),
    case("3 million chains of Collatz", What::Collatz, 0, 2),
    case("a context of 64 MB", What::Context, 0, 2),
    case("items that sleep", What::Sleep, 0, 2),
    case("items that panic", What::Panics, 0, 2),
    case("items of 1 MB", What::Data, 0, 2),
];

/// # Errors
/// If a child process tells nothing.
pub(crate) fn run() -> Result<(), String> {
    let turns = turns(ITEM);
    println!("| | runs | with a figure | worst error, % | claims that the clock contradicts |");
    println!("|---|---|---|---|---|");
    let (mut all, mut figures, mut worst, mut untrue) = (0, 0, 0.0_f64, 0);
    for (index, case) in CASES.iter().enumerate() {
        let _spinners = Spinners::start(case.spinners)?;
        let mut runs = Vec::new();
        for round in 0..2 * ROUNDS {
            let run = Run::of(index, round % 2 == 1, turns)?;
            eprintln!("{}: {run:?}", case.name);
            runs.push(run);
        }
        let errors: Vec<f64> = runs.iter().filter_map(Run::error).collect();
        let most = errors.iter().copied().fold(0.0, f64::max);
        let contradicted = runs.iter().filter(|run| run.is_untrue()).count();
        let shown = if errors.is_empty() { "–".to_owned() } else { format!("{:.1}", most * 100.0) };
        println!("| {} | {} | {} | {shown} | {contradicted} |", case.name, runs.len(), errors.len());
        all += runs.len();
        figures += errors.len();
        worst = worst.max(most);
        untrue += contradicted;
    }
    println!("| all | {all} | {figures} | {:.1} | {untrue} |", worst * 100.0);
    match worst > RIGHT || untrue > 0 {
        true => Err("the closing line said what is not so".to_owned()),
        false => Ok(()),
    }
}

/// What a child process measured: `map` before and after, fastmap between, and the line.
#[derive(Debug)]
struct Run {
    before: f64,
    fastmap: f64,
    after: f64,
    line: String,
}

impl Run {
    fn of(case: usize, warm: bool, turns: u64) -> Result<Run, String> {
        let words = [WORD.to_owned(), case.to_string(), warm.to_string(), turns.to_string()];
        let out = command(&words).stderr(Stdio::piped()).output().map_err(|error| error.to_string())?;
        let told = String::from_utf8_lossy(&out.stdout);
        let lines = String::from_utf8_lossy(&out.stderr);
        let times: Vec<f64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let line = lines.lines().rev().find(|line| line.contains(" items in "));
        match (&times[..], line) {
            ([before, fastmap, after], Some(line)) => {
                Ok(Run { before: *before, fastmap: *fastmap, after: *after, line: line.to_owned() })
            }
            _ => Err(format!("a child process told {told:?} and {lines:?}")),
        }
    }

    fn map(&self) -> f64 {
        f64::midpoint(self.before, self.after)
    }

    /// The share by which the figure is off, if there is one.
    fn error(&self) -> Option<f64> {
        let figure = time_behind(&self.line, "map would take about ")?;
        Some((figure / self.map() - 1.0).abs())
    }

    /// Claims without a figure: both turns of `map` have to contradict.
    fn is_untrue(&self) -> bool {
        let least = time_behind(&self.line, "saved at least ").map(|saved| self.fastmap + saved);
        let most = self.line.contains("did not make sense").then_some(self.fastmap * (1.0 + RIGHT));
        let (low, high) = (self.before.min(self.after), self.before.max(self.after));
        least.is_some_and(|least| high * (1.0 + RIGHT) < least) || most.is_some_and(|most| low > most)
    }
}

/// The time that follows these words, in seconds.
fn time_behind(line: &str, words: &str) -> Option<f64> {
    let (_, rest) = line.split_once(words)?;
    let mut words = rest.split([' ', '.', ':', ';']);
    let number: f64 = rest.split([' ', ':']).next()?.parse().ok()?;
    let unit = words.find(|word| matches!(*word, "s" | "ms" | "µs" | "ns"))?;
    Some(
        number
            * [("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)]
                .iter()
                .find(|(name, _)| *name == unit)?
                .1,
    )
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(CHILD).args(words).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Programs that spin until this is dropped.
struct Spinners(Vec<Child>);

impl Spinners {
    fn start(count: usize) -> Result<Spinners, String> {
        let mut spinners = Spinners(Vec::new());
        for _ in 0..count {
            let mut child = command(&["spin".to_owned()]).spawn().map_err(|error| error.to_string())?;
            let mut ready = [0];
            let stdout = child.stdout.as_mut().ok_or("it has a pipe")?;
            stdout.read_exact(&mut ready).map_err(|error| error.to_string())?;
            spinners.0.push(child);
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that spins, no longer than the harness lives.
pub(crate) fn spin() -> ! {
    let _ = set_pdeathsig(Signal::SIGKILL);
    println!();
    loop {
        black_box(Spin::call(1000));
    }
}

/// A child process: measures one run, and prints the times.
pub(crate) fn child(case: usize, warm: bool, turns: u64) {
    let Case { what, workers, .. } = CASES[case];
    set_hook(Box::new(|_| ()));
    let options =
        Options::new().exec_policy(ExecPolicy::Local).sandbox(Sandbox::Off).local_processes(workers);
    let config = fastmap::init(options).expect("all can be used");
    if warm {
        by_fastmap(&config, what, turns);
    }
    // On a thread of its own: it may be bound to a core.
    let map = || thread::scope(|scope| scope.spawn(|| seconds(|| by_map(what, turns))).join());
    let before = map().expect("its panics are caught");
    let fastmap = seconds(|| by_fastmap(&config, what, turns));
    let after = map().expect("its panics are caught");
    println!("{before} {fastmap} {after}");
}

fn items(turns: u64, what: What) -> impl Iterator<Item = (u64, u64)> {
    let kind = match what {
        What::Bound => 1,
        What::Sleep => 2,
        What::Panics => 3,
        _ => 0,
    };
    (0..100).map(move |index| (if kind == 3 && index % 10 != 0 { 0 } else { kind }, turns))
}

fn item((kind, turns): (u64, u64)) -> u64 {
    match kind {
        1 => {
            let mut first = CpuSet::new();
            first.set(0).and_then(|()| sched_setaffinity(Pid::from_raw(0), &first)).expect("there is a core");
        }
        2 => {
            thread::sleep(ITEM);
            return turns;
        }
        3 => panic!("as it should"),
        _ => {}
    }
    Spin::call(turns)
}

/// The function of the guide's first map.
fn collatz(start: u64) -> u32 {
    let (mut n, mut steps) = (start, 0);
    while n != 1 {
        n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

#[allow(clippy::ptr_arg, reason = "a context is handed over as the type that it has")]
fn with(context: &Vec<u8>, turns: u64) -> u64 {
    Spin::call(turns) ^ context.len() as u64
}

fn context() -> Vec<u8> {
    vec![7; 64 << 20]
}

fn data() -> impl Iterator<Item = Vec<u8>> {
    (0..100).map(|byte| vec![byte; 1 << 20])
}

fn by_map(what: What, turns: u64) {
    match what {
        What::Tiny => drop(black_box((0..1000).map(Sqrt::call).collect::<Vec<_>>())),
        What::Collatz => drop(black_box((1..3_000_000).map(collatz).collect::<Vec<_>>())),
        What::Data => data().map(Echo::call).for_each(|result| drop(black_box(result))),
        What::Context => {
            let context = context();
            black_box((0..20).map(|_| with(&context, turns)).fold(0, u64::wrapping_add));
        }
        _ => items(turns, what)
            .map(|one| catch_unwind(|| item(one)))
            .for_each(|result| drop(black_box(result))),
    }
}

fn by_fastmap(config: &FastmapConfig, what: What, turns: u64) {
    match what {
        What::Tiny => drop(black_box(config.fastmap(Sqrt::call, 0..1000).collect::<Vec<_>>())),
        What::Collatz => drop(black_box(config.fastmap(collatz, 1..3_000_000).collect::<Vec<_>>())),
        What::Data => config.fastmap(Echo::call, data()).for_each(|result| drop(black_box(result))),
        What::Context => {
            let results = config.fastmap_with(context(), with, (0..20).map(|_| turns));
            results.for_each(|result| drop(black_box(result)));
        }
        _ => config.fastmap(item, items(turns, what)).for_each(|result| drop(black_box(result))),
    }
}
