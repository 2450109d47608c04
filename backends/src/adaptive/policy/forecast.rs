//! Forecasts of the remaining time: locally, at the service, and together. Pure arithmetic on the estimates.

use super::event::{Forecast, Side};
use super::{Link, Options, Policy};

/// A running item counts as 1/2 answered in estimates of the item time.
const RUNNING_DIVISOR: f64 = 2.0;

impl Policy {
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Items that are neither answered nor in flight. For an input of unknown length, as many more are
    /// expected as were seen.
    pub(super) fn left(&self) -> f64 {
        let estimates = &self.state.estimates;
        let unseen = match self.state.items {
            Some(items) => items.saturating_sub(estimates.pulled),
            None if self.state.input_ended => 0,
            None => estimates.pulled,
        };
        (unseen + estimates.returned()) as f64
    }

    /// Seconds per item on a local worker.
    ///
    /// Short items are answered first. Until many are answered, running items count as half done, too. Before
    /// the first answer they are the only data.
    pub(super) fn local_item_time(&self, now: f64) -> Option<f64> {
        let local = self.state.estimates.side(Side::Local);
        let censored = self.censored_item_time(Side::Local, now, self.options().starting);
        match (local.item.get(), censored) {
            (Some(mean), Some(censored)) if local.is_full() => Some(mean.max(censored)),
            (None, censored) => censored.or(self.state.estimates.side(Side::Cloud).item.get()),
            (mean, _) => mean,
        }
    }

    /// Time spent by a side's workers so far, divided by the items answered and half of those running. The
    /// first batch takes `delay` to arrive.
    pub(super) fn censored_item_time(&self, side: Side, now: f64, delay: f64) -> Option<f64> {
        let stats = self.state.estimates.side(side);
        let since = now - stats.begun? - delay;
        let spent = stats.workers * since;
        if spent <= 0.0 || stats.batches == 0 {
            return None;
        }
        let running = stats.workers.min(stats.batches as f64) / stats.batches as f64 * stats.items as f64;
        // Workers that never had a batch have spent no time.
        let spent = spent.min((stats.answered as f64 + stats.items as f64) * (since + delay));
        Some(spent / (stats.answered as f64 + running / RUNNING_DIVISOR))
    }

    /// Seconds per item on a worker of the service: the local time until enough is measured.
    pub(super) fn cloud_item_time(&self, local_item: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        // A few answers there weigh less than many local ones.
        match cloud.item.get() {
            Some(cloud_item) if cloud.item.seen() >= 8.0 => cloud_item,
            Some(cloud_item) => {
                (cloud_item * cloud.item.seen() + local_item * (8.0 - cloud.item.seen())) / 8.0
            }
            None => local_item,
        }
    }

    /// Items per second of the local workers.
    pub(super) fn local_rate(&self, item: f64) -> f64 {
        self.state.estimates.side(Side::Local).workers / item.max(1e-9)
    }

    /// Items per second of the service, once they flow.
    pub(super) fn cloud_rate(&self, item: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let mut rate = cloud.workers / item.max(1e-9);
        if let Some(bytes) = self.state.estimates.item_bytes.get() {
            rate = rate.min(self.bandwidth() / bytes.max(1.0));
        }
        match cloud.recent_rate() {
            // The rate with all its workers busy is its limit.
            Some(seen) if cloud.is_full() => rate.min(seen * 1.1),
            _ => rate,
        }
    }

    /// Upload rate to the service, in bytes per second.
    pub(super) fn bandwidth(&self) -> f64 {
        self.state.bandwidth.unwrap_or(self.options().bandwidth)
    }

    /// Seconds from sending a batch to its answer, without its work and its time in queues.
    pub(super) fn latency(&self) -> f64 {
        let known = self.state.estimates.side(Side::Cloud).way;
        let asked = self.state.probe.map(|probe| probe.round_trip * 1.1 + 0.001);
        known.or(asked).unwrap_or(0.001)
    }

