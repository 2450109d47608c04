//! The thread that looks after the worker processes: it has them started (`spawn`), reads what they print, and is
//! woken by the kernel when one dies.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::local::cores;
use crate::local::ipc::rendezvous;
use crate::local::output::delivery::Output;
use crate::local::output::pipe::Stream;
use crate::local::output::queue::OutputQueue;
use crate::local::output::quota::Quota;
use crate::local::output::repeats::Repeats;
use crate::local::output::settle::Settling;
use crate::local::pool::errands::Errands;
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::memory_limit::MemoryKills;
use crate::local::pool::supervisor_api::Round;
use crate::local::process::exit_latch::ExitLatch;
use crate::local::process::spawn::spawn_requested;
use crate::local::process::watched::Watched;
use crate::local::signals::block_signals;
use crate::model::death::{ExitReason, Running, WorkerExit};

/// Bytes of one pipe that are passed on before the others get their turn.
const TURN: usize = 256 * 1024;
/// The kernel's count of memory kills is read when the first workers are up: it takes 0.1 ms of a core that they need.
const COUNT_KILLS: Duration = Duration::from_millis(20);

/// Runs until the pool closes and its last worker is dead.
pub(crate) fn supervise(shared: &Arc<PoolHandle>) {
    block_signals();
    cores::take_back();
    // Without a thread for lines, this one calls the relay: a map that the relay runs must not wait for it at
    // its end.
    Output::passes_on();
    let mut watched: Vec<Watched> = Vec::new();
    let mut lines = output_queue(shared);
    let mut marks = Marks::default();
    let mut repeats = Repeats::default();
    let mut first_start: Option<Instant> = None;
    let mut memory_kills = None;
    let mut last_look = Instant::now();
    loop {
        let now = Instant::now();
        // Looked at before the round, which takes the pool's lock: a look at a pipe is two system calls.
        let unread = unread(&watched, lines.have_room());
        let round = shared.on_round(&unread, now.duration_since(last_look), now);
        let Round { errands, closing, starting, given_up, maps, wanted_mark, mut pause } = round;
        last_look = now;
        // The pool's lock is free from here on: starts, lines and exits take files, descriptors and the user's relay.
        let Errands { mut arrived, deferred_close, warnings } = errands;
        watched.append(&mut arrived);
        // A start that is under way brings one more worker, and its process must not be left alone.
        if closing && watched.is_empty() && starting == 0 {
            break;
        }
        let begun = spawn_requested(shared);
        // After the starts, which a map may be waiting for.
        drop(deferred_close);
        repeats.open(maps, &mut lines);
        for warning in warnings {
            lines.put(&Arc::from("fastmap"), Stream::Stderr, warning.into_bytes());
        }
        marks.set(wanted_mark, shared, &mut watched, &mut repeats, &mut lines);
        let mut within = |most: Duration| pause = Some(pause.map_or(most, |pause| pause.min(most)));
        let kept_back = watched.iter_mut().filter_map(|worker| worker.look(now, &mut lines)).min();
        let paused = watched.iter().filter_map(|worker| worker.paused?.checked_duration_since(now)).min();
        if let Some(again) = paused {
            within(again);
        }
        if let Some(again) = kept_back.into_iter().chain(repeats.look(now, &mut lines)).min() {
            within(again);
        }
        if begun {
            // What was started may have to be looked after by the clock.
            within(Duration::from_secs(1));
        }
        // The first may have come before this thread did.
        if begun || starting > 0 || !watched.is_empty() {
            first_start.get_or_insert(now);
        }
        if first_start.is_some() && memory_kills.is_none() {
            within(COUNT_KILLS);
        }
        shared.output.keep(repeats.holds_some() || watched.iter().any(Watched::holds_some));
        let news = wait(shared, &watched, lines.have_room(), pause);
        if news.contains(&true) {
            shared.output.keep(true);
        }
        if memory_kills.is_none() && first_start.is_some_and(|begun| begun.elapsed() >= COUNT_KILLS) {
            memory_kills = Some(MemoryKills::new());
        }
        // From the back, because those that are gone are taken out.
        for index in (0..watched.len()).rev() {
            if given_up.contains(&watched[index].id) && !watched[index].is_dead() {
                watched.swap_remove(index).give_up(shared);
                continue;
            }
            if !news[index] {
                continue;
            }
            // Before the exit is looked for: the lines of a worker stand before what is said of its death.
            watched[index].pass_on(shared, &mut lines, &repeats);
            if watched[index].is_dead() {
                let kills = memory_kills.as_mut();
                watched.swap_remove(index).reap(shared, &mut lines, &mut repeats, kills);
            }
        }
    }
    repeats.tell(&mut lines);
    // Each ends by itself: its worker is dead, and its latch is closed.
    for thread in shared.take_threads() {
        drop(thread.join());
    }
    drop(lines);
    shared.output.end();
}

fn output_queue(shared: &PoolHandle) -> OutputQueue {
    OutputQueue::new(Arc::clone(&shared.output), Arc::clone(&shared.options.relay), Arc::clone(shared.wake()))
}

