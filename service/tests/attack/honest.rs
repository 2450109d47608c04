//! The honest tenant: small batches, two at a time, each sent when the one before is answered.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::libc;

use crate::client::{Client, Wrong, batch};

/// Requests that it has under way.
const CALLERS: usize = 2;
/// What each item of a batch is answered with.
const ITEM: usize = 1024;

/// An account that does what a user's program does.
pub(crate) struct Honest {
    client: Client,
}

/// What a stretch of its work looked like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) batches: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) per_second: f64,
    /// Requests that were answered by an error.
    pub(crate) refused: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { batches, p50, p99, per_second, refused } = self;
        let [p50, p99] = [p50, p99].map(|time| time.as_secs_f64() * 1000.0);
        write!(f, "{batches} batches, {per_second:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms, {refused} refused")
    }
}

/// Lets this thread run whenever it wants to, as on a machine of its own: on this one it would wait for the jails, half of the
/// time beside all attacks. Without the right to that it stays as it is.
fn run_first() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads the parameter during the call.
    let _kept_as_it_was = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const first) };
}

impl Honest {
    pub(crate) fn new(client: Client) -> Honest {
        client.upload_worker();
        Honest { client }
    }

    /// Opens a run, sends batches for this long, and ends it.
    pub(crate) fn work(&self, time: Duration) -> Figures {
        let (run, next) = (self.client.run(), AtomicU64::new(0));
        let item = format!("e{}", "x".repeat(ITEM));
        let body = batch(&[&item]);
        let (begun, times, refused) = (Instant::now(), Mutex::new(Vec::new()), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    run_first();
                    while begun.elapsed() < time {
                        let target = format!("/runs/{run}/batches/{}", next.fetch_add(1, Ordering::Relaxed));
                        let sent = Instant::now();
                        match self.answered(&target, &body) {
                            true => times.lock().expect("no panic").push(sent.elapsed()),
                            false => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                });
            }
        });
        let took = begun.elapsed();
        let _ended = self.client.try_call("POST", &format!("/runs/{run}/done"), b"", &Wrong::default());
        let mut times = times.into_inner().expect("no panic");
        times.sort_unstable();
        let at = |share: f64| {
            times.get((times.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or_default()
        };
        Figures {
            batches: times.len(),
            p50: at(0.5),
            p99: at(0.99),
            per_second: times.len() as f64 / took.as_secs_f64(),
            refused: refused.into_inner() as usize,
        }
    }

    /// Whether a batch gets its answer; one that takes long is asked for until it is there.
    fn answered(&self, target: &str, body: &[u8]) -> bool {
        let mut method = "PUT";
        loop {
            let sent = if method == "PUT" { body } else { &[][..] };
            match self.client.try_call(method, target, sent, &Wrong::default()) {
                Ok(reply) if reply.status == 202 => method = "GET",
                Ok(reply) => {
                    if reply.status != 200 {
                        println!(
                            "{method} {target}: {} {}",
                            reply.status,
                            String::from_utf8_lossy(&reply.body)
                        );
                    }
                    return reply.status == 200;
                }
                Err(error) => {
                    println!("{method} {target}: {error}");
                    return false;
                }
            }
        }
    }
}
