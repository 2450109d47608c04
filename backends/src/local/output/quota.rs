//! What of a stranger's worker's lines and log records is passed on: so many bytes at once, and as many each
//! second. What is more is left out and counted, and no worker ends for it. Asked by the supervisor for each
//! line, by the worker's reader for each record; both read on, but no faster than [`LEFT_OUT`], so that a
//! flood holds up its worker and costs the host little.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::local::output::queue::left_out;

/// What a line counts beside its text.
const EACH: u64 = 96;
/// Bytes that are read and left out in a second.
const LEFT_OUT: u64 = 16 << 20;

/// The quota of one worker.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Bytes at once, and in a second.
    most: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    left: u64,
    since: Instant,
    /// Nothing is passed on until there is room for some.
    used_up: bool,
    /// Lines since the last that was passed on.
    left_out: u64,
}

impl Quota {
    pub(crate) fn new(most: u64, now: Instant) -> Quota {
        let state = State { left: most, since: now, used_up: false, left_out: 0 };
        Quota { most, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line of so many bytes, or leaves it out.
    pub(crate) fn admits(&self, bytes: usize, now: Instant) -> bool {
        let mut state = self.lock();
        self.refill(&mut state, now);
        let cost = bytes as u64 + EACH;
        // Also a short line that would fit: nothing is picked out of a flood, where each gap would need a
        // notice.
        if state.used_up || cost > state.left {
            state.used_up = true;
            state.left_out += 1;
            return false;
        }
        state.left -= cost;
        true
    }

    /// Whether what comes now is left out.
    pub(crate) fn is_used_up(&self, now: Instant) -> bool {
        let mut state = self.lock();
        self.refill(&mut state, now);
        state.used_up
    }

    fn refill(&self, state: &mut State, now: Instant) {
        let time = now.saturating_duration_since(state.since).as_nanos();
        // In 128 bits: 1 GiB a second times nanoseconds is more than 64 bits hold after 18 s without a line.
        let more = u64::try_from(u128::from(self.most) * time / 1_000_000_000).unwrap_or(u64::MAX);
        // The time moves on only with a whole byte: many looks in a short time would each be rounded down to
        // nothing otherwise, and the quota would never fill again.
        if more > 0 {
            state.left = state.left.saturating_add(more).min(self.most);
            state.since = now;
        }
        // Not before half is free: with each line that fits a notice of what was left out would come as well.
        state.used_up &= state.left < self.most / 2;
    }

    /// So many lines were read and left out.
    pub(crate) fn leave_out(&self, lines: u64) {
        self.lock().left_out += lines;
    }

    /// A line that says how many were left out, once, if any were.
    pub(crate) fn notice(&self) -> Option<Vec<u8>> {
        // Taken in the same step, because the supervisor and the worker's reader both ask: each line is
        // reported once.
        let lines = std::mem::take(&mut self.lock().left_out);
        let why = format!("this worker prints more than {} KiB a second", self.most >> 10);
        (lines > 0).then(|| left_out(lines, &why).into_bytes())
    }

    /// Whether some were left out that no notice has counted.
    pub(crate) fn holds_some(&self) -> bool {
        self.lock().left_out > 0
    }

    /// How long nothing is to be read behind so many bytes that were left out.
    pub(crate) fn pause(bytes: u64) -> Duration {
        Duration::from_micros(bytes.saturating_mul(1_000_000) / LEFT_OUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_it_are_left_out_and_counted_and_time_makes_room_again() {
        let begun = Instant::now();
        let quota = Quota::new(1 << 20, begun);
        let admitted = (0..2000).filter(|_| quota.admits(1000, begun)).count();
        assert_eq!(admitted, (1 << 20) / (1000 + EACH as usize));
        assert!(quota.is_used_up(begun));
        assert!(!quota.admits(1, begun), "nothing is picked out of a flood");
        quota.leave_out(3);
        assert!(quota.holds_some());
        let told = quota.notice().expect("some were left out");
        let expected = format!("[fastmap: {} lines are left out here", 2000 - admitted + 4);
        assert!(told.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&told));
        assert_eq!(quota.notice(), None);
        assert!(!quota.holds_some());
        assert!(!quota.admits(1, begun + Duration::from_millis(100)));
        assert!(quota.admits(1, begun + Duration::from_millis(600)));
        assert!(quota.notice().is_some_and(|told| told.starts_with(b"[fastmap: 1 line is left out here")));
    }
}