    /// Seconds until a batch of this many items, sent to the service now, is answered.
    pub(super) fn turnaround(&self, now: f64, items: f64, item: f64) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let cloud_item = self.cloud_item_time(item);
        let mut latency = self.latency();
        if cloud.batches > 0 {
            // If the service is silent, the latency is at least the length of the silence.
            let each = cloud.items as f64 / cloud.batches as f64 * cloud_item;
            latency = latency.max(now - cloud.heard - each);
        }
        // Time for all items in flight at the recent rate of answers (Little's law), if known.
        let queued = match cloud.recent_rate() {
            Some(rate) => (cloud.items as f64 + items) / rate.max(1e-9),
            None => latency + cloud.items as f64 / self.cloud_rate(cloud_item).max(1e-9),
        };
        let wire = cloud.bytes as f64 / self.bandwidth();
        (latency + items * cloud_item).max(queued).max(latency + wire + items * cloud_item)
    }

    /// Seconds until the local workers alone have finished this many items.
    pub(super) fn alone(&self, items: f64, item: f64) -> f64 {
        if items <= 0.0 {
            return 0.0;
        }
        let workers = self.state.estimates.side(Side::Local).workers.max(1.0);
        // The last round is half full on average.
        items * item / workers + 0.5 * item * (1.0 - 1.0 / workers)
    }

    /// Seconds from now until batches can flow to the service.
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

    /// Predicts the remaining time without the service, and with it. `None` without any measurement.
    pub(super) fn forecast(&mut self, now: f64) -> Option<Forecast> {
        let local_item = self.local_item_time(now)?;
        let estimates = &self.state.estimates;
        let rest = self.left() + estimates.side(Side::Local).items as f64;
        let alone = self.alone(rest, local_item);
        let cloud_item = self.cloud_item_time(local_item);
        let delay = self.ready_in(now) + self.latency();
        let workers = estimates.side(Side::Cloud).workers;
        let known = matches!(self.state.link, Link::Ready);
        // Until the service reports its number of workers, assume no limit.
        let rate = if known { self.cloud_rate(cloud_item) } else { f64::INFINITY };
        let first = delay + cloud_item;
        if known && workers < 1.0 || first >= alone {
            return Some(Forecast { rest, alone, together: alone, credits: 0.0 });
        }
        let local_rate = self.local_rate(local_item);
        let in_flight = estimates.side(Side::Cloud).items as f64;
        let mut together = if rate.is_finite() {
            ((rest + in_flight + rate * delay) / (local_rate + rate) + 0.5 * cloud_item).max(first)
        } else {
            first
        };
        let each = self.cost(cloud_item);
        // `read_ahead` limits the items after those in flight at the service.
        together = together.max((rest + in_flight) / self.window_rate(now, local_item));
        let mut moved = (rest - local_rate * together).max(0.0);
        let affordable = self.affordable() / each.max(1e-15);
        if moved > affordable {
            moved = affordable;
            together = together.max(self.alone(rest - moved, local_item));
        }
        let together = together.min(alone);
        Some(Forecast { rest, alone, together, credits: moved * each })
    }

    /// Items per second that can be delivered in order while the service takes part: results after its items
    /// pile up.
    fn window_rate(&self, now: f64, local_item: f64) -> f64 {
        let estimates = &self.state.estimates;
        let result = estimates.side(Side::Local).result.get().unwrap_or(0.0);
        let bytes = estimates.item_bytes.get().unwrap_or(0.0) + result;
        self.options().read_ahead / bytes.max(1.0) / self.turnaround(now, 1.0, local_item)
    }

    /// Credits for an item at the service.
    pub(super) fn cost(&self, item: f64) -> f64 {
        let Some(probe) = self.state.probe else { return 0.0 };
        let cloud_result = self.state.estimates.side(Side::Cloud).result.get();
        let local_result = self.state.estimates.side(Side::Local).result.get();
        item * probe.cpu_second + cloud_result.or(local_result).unwrap_or(0.0) * probe.result_byte
    }

    /// Credits that can still be spent, minus the expected cost of the batches in flight.
    pub(super) fn affordable(&self) -> f64 {
        let cloud = self.state.estimates.side(Side::Cloud);
        let out = cloud.items as f64 * cloud.item.get().map_or(0.0, |item| self.cost(item));
        self.state.probe.map_or(f64::INFINITY, |probe| probe.spendable) - self.state.spent - out
    }
}
