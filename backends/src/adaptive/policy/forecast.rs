//! What will be: how long the rest takes here, there and together. Pure arithmetic on the ledger.

use super::event::{Forecast, Side};
use super::{Link, Options, Policy};

/// Before an item is answered, the one that runs longest is taken to be through with so much of itself.
const HALFWAY: f64 = 2.0;

impl Policy {
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Items that are neither answered nor out. Of an input that does not tell its length, as many more are expected as were
    /// seen.
    pub(super) fn left(&self) -> f64 {
        let estimates = &self.state.estimates;
        let unseen = match self.state.items {
            Some(items) => items.saturating_sub(estimates.pulled),
            None if self.state.input_ended => 0,
            None => estimates.pulled,
        };
        (unseen + estimates.home()) as f64
    }

    /// Seconds that a local worker takes for an item.
    ///
    /// The short ones are answered first: until many are, what runs counts as well, as half done. Before the first answer
    /// that is all there is.
    pub(super) fn item_here(&self, now: f64) -> Option<f64> {
        let local = self.state.estimates.side(Side::Local);
        let censored = self.censored(Side::Local, now, self.options().starting);
        match (local.item.get(), censored) {
            (Some(mean), Some(censored)) if local.is_full() => Some(mean.max(censored)),
            (None, censored) => censored.or(self.state.estimates.side(Side::Cloud).item.get()),
            (mean, _) => mean,
        }
    }

    /// What a side's workers have spent so far, over what they have answered and half of what they run. The first batch
    /// takes `delay` to get there.
    pub(super) fn censored(&self, side: Side, now: f64, delay: f64) -> Option<f64> {
        let account = self.state.estimates.side(side);
        let since = now - account.begun? - delay;
        let spent = account.workers * since;
        if spent <= 0.0 || account.batches == 0 {
            return None;
        }
        let running =
            account.workers.min(account.batches as f64) / account.batches as f64 * account.items as f64;
        // Workers that never had work have not spent it.
        let spent = spent.min((account.answered as f64 + account.items as f64) * (since + delay));
        Some(spent / (account.answered as f64 + running / HALFWAY))
    }

    /// Seconds that the service's worker takes for an item: as a local one, until it is known better.
    pub(super) fn item_there(&self, here: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        // What is seen of few weighs less than what is seen of many here.
        match cloud.item.get() {
            Some(there) if cloud.item.seen() >= 8.0 => there,
            Some(there) => (there * cloud.item.seen() + here * (8.0 - cloud.item.seen())) / 8.0,
            None => here,
        }
    }

    /// Items a second of the local workers.
    pub(super) fn rate_here(&self, item: f64) -> f64 {
        self.state.estimates.side(Side::Local).workers / item.max(1e-9)
    }

    /// Items a second of the service, once they flow.
    pub(super) fn rate_there(&self, item: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let mut rate = cloud.workers / item.max(1e-9);
        if let Some(bytes) = self.state.estimates.item_bytes.get() {
            rate = rate.min(self.bandwidth() / bytes.max(1.0));
        }
        match cloud.rate_lately() {
            // What it does with all its workers at work is what it can.
            Some(seen) if cloud.is_full() => rate.min(seen * 1.1),
            _ => rate,
        }
    }

    /// Bytes a second to the service.
    pub(super) fn bandwidth(&self) -> f64 {
        self.state.bandwidth.unwrap_or(self.options().bandwidth)
    }

    /// Seconds from sending a batch to its answer, beside its work and what stands before it.
    pub(super) fn way(&self) -> f64 {
        let known = self.state.estimates.side(Side::Cloud).way;
        let asked = self.state.probe.map(|probe| probe.round_trip * 1.1 + 0.001);
        known.or(asked).unwrap_or(0.001)
    }

    /// Seconds until a batch of so many items that is sent to the service now is answered.
    pub(super) fn turnaround(&self, now: f64, items: f64, item: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let there = self.item_there(item);
        let mut way = self.way();
        if cloud.batches > 0 {
            // It says nothing any more: the way has become as long as the silence.
            let each = cloud.items as f64 / cloud.batches as f64 * there;
            way = way.max(now - cloud.heard - each);
        }
        // As long as what is out takes at the pace of its answers (Little's law), if there is one.
        let queued = match cloud.rate_lately() {
            Some(rate) => (cloud.items as f64 + items) / rate.max(1e-9),
            None => way + cloud.items as f64 / self.rate_there(there).max(1e-9),
        };
        let wire = cloud.bytes as f64 / self.bandwidth();
        (way + items * there).max(queued).max(way + wire + items * there)
    }

