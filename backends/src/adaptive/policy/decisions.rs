//! The state of the policy and its decisions.

use serde::{Deserialize, Serialize};

use crate::adaptive::policy::estimates::Estimates;
use crate::adaptive::policy::event::{Event, Forecast, Probe, Repeat, Side, Step};
use crate::split_after_crash::PARTS;

/// Tuning parameters of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Minimum relative gain: the service is used only if the whole map is predicted to end sooner by this
    /// share of its time.
    pub margin: f64,
    /// Minimum absolute gain, in seconds.
    pub least_gain: f64,
    /// Maximum credits for each second saved.
    pub credits_per_second: f64,
    /// Maps that are predicted to end sooner than this, in seconds, never contact the service.
    pub worth_asking: f64,
    /// Assumed bytes per second until an upload was measured.
    pub bandwidth: f64,
    /// Assumed seconds for opening a run, in addition to the upload: the service starts a worker.
    pub opening: f64,
    /// Seconds for which a local worker with its first batch may still be starting.
    pub starting: f64,
    /// For an input of unknown length: maximum items at the service for each item pulled.
    pub commitment: f64,
    /// Maximum bytes of inputs and results in memory.
    pub read_ahead: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            margin: 0.04,
            least_gain: 0.01,
            credits_per_second: 1.0,
            worth_asking: 0.03,
            bandwidth: 50e6,
            opening: 0.03,
            starting: 0.005,
            commitment: 4.0,
            read_ahead: 64e6,
        }
    }
}

/// State of the connection to the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Not contacted yet.
    Unknown,
    /// Its answer is pending.
    Probing,
    /// It has reported its prices, and the upload that it needs.
    Probed,
    /// The upload is in progress, or the run is being opened.
    Opening {
        /// Start time.
        since: f64,
        /// Bytes still to be sent.
        left: u64,
    },
    /// Accepts batches.
    Ready,
    /// Gets no more batches.
    Left {
        /// The reason, in words.
        why: String,
    },
}

/// Complete state of the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Items of the whole map, if known.
    pub(crate) items: Option<u64>,
    /// Whether an input of unknown length has ended.
    pub(crate) input_ended: bool,
    pub(crate) link: Link,
    pub(crate) probe: Option<Probe>,
    pub(crate) bandwidth: Option<f64>,
    pub(crate) spent: f64,
    /// Whether the service was found worth its credits, and gets batches.
    joined: bool,
    /// Whether valid answers have stopped arriving from the service, which may have stalled.
    #[serde(default)]
    pub(crate) silent: bool,
    pub(crate) estimates: Estimates,
}

/// State machine that decides for one map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub(crate) options: Options,
    pub(crate) state: State,
}

/// Lower bound of the correction by [`Policy::bias`] for the service.
const MIN_BIAS: f64 = 0.1;
/// Batches in a row that may return unanswered before the service is left.
const MAX_FAILURES: u32 = 5;
/// A batch that takes this many times its expected time has an item that is far longer, or never ends.
const SUSPECT_FACTOR: f64 = 2.0;

impl Policy {
    /// A policy for a map of `items` items, if that number is known, with `workers` local workers.
    pub fn new(options: Options, items: Option<u64>, workers: u32) -> Self {
        let mut estimates = Estimates::default();
        estimates.sides[Side::Local as usize].workers = f64::from(workers);
        let state = State {
            items,
            input_ended: false,
            link: Link::Unknown,
            probe: None,
            bandwidth: None,
            spent: 0.0,
            joined: false,
            silent: false,
            estimates,
        };
        Policy { options, state }
    }

    /// State of the connection to the service.
    pub fn link(&self) -> &Link {
        &self.state.link
    }

    /// Returns whether the service has stopped answering, as far as reported.
    pub fn is_silent(&self) -> bool {
        self.state.silent
    }