/// Workers that may wait for this process to read what they print. `room`: there is room for more lines, and so they are
/// read.
fn unread(watched: &[Watched], room: bool) -> Vec<u64> {
    watched.iter().filter(|worker| !room && worker.waits_to_be_read()).map(|worker| worker.id).collect()
}

/// The marks behind lines that a wait for them needs, see `settle`.
#[derive(Debug, Default)]
struct Marks {
    settling: Option<Settling>,
    last: u64,
}

impl Marks {
    /// Begins to read for the mark that is wanted, and sets it once all is read.
    fn set(
        &mut self,
        wanted: u64,
        shared: &PoolHandle,
        watched: &mut [Watched],
        repeats: &mut Repeats,
        lines: &mut OutputQueue,
    ) {
        if self.settling.is_none() && wanted > self.last {
            self.settling = Some(Settling::begin(wanted, watched));
        }
        let Some(mark) = self.settling.as_ref().and_then(|settling| settling.through(watched)) else {
            return;
        };
        let now = Instant::now();
        for worker in watched {
            worker.settle(now, lines);
        }
        // Before the mark: the end of a map waits for the mark, and what is kept back of its lines must be
        // written by then.
        repeats.tell(lines);
        lines.mark(mark);
        (self.settling, self.last) = (None, mark);
        if wanted > mark {
            // It was asked for while this one was read for.
            shared.wake_supervisor();
        }
    }
}

