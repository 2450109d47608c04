//! Connection to the service, driven by the policy: contacted, prepared, ready, silent for a while, left.
//! Status changes of the service become events of the policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::policy::{Event, Link, Side, Step};
use crate::adaptive::quote::{FREE, to_probe};
use crate::adaptive::run::AdaptiveRun;
use crate::adaptive::summary;
use crate::adaptive::trace::Line;
use crate::model::error::BackendError;
use crate::{ItemCost, counted, in_credits};

/// After this time without a valid answer, the service is treated as stalled.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// After this time without a valid answer, a service without batches is left.
pub(super) const GIVE_UP_LIMIT: Duration = Duration::from_secs(120);
impl AdaptiveRun {
    /// Asks the policy about the service, and polls the service's status.
    pub(super) fn step(&mut self) {
        let at = self.now();
        self.poll_readiness();
        let (step, forecast) = self.policy.step(at);
        self.next_step = Instant::now() + Duration::from_secs_f64(self.policy.pause(at));
        if step != Step::Stay {
            self.trace.line(|| Line::Step { at, step, forecast });
        }
        match step {
            Step::Stay => self.declined = Some(forecast),
            Step::Probe => {
                self.notify(|| format!("asking the service: {}", summary::forecast(&forecast)));
                match self.backend.open(Arc::clone(&self.job)) {
                    Ok(run) => self.sides.cloud = Some(run),
                    Err(error) => self.leave_service(&error),
                }
            }
            Step::Open => {
                self.notify(|| format!("opening a run in the service: {}", summary::forecast(&forecast)));
                let (items, cpu, bytes) = self.cost;
                let seen = u32::try_from(items).ok().filter(|items| *items > 0).map(|count| ItemCost {
                    items,
                    cpu: cpu / count,
                    result_bytes: bytes as f64 / items as f64,
                });
                if let Some(cloud) = &mut self.sides.cloud {
                    cloud.prepare(seen);
                }
            }
            Step::Leave => {}
        }
    }

    /// Polls the service's status, and records changes as events.
    pub(super) fn poll_readiness(&mut self) {
        let Some(cloud) = &mut self.sides.cloud else { return };
        if matches!(self.policy.link(), Link::Ready | Link::Left { .. }) {
            let silent = cloud.readiness().silent;
            return self.check_silence(silent);
        }
        if !matches!(self.policy.link(), Link::Probing | Link::Opening { .. }) {
            return;
        }
        let readiness = cloud.readiness();
        let workers = cloud.capacity().workers as u32;
        if *self.policy.link() == Link::Probing {
            if let Some(quote) = readiness.quote.or(readiness.ready.then_some(FREE)) {
                self.see(Event::Probed(to_probe(&quote)));
                self.notify(|| {
                    format!(
                        "the service is {:.1} ms away, {} bytes are to be uploaded, {} can be spent",
                        quote.round_trip.as_secs_f64() * 1e3,
                        quote.upload,
                        in_credits(quote.spendable)
                    )
                });
            }
        } else if readiness.ready {
            self.see(Event::Ready { workers });
            self.notify(|| {
                format!("the service takes batches, with {}", counted(u64::from(workers), "worker"))
            });
        } else if readiness.upload_left != self.upload_left {
            self.upload_left = readiness.upload_left;
            self.see(Event::Uploading { left: readiness.upload_left });
        }
    }

    /// Handles a time without valid answers from the service.
    fn check_silence(&mut self, silent: Duration) {
        // If it has batches, their requests detect a dead service by themselves.
        if silent > GIVE_UP_LIMIT
            && self.in_flight.count(Side::Cloud) == 0
            && *self.policy.link() == Link::Ready
        {
            let why = format!("no good answer from the service for {} s", silent.as_secs());
            return self.leave_service(&BackendError::Cloud(why, None));
        }
        match (self.policy.is_silent(), silent > SILENCE_LIMIT) {
            (false, true) => {
                self.see(Event::Silent);
                self.notify(|| {
                    let seconds = silent.as_secs();
                    format!("no answer from the service for {seconds} s: what it has is done here as well")
                });
                self.copy_silent_batches();
            }
            (true, false) => {
                self.see(Event::Heard);
                self.notify(|| "the service answers again".to_owned());
            }
            _ => {}
        }
    }

    /// Leaves the service; its batches return to this machine.
    pub(super) fn leave_service(&mut self, error: &BackendError) {
        let why = format!("the service is not used any more, and the map goes on here: {error}");
        self.options.witness.left(&why);
        self.left_because = Some(error.to_string());
        self.see(Event::Gone { why: error.to_string() });
        self.sides.leave_cloud();
        for (batch, items, completions) in self.in_flight.withdraw_side(Side::Cloud) {
            self.see(Event::Back { batch, side: Side::Cloud, items, lost: false });
            self.deliver(completions.into_iter().map(|completion| (Side::Local, completion)));
        }
    }
}
