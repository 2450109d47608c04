//! Who strikes at a running host and its workers from outside, and counts the blows.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_programs::{is_alive, workers};
use fastrand::Rng;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::plan::{Plan, Strike};

/// A host has so long for its round. What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// Some deaths in a row without one answer end a map, by design: no two such at short notice.
const YOUNG: Duration = Duration::from_millis(500 * SLOWNESS);
/// How much longer a worker of an unoptimised build takes to answer something.
const SLOWNESS: u64 = if cfg!(debug_assertions) { 3 } else { 1 };

/// Blows that were dealt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blows {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) suspensions: u64,
    pub(crate) interrupts: u64,
    pub(crate) slowed: u64,
    pub(crate) hosts: u64,
}

impl AddAssign for Blows {
    fn add_assign(&mut self, other: Blows) {
        self.kills += other.kills;
        self.stops += other.stops;
        self.suspensions += other.suspensions;
        self.interrupts += other.interrupts;
        self.slowed += other.slowed;
        self.hosts += other.hosts;
    }
}

struct Storm<'a> {
    plan: &'a Plan,
    host: i32,
    rng: Rng,
    seen: HashMap<i32, Instant>,
    young: Option<Instant>,
    /// Who is to go on, and when; 0: host and workers.
    stopped: Vec<(i32, Instant)>,
    blows: Blows,
}

/// Strikes until the host ends or is killed as planned; false if it did not end in time.
pub(crate) fn strike(plan: &Plan, child: &mut Child) -> (bool, Blows) {
    let begun = Instant::now();
    let mut storm = Storm {
        plan,
        host: child.id().cast_signed(),
        rng: Rng::with_seed(plan.storm),
        seen: HashMap::new(),
        young: None,
        stopped: Vec::new(),
        blows: Blows::default(),
    };
    let mut next = begun + storm.pause();
    loop {
        // A suspended host is none that has ended.
        if child.try_wait().expect("it is a child of this process").is_some() {
            storm.go_on(true);
            return (true, storm.blows);
        }
        let now = Instant::now();
        if now.duration_since(begun) > LIMIT {
            return (false, storm.blows);
        }
        if plan.host_dies.is_some_and(|after| now.duration_since(begun) > after) && storm.blows.hosts == 0 {
            storm.blows.hosts = 1;
            signal(storm.host, Signal::SIGKILL);
        }
        storm.go_on(false);
        if plan.strikes.is_some() && now >= next {
            storm.blow(now);
            next = now + storm.pause();
        }
        sleep(Duration::from_millis(1));
    }
}

impl Storm<'_> {
    fn pause(&mut self) -> Duration {
        let mean = self.plan.strikes.unwrap_or(LIMIT).as_micros() as u64 * SLOWNESS;
        Duration::from_micros(self.rng.u64(mean / 2..mean * 3 / 2))
    }

    fn blow(&mut self, now: Instant) {
        let strike = Strike::draw(&mut self.rng, self.plan);
        let at = self.rng.usize(..);
        let living = workers(self.host);
        for pid in &living {
            self.seen.entry(*pid).or_insert(now);
        }
        if living.is_empty() {
            return;
        }
        let victim = living[at % living.len()];
        match strike {
            Strike::Kill => {
                if now.duration_since(self.seen[&victim]) < YOUNG {
                    if self.young.is_some_and(|last| now.duration_since(last) < YOUNG) {
                        return;
                    }
                    self.young = Some(now);
                }
                self.blows.kills += u64::from(signal(victim, Signal::SIGKILL));
            }
            Strike::Stop(pause) => {
                self.blows.stops += u64::from(signal(victim, Signal::SIGSTOP));
                self.stopped.push((victim, now + pause));
            }
            Strike::Interrupt => {
                for ignored in [Signal::SIGINT, Signal::SIGHUP] {
                    self.blows.interrupts += u64::from(signal(victim, ignored));
                }
            }
            Strike::Slow => {
                // SAFETY: changes the priority of a process, and takes numbers only.
                let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, victim.cast_unsigned(), 19) };
                self.blows.slowed += u64::from(set == 0);
            }
            Strike::Suspend(pause) => {
                // The host leads its process group, to which its workers belong.
                let sent = killpg(Pid::from_raw(self.host), Signal::SIGTSTP).is_ok();
                self.blows.suspensions += u64::from(sent);
                self.stopped.push((0, now + pause));
            }
        }
    }

    /// Lets those go on whose time is over, or all.
    fn go_on(&mut self, all: bool) {
        let now = Instant::now();
        let host = self.host;
        self.stopped.retain(|(pid, until)| {
            let over = all || now >= *until;
            if over && *pid == 0 {
                let _gone = killpg(Pid::from_raw(host), Signal::SIGCONT);
            } else if over && is_alive(*pid) {
                signal(*pid, Signal::SIGCONT);
            }
            !over
        });
    }
}

fn signal(pid: i32, signal: Signal) -> bool {
    kill(Pid::from_raw(pid), signal).is_ok()
}
