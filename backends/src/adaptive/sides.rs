//! The two runs of one map: that of this machine, which is there from the begin, and that of the service, which is opened
//! when the policy wants to ask it, and given up when it is of no use any more.

use std::sync::mpsc;
use std::time::Duration;

use super::in_flight::Cancel;
use super::policy::Side;
use crate::Run;
use crate::backend::SubmitError;
use crate::model::batch::Batch;
use crate::model::cost::Receipt;

/// The bill is waited for so long at the end of a map; what is known is reported if it takes longer.
const BILL: Duration = Duration::from_millis(20);

pub(super) struct Sides {
    pub(super) local: Box<dyn Run>,
    pub(super) cloud: Option<Box<dyn Run>>,
    /// What the service's run cost, once it is given up.
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

    /// Hands a batch to a side.
    ///
    /// # Errors
    /// If that takes none now, or is not there.
    pub(super) fn submit(&mut self, side: Side, batch: Batch) -> Result<(), SubmitError> {
        match self.of(side) {
            Some(run) => run.submit(batch),
            None => Err(SubmitError::Full(batch)),
        }
    }

    /// A side need not answer a batch any more.
    pub(super) fn cancel(&mut self, cancel: Cancel) {
        let Some(run) = self.of(cancel.side) else { return };
        for name in cancel.names {
            run.cancel(name);
        }
    }

    /// Gives the service's run up.
    pub(super) fn leave_cloud(&mut self) {
        if let Some(mut cloud) = self.cloud.take() {
            self.spent = cloud.cost_so_far();
        }
    }

    /// What the map has cost so far.
    pub(super) fn cost_so_far(&mut self) -> Receipt {
        match &mut self.cloud {
            Some(cloud) => cloud.cost_so_far(),
            None => self.spent,
        }
    }

    /// Ends both; what the map has cost. `paid`: the service has answered, and has nothing more. Its bill is waited for then,
    /// for a moment.
    pub(super) fn close(mut self, paid: bool) -> Receipt {
        let receipt = self.cost_so_far();
        // What no run waits for is cancelled, and not paid; a run that was never used is just given up.
        let Some(cloud) = self.cloud.take().filter(|_| paid) else { return receipt };
        let (bill, closed) = mpsc::channel();
        let closing = std::thread::Builder::new().name("fastmap-bill".to_owned());
        match closing.spawn(move || bill.send(cloud.close())) {
            Ok(_) => closed.recv_timeout(BILL).unwrap_or(receipt),
            Err(_) => receipt,
        }
    }
}
