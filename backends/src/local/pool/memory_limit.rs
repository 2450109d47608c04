//! Memory that workers may hold: ends one that holds more of its own, and finds out whether the kernel has killed one for
//! want of memory. Called by `recycling` at each look of the watchdog, and by the supervisor; reads `/proc`.

use std::fs;
use std::time::Duration;

use fastmap_sandbox::MemoryGroup;

use crate::local::pool::state::PoolState;
use crate::model::death::{ExitReason, MemoryLimit};

/// How often memory is looked at. A function that fills fresh memory gets some 50 MB a look.
const LOOK: Duration = Duration::from_millis(20);
/// The same for each worker: to look at one takes some 10 µs, under the pool's lock.
const LOOK_EACH: Duration = Duration::from_micros(500);

/// Deaths that the kernel caused for want of memory, as far as they differ from other SIGKILLs.
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
        // One at a time, and not up to the kernel's count: others of these kills may have ended workers whose
        // exits are still to come.
        self.known += 1;
        Some(ExitReason::OutOfMemory(MemoryLimit::Shared(self.group.limit())))
    }
}

impl PoolState {
    /// How soon to look at the memory of workers, if at all.
    pub(super) fn memory_pause(&self) -> Option<Duration> {
        let looks = self.allowed.memory.is_some() && !self.runs.is_empty();
        looks.then(|| LOOK.max(LOOK_EACH * self.workers.len() as u32))
    }

    /// Ends workers that hold too much memory.
    pub(super) fn end_over_memory(&mut self) {
        // Only during maps: an idle pool would be woken every 20 ms for it.
        let Some(limit) = self.allowed.memory.filter(|_| !self.runs.is_empty()) else { return };
        for member in self.workers.iter_mut().filter(|member| !member.life.is_ending()) {
            let held = private_memory(member.pid());
            if held.is_some_and(|held| held > limit) {
                member.end_for(ExitReason::OutOfMemory(MemoryLimit::Worker(limit)), None);
            }
        }
    }
}

/// Bytes that a process alone holds in memory: not its program, and not what it shares with its host. `None` where
/// it is gone.
fn private_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    // Not by a limit of the system's: `setrlimit` counts address space, which says little, and makes an
    // allocation fail anywhere in the function.
    let mut pages = text.split_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_is_counted() {
        // More than all tests of this process hold together: others begin and end meanwhile.
        const BYTES: u64 = 256 << 20;
        let before = private_memory(std::process::id()).expect("this process is there");
        let bytes = std::hint::black_box(vec![1u8; BYTES as usize]);
        let after = private_memory(std::process::id()).expect("this process is there");
        assert!(before < BYTES && after >= BYTES, "{before} {after}");
        drop(bytes);
    }
}
