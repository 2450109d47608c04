//! Hands the death of a worker from the supervisor to the thread that reads its answers.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::output::quota::Quota;
use crate::model::death::WorkerExit;

/// What the supervisor and a reader know of each other: the death of the worker, and how to wake the reader.
#[derive(Debug)]
pub(crate) struct ExitLatch {
    state: Mutex<LatchState>,
    closed: Condvar,
    /// Bytes of refused calls that it has reported.
    pub(crate) refusals: AtomicU64,
    /// What of its lines and records is passed on; `None`: all.
    pub(crate) quota: Option<Quota>,
}

/// What the reader waits for: first the handshake, then packets, at last the death. Each may be the end of the worker.
#[derive(Debug)]
enum LatchState {
    /// Where its handshake is awaited.
    Awaiting(Arc<Rendezvous>),
    /// The handshake is awaited no more.
    Open,
    Closed(WorkerExit),
}

impl ExitLatch {
    fn lock(&self) -> MutexGuard<'_, LatchState> {
        self.state.lock_unpoisoned()
    }

    /// That of a worker whose handshake is awaited there, and of which so many bytes of output are passed on.
    pub(crate) fn new(server: Arc<Rendezvous>, output: Option<u64>) -> ExitLatch {
        ExitLatch {
            state: Mutex::new(LatchState::Awaiting(server)),
            closed: Condvar::new(),
            refusals: AtomicU64::new(0),
            quota: output.map(|most| Quota::new(most, Instant::now())),
        }
    }

    /// Supervisor: the worker is dead. Its reader receives what it has sent, and no more: another process may
    /// have its end of the channel.
    pub(crate) fn close(&self, death: WorkerExit, page: &SharedPage) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, LatchState::Closed(death));
        self.closed.notify_all();
        // After the state has changed: the reader that is woken by an end looks there for its cause.
        page.channel.end();
        if let LatchState::Awaiting(server) = before {
            server.end();
        }
    }

    /// Reader: the handshake is awaited no more.
    pub(crate) fn on_admitted(&self) {
        let mut state = self.lock();
        // A death that was reported meanwhile stays. The latch's share of the socket goes, so that the folder
        // is removed with the last one.
        if let LatchState::Awaiting(_) = *state {
            *state = LatchState::Open;
        }
    }

    /// Whether the worker's handshake has come, or is not awaited any more.
    pub(crate) fn has_connected(&self) -> bool {
        !matches!(*self.lock(), LatchState::Awaiting(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*self.lock(), LatchState::Closed(_))
    }

    /// Waits for the death; gives up after `most`.
    pub(crate) fn wait(&self, most: Duration) -> Option<WorkerExit> {
        let open = |state: &mut LatchState| !matches!(state, LatchState::Closed(_));
        let waited = self.closed.wait_timeout_while(self.lock(), most, open);
        match &*waited.unwrap_or_else(PoisonError::into_inner).0 {
            LatchState::Closed(death) => Some(death.clone()),
            LatchState::Awaiting(_) | LatchState::Open => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::ipc::handshake::HandshakeError;
    use crate::local::ipc::peer_credentials::admit;
    use crate::model::death::ExitReason;

    fn latch() -> (Arc<ExitLatch>, Arc<Rendezvous>) {
        let server = Arc::new(Rendezvous::new().expect("a temporary folder"));
        (Arc::new(ExitLatch::new(Arc::clone(&server), None)), server)
    }

    fn death() -> WorkerExit {
        let (worker, cause) = ("worker-1".to_owned(), ExitReason::Exit(3));
        WorkerExit { worker, pid: 1, cause, refused: None, stderr: Vec::new() }
    }

    #[test]
    fn a_death_ends_the_wait_for_the_handshake_and_that_for_packets_and_stays() {
        let ((latch, server), (page, stdin)) = (latch(), SharedPage::create().expect("a page"));
        assert!(!latch.has_connected() && !latch.is_closed());
        let (admitted, packet, waited) = std::thread::scope(|scope| {
            let admitted = scope.spawn(|| admit(&server, std::process::id(), false).map(drop));
            let packet = scope.spawn(|| page.channel.packet(&mut Vec::new(), None));
            let waited = scope.spawn(|| latch.wait(Duration::from_mins(1)));
            latch.close(death(), &page);
            (admitted.join(), packet.join(), waited.join())
        });
        assert!(matches!(admitted.expect("no panic"), Err(HandshakeError::Ended)));
        assert!(matches!(packet.expect("no panic"), Ok(None)), "the worker's end is open");
        assert_eq!(waited.expect("no panic"), Some(death()));
        latch.on_admitted();
        assert!(latch.has_connected() && latch.is_closed());
        assert_eq!(latch.wait(Duration::ZERO), Some(death()));
        drop(stdin);
    }

    #[test]
    fn a_worker_that_has_connected_lives_until_its_death() {
        let ((latch, _server), (page, _stdin)) = (latch(), SharedPage::create().expect("a page"));
        latch.on_admitted();
        assert!(latch.has_connected() && !latch.is_closed());
        assert_eq!(latch.wait(Duration::ZERO), None);
        latch.close(death(), &page);
        assert!(latch.is_closed());
    }
}