    /// Complete state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Processes an event.
    pub fn see(&mut self, now: f64, event: &Event) {
        let state = &mut self.state;
        match event {
            Event::Sent { batch, side, first, items, bytes } => {
                state.estimates.sent(now, *batch, *side, *first, *items, *bytes);
            }
            Event::Answered { batch, side, items, wall, bytes } => {
                if *side == Side::Cloud {
                    self.state.silent = false;
                    self.on_cloud_answer(now, *batch, *items, *wall, *bytes);
                }
                self.state.estimates.answered(now, *batch, *side, *items, *wall, *bytes);
            }
            Event::Back { batch, side, items, lost } => {
                state.estimates.back(*batch, *side, *items, *lost);
                if state.estimates.side(Side::Cloud).failures >= MAX_FAILURES {
                    self.leave("its batches come back unanswered");
                }
            }
            Event::Probed(probe) => {
                state.probe = Some(*probe);
                if state.link == Link::Probing || state.link == Link::Unknown {
                    state.link = Link::Probed;
                }
            }
            Event::Uploading { left: now_left } => {
                if let Link::Opening { since, left } = &mut state.link {
                    let sent = state.probe.map_or(0, |probe| probe.upload.saturating_sub(*now_left));
                    if sent > 64 * 1024 && now > *since {
                        state.bandwidth = Some(sent as f64 / (now - *since));
                    }
                    *left = *now_left;
                }
            }
            Event::Ready { workers } => {
                if !matches!(state.link, Link::Left { .. }) {
                    state.link = Link::Ready;
                }
                state.estimates.sides[Side::Cloud as usize].workers = f64::from(*workers);
            }
            Event::Workers { side, workers } => {
                state.estimates.sides[*side as usize].workers = f64::from(*workers);
            }
            Event::Silent => state.silent = true,
            Event::Heard => state.silent = false,
            Event::Gone { why } => self.leave(why),
        }
    }

    /// Records the end of the input; for an input of unknown length, only its end shows that.
    pub fn end_input(&mut self) {
        self.state.input_ended = true;
    }

    fn on_cloud_answer(&mut self, now: f64, batch: u64, items: u32, wall: f64, bytes: u64) {
        let cost = match self.state.probe {
            Some(probe) => wall * probe.cpu_second + bytes as f64 * probe.result_byte,
            None => 0.0,
        };
        self.state.spent += cost;
        let Some(sent_batch) = self.state.estimates.sent_batch(batch) else { return };
        let Some(sent) = sent_batch.sent[Side::Cloud as usize] else { return };
        // The time in the queue for a worker is not part of the latency.
        if sent_batch.items[Side::Cloud as usize] == items && sent_batch.direct {
            let latency = (now - sent - wall).max(0.0);
            let known = &mut self.state.estimates.sides[Side::Cloud as usize].way;
            *known = Some(known.map_or(latency, |known| known.min(latency)));
        }
    }

    fn leave(&mut self, why: &str) {
        if !matches!(self.state.link, Link::Left { .. }) {
            self.state.link = Link::Left { why: why.to_owned() };
        }
        self.state.joined = false;
    }

    /// Returns whether ending at `together` instead of `alone` is worth its credits, for a map that has run
    /// for `now`.
    fn worth(&self, now: f64, forecast: &Forecast, margin: f64) -> bool {
        let gain = forecast.alone - forecast.together;
        gain >= (margin * (now + forecast.alone)).max(self.options.least_gain)
            && forecast.credits <= self.options.credits_per_second * gain
    }

    /// Decides about the service.
    pub fn step(&mut self, now: f64) -> (Step, Forecast) {
        let Some(forecast) = self.forecast(now) else { return (Step::Stay, Forecast::default()) };
        let step = match self.state.link {
            Link::Unknown
                if now + forecast.alone > self.options.worth_asking && forecast.together < forecast.alone =>
            {
                self.state.link = Link::Probing;
                Step::Probe
            }
            Link::Probed if self.worth(now, &forecast, self.options.margin) => {
                let left = self.state.probe.map_or(0, |probe| probe.upload);
                self.state.link = Link::Opening { since: now, left };
                Step::Open
            }
            _ => Step::Stay,
        };
        (step, forecast)
    }

    /// Returns the side for the next batch, or `None` to wait. A side that can accept a batch passes the
    /// seconds of work that it wants in one.
    pub fn place(&mut self, now: f64, local: Option<f64>, cloud: Option<f64>) -> Option<Side> {
        let local_item = self.local_item_time(now);
        let takes = cloud.is_some_and(|work| self.cloud_helps(now, self.items_of(work, local_item)));
        let stats = self.state.estimates.side(Side::Local);
        let idle = (stats.batches as f64) < stats.workers;
        if let Some(work) = local {
            // Leave the batch to the service only if the service accepts it, or is about to.
            let refused = cloud.is_some() && !takes || self.state.estimates.side(Side::Cloud).batches == 0;
            let helps =
                !self.state.joined || self.local_helps(now, local_item, self.items_of(work, local_item));
            if refused && !takes || (idle || !takes) && helps {
                return Some(Side::Local);
            }
        }
        takes.then_some(Side::Cloud)
    }

