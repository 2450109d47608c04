//! Reports of CPU time that workers have used beside batches, on their last way to the gateway that charges for it. Each
//! kind of dispatch has one such queue: agents' reports go in, the gateway takes them out and says what became of each.

use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};

/// Reports that wait to be charged; beyond that, agents wait to report.
const WAITING: usize = 256;

/// A report.
#[derive(Debug)]
pub struct Used {
    /// The run.
    pub run: String,
    /// CPU time.
    pub cpu: Duration,
    /// Answers whether the run is open and has paid.
    pub paid: oneshot::Sender<bool>,
}

/// The queue.
#[derive(Debug)]
pub struct Uses {
    sender: mpsc::Sender<Used>,
    receiver: Mutex<mpsc::Receiver<Used>>,
}

impl Default for Uses {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Uses { sender, receiver: Mutex::new(receiver) }
    }
}

impl Uses {
    /// Reports, and waits until it is charged. `None`: it can't be charged now.
    pub async fn report(&self, run: &str, cpu: Duration) -> Option<bool> {
        let (paid, answer) = oneshot::channel();
        self.sender.send(Used { run: run.to_owned(), cpu, paid }).await.ok()?;
        // The gateway drops a report that it can't charge now. Its agent reports it again.
        answer.await.ok()
    }

    /// The next report.
    pub async fn next(&self) -> Option<Used> {
        // One task of the gateway takes reports; the lock only allows it to do so through a shared reference.
        self.receiver.lock().await.recv().await
    }
}
