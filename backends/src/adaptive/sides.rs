//! The two runs of one map. The local run exists from the start. The service's run is opened when the policy
//! wants to contact the service, and dropped when it is no longer useful.

use std::sync::mpsc;
use std::time::Duration;

use super::in_flight::Cancel;
use super::policy::Side;
use crate::Run;
use crate::backend::SubmitError;
use crate::model::batch::Batch;
use crate::model::cost::Receipt;

/// Maximum wait for the bill at the end of a map; after it, the known cost is reported.
const BILL_TIMEOUT: Duration = Duration::from_millis(20);

pub(super) struct Sides {
    pub(super) local: Box<dyn Run>,
    pub(super) cloud: Option<Box<dyn Run>>,
    /// Cost of the service's run, once it was dropped.
    spent: Receipt,
}

impl Sides {
    pub(super) fn new(local: Box<dyn Run>) -> Sides {
        Sides { local, cloud: None, spent: Receipt::default() }
    }

    fn of(&mut self, side: Side) -> Option<&mut Box<dyn Run>> {
        match side {
            Side::Local => Some(&mut self.local),
            Side::Cloud => self.cloud.as_mut(),
        }
    }

    /// Submits a batch to a side.
    ///
    /// # Errors
    /// If that side accepts no batch now, or does not exist.
    pub(super) fn submit(&mut self, side: Side, batch: Batch) -> Result<(), SubmitError> {
        match self.of(side) {
            Some(run) => run.submit(batch),
            None => Err(SubmitError::Full(batch)),
        }
    }

    /// Cancels a batch on a side.
    pub(super) fn cancel(&mut self, cancel: Cancel) {
        let Some(run) = self.of(cancel.side) else { return };
        for name in cancel.names {
            run.cancel(name);
        }
    }

    /// Drops the service's run.
    pub(super) fn leave_cloud(&mut self) {
        if let Some(mut cloud) = self.cloud.take() {
            self.spent = cloud.cost_so_far();
        }
    }

    /// Cost of the map so far.
    pub(super) fn cost_so_far(&mut self) -> Receipt {
        match &mut self.cloud {
            Some(cloud) => cloud.cost_so_far(),
            None => self.spent,
        }
    }

    /// Ends both runs; returns the cost of the map. `paid`: the service has answered, and has no batches
    /// left. Then its bill is awaited for a moment (`BILL_TIMEOUT`).
    pub(super) fn close(mut self, paid: bool) -> Receipt {
        let receipt = self.cost_so_far();
        // Dropping the run cancels its unneeded batches, which are not paid, or closes a run that was never
        // used.
        let Some(cloud) = self.cloud.take().filter(|_| paid) else { return receipt };
        let (bill, closed) = mpsc::channel();
        let closing = std::thread::Builder::new().name("fastmap-bill".to_owned());
        match closing.spawn(move || bill.send(cloud.close())) {
            Ok(_) => closed.recv_timeout(BILL_TIMEOUT).unwrap_or(receipt),
            Err(_) => receipt,
        }
    }
}