    /// Returns the side for an item that has ended a worker or failed before. It is tried locally until the
    /// service has answered a batch, which shows that the function works there.
    pub fn place_again(&mut self, now: f64, local: Option<f64>, cloud: Option<f64>) -> Option<Side> {
        match self.state.estimates.side(Side::Cloud).answered {
            0 => local.map(|_| Side::Local),
            _ => self.place(now, local, cloud),
        }
    }

    /// Estimated items of a batch with this much work.
    fn items_of(&self, work: f64, item: Option<f64>) -> u32 {
        let Some(item) = item else { return 1 };
        let [local, cloud] = &self.state.estimates.sides;
        let mut items = work / item.max(1e-9);
        if self.state.items.is_some() {
            items = items.min(self.left() / (4.0 * (local.workers + cloud.workers).max(1.0)));
        }
        (items as u32).max(1)
    }

    /// Returns whether a batch at the service helps to end the map sooner.
    fn cloud_helps(&mut self, now: f64, items: u32) -> bool {
        let silent = self.state.silent || self.state.estimates.side(Side::Cloud).workers < 1.0;
        if self.state.link != Link::Ready || silent {
            return false;
        }
        let Some(local_item) = self.local_item_time(now) else { return false };
        let cloud_item = self.cloud_item_time(local_item);
        let Some(forecast) = self.forecast(now) else { return false };
        if !self.state.joined {
            if !self.worth(now, &forecast, self.options.margin) {
                return false;
            }
            self.state.joined = true;
        }
        // Send nothing more as soon as the service no longer helps, even if only for a while.
        if forecast.together > forecast.alone * (1.0 - self.options.margin / 4.0) {
            return false;
        }
        let count = f64::from(items.max(1));
        let estimates = &self.state.estimates;
        if self.state.items.is_none() {
            let limit = self.options.commitment * estimates.pulled as f64;
            if estimates.side(Side::Cloud).items as f64 + count > limit {
                return false;
            }
        }
        let cost = self.cost(cloud_item);
        let pays = cost * self.local_rate(local_item) <= self.options.credits_per_second;
        let rest = self.left() + estimates.side(Side::Local).items as f64;
        pays && cost * count <= self.affordable()
            && self.turnaround(now, count, local_item) < self.alone(rest, local_item)
    }

    /// Returns whether a batch started locally ends before the service could finish everything.
    fn local_helps(&self, now: f64, local_item: Option<f64>, items: u32) -> bool {
        let Some(local_item) = local_item else { return true };
        let local = self.state.estimates.side(Side::Local);
        let waiting = (local.batches as f64 / local.workers.max(1.0)).floor();
        let each = f64::from(items.max(1)) * local_item;
        let ends = each * (1.0 + waiting);
        let cloud_item = self.cloud_item_time(local_item);
        let rate = self.cloud_rate(cloud_item);
        let rest = (self.left() - f64::from(items)) / rate.max(1e-9)
            + self.turnaround(now, f64::from(items), local_item);
        ends <= rest
    }

    /// Workers that share the remaining items, in units of a local worker; batches for either side are sized
    /// by it.
    pub fn sharers(&self, now: f64) -> f64 {
        let estimates = &self.state.estimates;
        let local = estimates.side(Side::Local).workers;
        let takes = self.state.joined && self.state.link == Link::Ready && !self.state.silent;
        let Some(local_item) = self.local_item_time(now).filter(|_| takes) else { return local };
        local + self.cloud_rate(self.cloud_item_time(local_item)) * local_item
    }

    /// Ratio of the items' real duration to the estimate in the host's adapter, in which the latest answers
    /// weigh most. Short items are answered first, and of thousands of workers the latest answers are few.
    pub fn bias(&self, now: f64, side: Side) -> f64 {
        let [local, cloud] = &self.state.estimates.sides;
        let Some(local_item) = self.local_item_time(now) else { return 1.0 };
        match (side, self.state.estimates.latest) {
            (Side::Local, _) => local.item.get().map_or(1.0, |mean| (local_item / mean.max(1e-9)).max(1.0)),
            (Side::Cloud, None) => 1.0,
            (Side::Cloud, Some(thought)) => {
                let running =
                    self.censored_item_time(Side::Cloud, now, self.latency()).filter(|_| cloud.is_full());
                let cloud_item = self.cloud_item_time(local_item).max(running.unwrap_or(0.0));
                (cloud_item / thought.max(1e-9)).max(MIN_BIAS)
            }
        }
    }

