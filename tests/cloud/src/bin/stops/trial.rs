//! One map and its stops: a program that says when each answer came, and what is stopped meanwhile.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastmap_test_programs::{Running, children, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plan::{Plan, Policy, WORKERS, Whom};

/// A first answer, another one, or the end of a map, comes by then beside all stops: else the map hangs.
const HANGS: Duration = Duration::from_mins(3);
/// How often the program's lines are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// A batch may bring items of so much together: answers come so long after each other where all is well.
const BATCH: Duration = Duration::from_secs(1);

/// A service with jails, where this user may have some, and all else as by default.
#[derive(Debug)]
pub(crate) struct Service {
    running: Running,
    secret: String,
    url: String,
}

impl Service {
    pub(crate) fn start(command: &str) -> Service {
        let mut serve = Command::new(command);
        serve.args(["serve", "--dev", "--log", "warn", "--workers", &WORKERS.to_string()]);
        let mut running = Running::start(&mut serve);
        let secret = running.line("export FASTMAP_SECRET=");
        let url = running.line("export FASTMAP_CLOUD_URL=");
        Service { running, secret, url }
    }
}

/// What came of a map.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How long each stop was.
    pub(crate) stops: Vec<Duration>,
    /// How much longer than usual, and than the stop in it, the longest wait for an answer was.
    pub(crate) worst: Duration,
    pub(crate) wrong: Option<String>,
    pub(crate) stderr: String,
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

pub(crate) fn play(service: &Service, host: &str, plan: &Plan) -> Seen {
    let items = plan.items();
    let mut command = program(host);
    command.args(["watched", &items.to_string(), &plan.item.as_millis().to_string()]);
    command.env("FASTMAP_EXEC_POLICY", if plan.policy == Policy::Cloud { "cloud" } else { "adaptive" });
    command.env("FASTMAP_LOCAL_PROCESSES", WORKERS.to_string()).env("FASTMAP_VERBOSITY", "normal");
    command.env("FASTMAP_SECRET", &service.secret).env("FASTMAP_CLOUD_URL", &service.url);
    let mut host = Running::start(&mut command);
    let mut stops: Vec<(u64, u64)> = Vec::new();
    let mut wrong = None;
    for (pause, length) in &plan.stops {
        let seen = host.so_far().count();
        if !wait(HANGS, || host.so_far().count() > seen || host.has_ended()) {
            wrong = Some("it hangs".to_owned());
            break;
        }
        sleep(*pause);
        if host.has_ended() {
            break;
        }
        let begun = now();
        let stopped = stop(service, &host, plan.whom);
        sleep(*length);
        for pid in stopped {
            // One that was ended while it stood still is gone.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        stops.push((begun, now()));
    }
    // The items that are left are more than those that a stop holds up.
    if wrong.is_none() && !wait(HANGS + plan.item * items as u32, || host.has_ended()) {
        wrong = Some("it does not end".to_owned());
    }
    let told: Vec<u64> = host
        .so_far()
        .filter_map(|line| line.strip_prefix("told ")?.rsplit_once(' ')?.1.parse().ok())
        .collect();
    let mut worst = worst(&told, &stops, plan.item);
    if wrong.is_some() {
        // What is not known is no less than this.
        worst = worst.max(HANGS);
        host.signal_group(Signal::SIGKILL);
    }
    let ended = host.finish();
    let odd = ended.stdout.iter().find(|line| line.starts_with("wrong"));
    if wrong.is_none() && (told.len() as u64 != items || odd.is_some() || !ended.status.success()) {
        wrong = Some(format!("{} of {items} answers, {}, {odd:?}", told.len(), ended.status));
    }
    let stops = stops.into_iter().map(|(from, to)| Duration::from_millis(to - from)).collect();
    Seen { stops, worst, wrong, stderr: ended.stderr }
}

/// Whether something is so in time.
fn wait(most: Duration, mut so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !so() {
        if begun.elapsed() > most {
            return false;
        }
        sleep(LOOK);
    }
    true
}

/// Stops what is to stand still; gives the processes.
fn stop(service: &Service, host: &Running, whom: Whom) -> Vec<i32> {
    let (root, with_children) = match whom {
        Whom::All => (service.running.pid(), true),
        Whom::Service => (service.running.pid(), false),
        Whom::Host => (host.pid(), true),
    };
    let mut stopped = vec![root];
    let _gone = kill(Pid::from_raw(root), Signal::SIGSTOP);
    let mut at = 0;
    // What is stopped starts nothing any more.
    while with_children && at < stopped.len() {
        for child in children(stopped[at]) {
            let _gone = kill(Pid::from_raw(child), Signal::SIGSTOP);
            stopped.push(child);
        }
        at += 1;
    }
    stopped
}

/// The longest wait for an answer, without what is usual and without the stops in it.
fn worst(told: &[u64], stops: &[(u64, u64)], item: Duration) -> Duration {
    let usual = item.max(BATCH).as_millis() as u64;
    let gaps = told.windows(2).map(|pair| {
        let stopped: u64 =
            stops.iter().map(|(from, to)| pair[1].min(*to).saturating_sub(pair[0].max(*from))).sum();
        (pair[1] - pair[0]).saturating_sub(stopped + usual)
    });
    Duration::from_millis(gaps.max().unwrap_or(0))
}
