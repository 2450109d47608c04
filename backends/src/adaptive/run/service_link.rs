//! How far the service is, as the policy wants it: asked, prepared, ready, silent for a while, gone. What the service has
//! said since the last look becomes events of the policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::adaptive::policy::{Event, Link, Side, Step};
use crate::adaptive::quote::{FREE, probed};
use crate::adaptive::run::AdaptiveRun;
use crate::adaptive::summary;
use crate::adaptive::trace::Line;
use crate::model::error::BackendError;
use crate::{ItemCost, counted, in_credits};

/// A service of which nothing good was heard for so long is taken to stand still.
const SILENT: Duration = Duration::from_secs(3);
/// A service that has nothing and of which nothing good was heard for so long is left.
pub(super) const GONE: Duration = Duration::from_secs(120);
impl AdaptiveRun {
    /// Asks the policy about the service, and looks how far that is.
    pub(super) fn step(&mut self) {
        let at = self.now();
        self.look();
        let (step, forecast) = self.policy.step(at);
        self.next_step = Instant::now() + Duration::from_secs_f64(self.policy.pause(at));
        if step != Step::Stay {
            self.trace.line(|| Line::Step { at, step, forecast });
        }
        match step {
            Step::Stay => self.declined = Some(forecast),
            Step::Probe => {
                self.tell(|| format!("asking the service: {}", summary::forecast(&forecast)));
                match self.backend.open(Arc::clone(&self.job)) {
                    Ok(run) => self.sides.cloud = Some(run),
                    Err(error) => self.gone(&error),
                }
            }
            Step::Open => {
                self.tell(|| format!("opening a run in the service: {}", summary::forecast(&forecast)));
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

    /// What the service has said since.
    pub(super) fn look(&mut self) {
        let Some(cloud) = &mut self.sides.cloud else { return };
        if matches!(self.policy.link(), Link::Ready | Link::Left { .. }) {
            let silent = cloud.readiness().silent;
            return self.listen(silent);
        }
        if !matches!(self.policy.link(), Link::Probing | Link::Opening { .. }) {
            return;
        }
        let readiness = cloud.readiness();
        let workers = cloud.capacity().workers as u32;
        if *self.policy.link() == Link::Probing {
            if let Some(quote) = readiness.quote.or(readiness.ready.then_some(FREE)) {
                self.see(Event::Probed(probed(&quote)));
                self.tell(|| {
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
            self.tell(|| {
                format!("the service takes batches, with {}", counted(u64::from(workers), "worker"))
            });
        } else if readiness.upload_left != self.upload_left {
            self.upload_left = readiness.upload_left;
            self.see(Event::Uploading { left: readiness.upload_left });
        }
    }

    /// The service has given no answer of use for so long.
    fn listen(&mut self, silent: Duration) {
        // What it has is asked for, and that finds out by itself.
        if silent > GONE && self.in_flight.count(Side::Cloud) == 0 && *self.policy.link() == Link::Ready {
            let why = format!("no good answer from the service for {} s", silent.as_secs());
            return self.gone(&BackendError::Cloud(why, None));
        }
        match (self.policy.is_silent(), silent > SILENT) {
            (false, true) => {
                self.see(Event::Silent);
                self.tell(|| {
                    let seconds = silent.as_secs();
                    format!("no answer from the service for {seconds} s: what it has is done here as well")
                });
                self.rescue();
            }
            (true, false) => {
                self.see(Event::Heard);
                self.tell(|| "the service answers again".to_owned());
            }
            _ => {}
        }
    }

    /// The service is of no use any more: its batches come home.
    pub(super) fn gone(&mut self, error: &BackendError) {
        let why = format!("the service is not used any more, and the map goes on here: {error}");
        self.options.witness.left(&why);
        self.why = Some(error.to_string());
        self.see(Event::Gone { why: error.to_string() });
        self.sides.leave_cloud();
        for (batch, items, completions) in self.in_flight.withdraw_side(Side::Cloud) {
            self.see(Event::Back { batch, side: Side::Cloud, items, lost: false });
            self.hand_out(completions.into_iter().map(|completion| (Side::Local, completion)));
        }
    }
}