    /// Seconds until the local workers alone are through with so many items.
    pub(super) fn alone(&self, items: f64, item: f64) -> f64 {
        if items <= 0.0 {
            return 0.0;
        }
        let workers = self.state.estimates.side(Side::Local).workers.max(1.0);
        // The last round is half full, as a rule.
        items * item / workers + 0.5 * item * (1.0 - 1.0 / workers)
    }

    /// Seconds until batches can flow to the service, from now.
    fn ready_in(&self, now: f64) -> f64 {
        let round_trip = self.state.probe.map_or(0.001, |probe| probe.round_trip);
        let upload = |bytes: u64| bytes as f64 / self.bandwidth() + round_trip;
        match &self.state.link {
            Link::Unknown | Link::Probing => 2.0 * round_trip + self.options().opening,
            Link::Probed => {
                self.state
                    .probe
                    .map_or(0.0, |probe| if probe.upload > 0 { upload(probe.upload) } else { 0.0 })
                    + round_trip
                    + self.options().opening
            }
            Link::Opening { since, left } => {
                let waited = now - since;
                (upload(*left) + self.options().opening - waited).max(round_trip)
            }
            Link::Ready | Link::Left { .. } => 0.0,
        }
    }

    /// What the rest takes without the service, and with it. `None` while nothing is known.
    pub(super) fn forecast(&mut self, now: f64) -> Option<Forecast> {
        let here = self.item_here(now)?;
        let estimates = &self.state.estimates;
        let rest = self.left() + estimates.side(Side::Local).items as f64;
        let alone = self.alone(rest, here);
        let there = self.item_there(here);
        let delay = self.ready_in(now) + self.way();
        let workers = estimates.side(Side::Cloud).workers;
        let known = matches!(self.state.link, Link::Ready);
        // Until it says how many workers it has, it may have any number.
        let rate = if known { self.rate_there(there) } else { f64::INFINITY };
        let first = delay + there;
        if known && workers < 1.0 || first >= alone {
            return Some(Forecast { rest, alone, together: alone, credits: 0.0 });
        }
        let rate_here = self.rate_here(here);
        let flying = estimates.side(Side::Cloud).items as f64;
        let mut together = if rate.is_finite() {
            ((rest + flying + rate * delay) / (rate_here + rate) + 0.5 * there).max(first)
        } else {
            first
        };
        let each = self.cost(there);
        // No more may be read ahead than fits behind what the service has.
        together = together.max((rest + flying) / self.window_rate(now, here));
        let mut moved = (rest - rate_here * together).max(0.0);
        let affordable = self.affordable() / each.max(1e-15);
        if moved > affordable {
            moved = affordable;
            together = together.max(self.alone(rest - moved, here));
        }
        let together = together.min(alone);
        Some(Forecast { rest, alone, together, credits: moved * each })
    }

    /// Items a second that can be delivered in order while the service takes part: behind what it has, the others pile up.
    fn window_rate(&self, now: f64, here: f64) -> f64 {
        let estimates = &self.state.estimates;
        let result = estimates.side(Side::Local).result.get().unwrap_or(0.0);
        let bytes = estimates.item_bytes.get().unwrap_or(0.0) + result;
        self.options().read_ahead / bytes.max(1.0) / self.turnaround(now, 1.0, here)
    }

    /// Credits for an item in the service.
    pub(super) fn cost(&self, item: f64) -> f64 {
        let Some(probe) = self.state.probe else { return 0.0 };
        let there = self.state.estimates.side(Side::Cloud).result.get();
        let here = self.state.estimates.side(Side::Local).result.get();
        item * probe.cpu_second + there.or(here).unwrap_or(0.0) * probe.result_byte
    }

    /// Credits that can still be spent, beside what batches that are out will cost.
    pub(super) fn affordable(&self) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let out = cloud.items as f64 * cloud.item.get().map_or(0.0, |item| self.cost(item));
        self.state.probe.map_or(f64::INFINITY, |probe| probe.spendable) - self.state.spent - out
    }
}