    /// Seconds that the local workers alone would have taken for all answered items, by the item times so
    /// far.
    pub fn alone_so_far(&self, now: f64) -> Option<f64> {
        Some(self.alone(self.state.estimates.done as f64, self.local_item_time(now)?))
    }

    /// Returns a batch to run twice, when a side has idle workers and there is no new batch.
    pub fn repeat(&mut self, now: f64, local_idle: bool, cloud_idle: bool) -> Option<Repeat> {
        let local_item = self.local_item_time(now)?;
        if local_idle && let Some(batch) = self.is_straggler(now, Side::Cloud, local_item) {
            return Some(batch);
        }
        if cloud_idle && self.state.link == Link::Ready && !self.state.silent {
            return self.is_straggler(now, Side::Local, local_item);
        }
        None
    }

    /// Returns a batch of a silent service to run locally before any new batch: the earliest, because the
    /// consumer waits for it. The service may resume, and its own answer counts if it arrives first.
    pub fn rescue(&self) -> Option<Repeat> {
        let batch = self.state.silent.then(|| self.state.estimates.earliest(Side::Cloud))??;
        Some(Repeat { batch, to: Side::Local, pieces: 1 })
    }

    /// Returns the batch of a side that the other side would answer sooner.
    fn is_straggler(&mut self, now: f64, side: Side, local_item: f64) -> Option<Repeat> {
        let cloud_item = self.cloud_item_time(local_item);
        let ends = self.state.estimates.oldest_and_newest(side);
        let mut latest: Option<(f64, u64, bool)> = None;
        for batch in ends.into_iter().flatten() {
            let sent_batch = self.state.estimates.sent_batch(batch)?;
            let age = now - sent_batch.sent[side as usize]?;
            let items = f64::from(sent_batch.items[side as usize]);
            let expected = match side {
                Side::Cloud => self.latency() + items * cloud_item,
                Side::Local => items * local_item,
            };
            // An overdue batch is expected to take half of its age again.
            let left = if age < expected { expected - age } else { age / 2.0 };
            let queue = match side {
                Side::Cloud if Some(batch) == ends[1] => self.turnaround(now, 0.0, local_item) - age,
                Side::Local if Some(batch) == ends[1] => {
                    self.alone(self.state.estimates.side(Side::Local).items as f64, local_item)
                }
                _ => 0.0,
            };
            let ends_in = left.max(queue);
            if latest.is_none_or(|(other, ..)| ends_in > other) {
                latest = Some((ends_in, batch, age > SUSPECT_FACTOR * expected));
            }
        }
        let (ends_in, batch, suspected) = latest?;
        let sent_batch = self.state.estimates.sent_batch(batch)?;
        let items = f64::from(sent_batch.items[side as usize]);
        let worth = match side {
            Side::Cloud => {
                let local = self.state.estimates.side(Side::Local);
                let idle = (local.workers - local.batches as f64).clamp(1.0, items.max(1.0));
                items * local_item / idle < ends_in
            }
            Side::Local => {
                let again = self.turnaround(now, items, local_item);
                let gain = ends_in - again;
                let cost = items * self.cost(cloud_item);
                gain >= (self.options.margin * (now + ends_in)).max(self.options.least_gain)
                    && cost <= self.options.credits_per_second * gain
                    && cost <= self.affordable()
            }
        };
        if !worth {
            return None;
        }
        let pieces = if suspected { PARTS.min(items as u32) } else { 1 };
        Some(Repeat { batch, to: side.other(), pieces })
    }

    /// Marks a batch that can't be repeated, so that it is not chosen again.
    pub fn not_repeated(&mut self, batch: u64) {
        if let Some(sent_batch) = self.state.estimates.sent_batch_mut(batch) {
            sent_batch.repeated = true;
        }
    }

    /// Seconds until the next step if no event arrives.
    pub fn pause(&self, now: f64) -> f64 {
        (now / 64.0).clamp(0.001, 1.0)
    }
}