/// Waits until a worker prints (if it is to be read) or dies, another thread wakes this one, or `pause` is
/// over. Returns for each worker whether it has printed something or is dead.
fn wait(shared: &PoolHandle, watched: &[Watched], read: bool, pause: Option<Duration>) -> Vec<bool> {
    let mut fds = vec![
        PollFd::new(shared.wake().as_fd(), PollFlags::POLLIN),
        PollFd::new(shared.timer().as_fd(), PollFlags::POLLIN),
    ];
    let mut owners = vec![usize::MAX; fds.len()];
    let now = Instant::now();
    // A process that was reaped before it could be opened is news by itself.
    let mut news: Vec<bool> = watched.iter().map(|worker| worker.pidfd.is_none()).collect();
    for (index, worker) in watched.iter().enumerate() {
        // A pipe that is not to be read is not polled either: it would be ready at each call, and this thread
        // would never sleep.
        let read = read && worker.paused.is_none_or(|until| until <= now);
        let open: [Option<BorrowedFd<'_>>; 3] = [
            worker.pidfd.as_ref().map(AsFd::as_fd),
            worker.stdout.open().filter(|_| read).map(AsFd::as_fd),
            worker.stderr.open().filter(|_| read).map(AsFd::as_fd),
        ];
        for fd in open.into_iter().flatten() {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
            owners.push(index);
        }
    }
    let timeout = match pause {
        _ if news.contains(&true) => PollTimeout::ZERO,
        // poll counts in milliseconds: round up, or a short pause would spin.
        Some(pause) => PollTimeout::try_from(pause.as_micros().div_ceil(1000).min(60_000) as u32)
            .unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    // Interrupted or out of memory: look around as if something had happened.
    let all = poll(&mut fds, timeout).is_err();
    for (fd, owner) in fds.iter().zip(owners).skip(2) {
        news[owner] |= all || fd.any().unwrap_or(true);
    }
    // After the poll, and before the next round takes the lock: what is decided from here on wakes this thread again.
    let _empty = shared.wake().read();
    let fired = fds[1].any().unwrap_or(true);
    if fired {
        // It does not wait: it has fired, or does not block.
        let _again = shared.timer().wait();
    }
    news
}

/// Passes a line on, as far as its worker's quota goes, unless the process exits: then workers on their way
/// find no socket, and say so.
fn tell(lines: &mut OutputQueue, latch: &ExitLatch, worker: &Arc<str>, stream: Stream, line: Vec<u8>) {
    if rendezvous::is_over() {
        return;
    }
    if let Some(quota) = &latch.quota {
        if !quota.admits(line.len(), Instant::now()) {
            return;
        }
        tell_what_is_left_out(lines, quota, worker);
    }
    lines.put(worker, stream, line);
}

fn tell_what_is_left_out(lines: &mut OutputQueue, quota: &Quota, worker: &Arc<str>) {
    if let Some(notice) = quota.notice() {
        lines.put(worker, Stream::Stderr, notice);
    }
}

impl Watched {
    /// Passes on what was kept back of its lines, if it lives on; returns when to look again.
    fn look(&mut self, now: Instant, lines: &mut OutputQueue) -> Option<Duration> {
        let Watched { name, page, words, latch, .. } = self;
        words.look(now, page, &mut |line| tell(lines, latch, name, Stream::Stderr, line))
    }

    /// Passes on what it has printed without the end of a line, if it runs no item that may go on with it.
    fn settle(&mut self, now: Instant, lines: &mut OutputQueue) {
        self.look(now, lines);
        if matches!(self.page.running(), None | Some((_, Running::Unknown))) {
            let Watched { name, stdout, stderr, latch, .. } = self;
            stdout.end_line(&mut |stream, line| tell(lines, latch, name, stream, line));
            stderr.end_line(&mut |stream, line| tell(lines, latch, name, stream, line));
            if let Some(quota) = &latch.quota {
                tell_what_is_left_out(lines, quota, name);
            }
        }
    }

    /// Whether something is kept back of what it has printed.
    fn holds_some(&self) -> bool {
        let untold = self.latch.quota.as_ref().is_some_and(Quota::holds_some);
        untold || self.stdout.holds_some() || self.stderr.holds_some() || self.words.holds_some()
    }

    fn pass_on(&mut self, shared: &PoolHandle, lines: &mut OutputQueue, repeats: &Repeats) {
        let now = Instant::now();
        if self.paused.is_some_and(|until| until > now) {
            return;
        }
        self.paused = None;
        let Watched { name, pid, stdout, stderr, latch, page, words, paused, .. } = self;
        if let Some(quota) = latch.quota.as_ref().filter(|quota| quota.is_used_up(now)) {
            if !latch.has_connected() {
                // It is no program of ours, and never will.
                let limit = shared.options.output.unwrap_or_default();
                return shared.end_for(self.id, ExitReason::OutputLimit(limit));
            }
            let left_out = [stdout.leave_out(TURN), stderr.leave_out(TURN)];
            quota.leave_out(left_out.iter().map(|(_, lines)| lines).sum());
            let bytes: usize = left_out.iter().map(|(bytes, _)| bytes).sum();
            *paused = Some(now + Quota::pause(bytes as u64));
            // Something has moved, so that the end of a map which waits for what is behind the flood does not
            // give up.
            shared.output.left_out();
            return;
        }
        if lines.have_room() {
            stdout.pass_on(TURN, &mut |stream, line| tell(lines, latch, name, stream, line));
        }
        if lines.have_room() {
            let mut out = |line| tell(lines, latch, name, Stream::Stderr, line);
            stderr.pass_on(TURN, &mut |_, line| words.line(repeats, page, *pid, line, &mut out));
        }
    }

    /// Whether a write to one of its pipes may wait.
    fn waits_to_be_read(&self) -> bool {
        self.stdout.may_be_full() || self.stderr.may_be_full()
    }

    /// Counts the worker among the dead though its process may live on, which nothing can end.
    fn give_up(self, shared: &PoolHandle) {
        let Watched { id, name, pid, page, latch, .. } = self;
        log::error!(
            "{name} (process {pid}) can't be ended: this process may not, and the worker does not end itself"
        );
        // Before the latch is closed: the reader takes the reason from the pool when it deals with the death.
        shared.end_for(id, ExitReason::Unknown);
        let death = WorkerExit {
            worker: name.to_string(),
            pid,
            cause: ExitReason::Unknown,
            refused: None,
            stderr: Vec::new(),
        };
        latch.close(death, &page);
    }

    fn is_dead(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Takes the exit status and the last output, and reports to the reader, which ends with the rest of the channel.
    fn reap(
        mut self,
        shared: &PoolHandle,
        lines: &mut OutputQueue,
        repeats: &mut Repeats,
        kills: Option<&mut MemoryKills>,
    ) {
        // The handle stays in the pool until the reader has dealt with what the worker had sent. A kill that comes
        // meanwhile reaches no other process: std signals no child that was waited for.
        let cause = match (shared.reap(self.id), &mut self.guard) {
            (Some(Ok(status)), Some(guard)) => guard.exit_reason(status),
            (Some(Ok(status)), None) => match cause_of(status) {
                ExitReason::Signal(libc::SIGKILL) => {
                    kills.and_then(MemoryKills::judge).unwrap_or(ExitReason::Signal(libc::SIGKILL))
                }
                cause => cause,
            },
            _ => ExitReason::Unknown,
        };
        let (name, page, latch, mut words) = (self.name, self.page, self.latch, self.words);
        self.stdout.finish(&mut |stream, line| tell(lines, &latch, &name, stream, line));
        let mut out = |line| tell(lines, &latch, &name, Stream::Stderr, line);
        let stderr = self.stderr.finish(&mut |_, line| words.line(repeats, &page, self.pid, line, &mut out));
        let lethal = cause != ExitReason::Exit(0);
        words.end(repeats, lethal, &mut out);
        if let Some(quota) = &latch.quota {
            tell_what_is_left_out(lines, quota, &name);
        }
        let death = WorkerExit { worker: name.to_string(), pid: self.pid, cause, refused: None, stderr };
        // Last: with it the reader may end the map, and the lines that the worker has written must be queued by then.
        latch.close(death, &page);
    }
}

fn cause_of(status: std::process::ExitStatus) -> ExitReason {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReason::Exit(code),
        (None, Some(signal)) => ExitReason::Signal(signal),
        (None, None) => ExitReason::Unknown,
    }
}
