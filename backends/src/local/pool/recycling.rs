//! What workers may use up: memory, and items before they are replaced.
//! Called by `watchdog` by the clock and by the pool with news of a worker; reads `/proc`, decides nothing else.

use std::fs;
use std::time::{Duration, Instant};

use fastmap_sandbox::MemoryGroup;

use crate::local::pool::connection::Connection;
use crate::local::pool::state::PoolState;
use crate::model::death::{ExitReason, MemoryLimit};

/// How often memory is looked at. A function that fills fresh memory gets some 50 MB a look.
const LOOK: Duration = Duration::from_millis(20);
/// The same for each worker: to look at one takes some 10 µs, under the pool's lock.
const LOOK_EACH: Duration = Duration::from_micros(500);
/// Workers that are asked to leave have so long before they are ended.
pub(crate) const LEAVE: Duration = Duration::from_millis(300);

/// Deaths that the kernel caused for want of memory, as far as they can be told from other SIGKILLs.
#[derive(Debug)]
pub(crate) struct MemoryKills {
    group: MemoryGroup,
    /// How many are accounted for: those before the first worker, and those that ended one.
    known: u64,
}

impl MemoryKills {
    pub(crate) fn new() -> Self {
        let group = MemoryGroup::own();
        MemoryKills { known: group.kills().unwrap_or_default(), group }
    }

    /// A worker was killed by SIGKILL: was it for this? Each kill that the kernel has counted explains one death.
    pub(crate) fn judge(&mut self) -> Option<ExitReason> {
        if self.group.kills()? <= self.known {
            return None;
        }
        self.known += 1;
        Some(ExitReason::OutOfMemory(MemoryLimit::Shared(self.group.limit())))
    }
}

impl PoolState {
    /// How soon to look at what workers use up, if at all.
    pub(crate) fn wear_pause(&self) -> Option<Duration> {
        let leaving =
            self.workers.iter().any(|member| member.life.leaving_since().is_some()).then_some(LEAVE);
        let memory = (self.allowed.memory.is_some() && !self.runs.is_empty())
            .then(|| LOOK.max(LOOK_EACH * self.workers.len() as u32));
        leaving.into_iter().chain(memory).min()
    }

    /// Ends workers that hold too much memory, and those that were asked to leave and don't.
    pub(crate) fn recycle_exhausted(&mut self, now: Instant) -> Option<Duration> {
        for member in &mut self.workers {
            if member.life.leaving_since().is_some_and(|since| now.saturating_duration_since(since) > LEAVE) {
                member.end_for(ExitReason::Unknown, None);
            }
        }
        if let Some(limit) = self.allowed.memory.filter(|_| !self.runs.is_empty()) {
            for member in self.workers.iter_mut().filter(|member| !member.life.is_ending()) {
                let held = private_memory(member.pid());
                if held.is_some_and(|held| held > limit) {
                    member.end_for(ExitReason::OutOfMemory(MemoryLimit::Worker(limit)), None);
                }
            }
        }
        self.wear_pause()
    }

    /// A worker has answered: if it has run as many items as it may, it is asked to leave. It holds nothing that
    /// could be lost then.
    pub(crate) fn retire(&mut self, id: u64, now: Instant) {
        let allowed = self.allowed;
        let Some(member) = self.member(id) else { return };
        let used_up = |worker: &Connection| worker.held().is_empty() && allowed.items_left(worker) == 0;
        if member.life.serving().is_some_and(used_up) {
            member.ask_to_leave(now);
        }
    }
}

/// Bytes that a process alone holds in memory: not its program, and not what it shares with its host. `None` where
/// it is gone.
fn private_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::pool::limits::split;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::BatchId;
    use crate::model::ids::JobId;

    #[test]
    fn a_batch_is_split_where_a_worker_may_have_less() {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend([1, 2, 3, 4, 5]);
        builder.added(5);
        let batch = builder.finish(JobId(1), BatchId(7), 100, 0);
        for left in [5, 6, u64::MAX] {
            assert!(split(batch.clone(), left).1.is_none());
        }
        let (first, rest) = split(batch, 2);
        assert_eq!((first.first(), first.payload()), (100, &[1u8, 2][..]));
        let rest = rest.expect("three are left");
        assert_eq!((rest.first(), rest.payload(), rest.id()), (102, &[3u8, 4, 5][..], BatchId(7)));
    }

    #[test]
    fn memory_that_is_written_is_counted() {
        let before = private_memory(std::process::id()).expect("this process is there");
        let bytes = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = private_memory(std::process::id()).expect("this process is there");
        assert!(after >= before + (60 << 20), "{before} {after}");
        drop(bytes);
    }
}
