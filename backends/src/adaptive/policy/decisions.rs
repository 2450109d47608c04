//! The state of the policy and its decisions.

use serde::{Deserialize, Serialize};

use crate::adaptive::policy::estimates::Estimates;
use crate::adaptive::policy::event::{Event, Forecast, Probe, Repeat, Side, Step};
use crate::split_after_crash::PARTS;

/// What is worth what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The whole map must be predicted to end sooner by this share of its time for the service to be used.
    pub margin: f64,
    /// And at least this many seconds sooner.
    pub least_gain: f64,
    /// Most credits for a second sooner.
    pub credits_per_second: f64,
    /// Maps that are predicted to end sooner than this, in seconds, never contact the service.
    pub worth_asking: f64,
    /// Bytes a second that are hoped for while nothing has been uploaded.
    pub bandwidth: f64,
    /// Seconds that a service is expected to take for opening a run, beside the upload: it starts a worker.
    pub opening: f64,
    /// Seconds for which a local worker with its first batch may still be starting.
    pub starting: f64,
    /// Of an input that does not tell its length: items that may be with the service, for each that was pulled.
    pub commitment: f64,
    /// Bytes of inputs and results that may be held.
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

/// How far it has come with the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// It was not asked.
    Unknown,
    /// It is being asked.
    Probing,
    /// It has said what it costs and what it needs.
    Probed,
    /// The upload is under way, or the run is being opened.
    Opening {
        /// Since when.
        since: f64,
        /// Bytes still to be sent.
        left: u64,
    },
    /// It takes batches.
    Ready,
    /// It gets no more.
    Left {
        /// Why, in words.
        why: String,
    },
}

/// All that the policy knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Items of the whole map, if known.
    pub(crate) items: Option<u64>,
    /// An input of unknown length has ended.
    pub(crate) input_ended: bool,
    pub(crate) link: Link,
    pub(crate) probe: Option<Probe>,
    pub(crate) bandwidth: Option<f64>,
    pub(crate) spent: f64,
    /// The service was found worth its credits, and gets batches.
    joined: bool,
    /// No answer of use comes from the service, which may stand still.
    #[serde(default)]
    pub(crate) silent: bool,
    pub(crate) estimates: Estimates,
}

/// Decides for one map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub(crate) options: Options,
    pub(crate) state: State,
}

/// The adapter's mean is not thought to be longer than what items take by more than this.
const LEAST_BIAS: f64 = 0.1;
/// Batches that may come back unanswered in a row before the service is left.
const FAILURES: u32 = 5;
/// A batch that has taken so many times what its items should has one that is longer by far, or never ends.
const SUSPICIOUS: f64 = 2.0;

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

    /// How far it has come with the service.
    pub fn link(&self) -> &Link {
        &self.state.link
    }

    /// Whether the service gives no answer, as far as was seen.
    pub fn is_silent(&self) -> bool {
        self.state.silent
    }

    /// All that it knows.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes in what was seen.
    pub fn see(&mut self, now: f64, event: &Event) {
        let state = &mut self.state;
        match event {
            Event::Sent { batch, side, first, items, bytes } => {
                state.estimates.sent(now, *batch, *side, *first, *items, *bytes);
            }
            Event::Answered { batch, side, items, wall, bytes } => {
                if *side == Side::Cloud {
                    self.state.silent = false;
                    self.answered_there(now, *batch, *items, *wall, *bytes);
                }
                self.state.estimates.answered(now, *batch, *side, *items, *wall, *bytes);
            }
            Event::Back { batch, side, items, lost } => {
                state.estimates.back(*batch, *side, *items, *lost);
                if state.estimates.side(Side::Cloud).failures >= FAILURES {
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

    /// The input has no more, which an input that does not tell its length shows at its end alone.
    pub fn end_input(&mut self) {
        self.state.input_ended = true;
    }

    fn answered_there(&mut self, now: f64, batch: u64, items: u32, wall: f64, bytes: u64) {
        let cost = match self.state.probe {
            Some(probe) => wall * probe.cpu_second + bytes as f64 * probe.result_byte,
            None => 0.0,
        };
        self.state.spent += cost;
        let Some(flight) = self.state.estimates.flight(batch) else { return };
        let Some(sent) = flight.sent[Side::Cloud as usize] else { return };
        // Where it had to wait for a worker there, that is no part of the way.
        if flight.items[Side::Cloud as usize] == items && flight.direct {
            let way = (now - sent - wall).max(0.0);
            let known = &mut self.state.estimates.sides[Side::Cloud as usize].way;
            *known = Some(known.map_or(way, |known| known.min(way)));
        }
    }

    fn leave(&mut self, why: &str) {
        if !matches!(self.state.link, Link::Left { .. }) {
            self.state.link = Link::Left { why: why.to_owned() };
        }
        self.state.joined = false;
    }

    /// Whether ending at `together` instead of `alone` is worth its credits, for a map that has run for `now`.
    fn worth(&self, now: f64, forecast: &Forecast, margin: f64) -> bool {
        let gain = forecast.alone - forecast.together;
        gain >= (margin * (now + forecast.alone)).max(self.options.least_gain)
            && forecast.credits <= self.options.credits_per_second * gain
    }

    /// What is to be done about the service.
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

    /// Where the next batch goes, of the sides that have a place for it, or that it is to wait. A side with a place tells
    /// how many seconds of work it wants of a batch.
    pub fn place(&mut self, now: f64, local: Option<f64>, cloud: Option<f64>) -> Option<Side> {
        let here = self.item_here(now);
        let takes = cloud.is_some_and(|work| self.takes_there(now, self.items_of(work, here)));
        let account = self.state.estimates.side(Side::Local);
        let idle = (account.batches as f64) < account.workers;
        if let Some(work) = local {
            // To leave it to the service, the service must take it, or be about to.
            let refused = cloud.is_some() && !takes || self.state.estimates.side(Side::Cloud).batches == 0;
            let helps = !self.state.joined || self.helps_here(now, here, self.items_of(work, here));
            if refused && !takes || (idle || !takes) && helps {
                return Some(Side::Local);
            }
        }
        takes.then_some(Side::Cloud)
    }

    /// Where an item goes that has ended a worker or failed before. Until the service has answered something, which says that
    /// the function works there, it is tried here.
    pub fn place_again(&mut self, now: f64, local: Option<f64>, cloud: Option<f64>) -> Option<Side> {
        match self.state.estimates.side(Side::Cloud).answered {
            0 => local.map(|_| Side::Local),
            _ => self.place(now, local, cloud),
        }
    }

    /// How many items a batch of so much work will have, about.
    fn items_of(&self, work: f64, item: Option<f64>) -> u32 {
        let Some(item) = item else { return 1 };
        let [local, cloud] = &self.state.estimates.sides;
        let mut items = work / item.max(1e-9);
        if self.state.items.is_some() {
            items = items.min(self.left() / (4.0 * (local.workers + cloud.workers).max(1.0)));
        }
        (items as u32).max(1)
    }

    /// Whether a batch in the service helps to end the map sooner.
    fn takes_there(&mut self, now: f64, items: u32) -> bool {
        let silent = self.state.silent || self.state.estimates.side(Side::Cloud).workers < 1.0;
        if self.state.link != Link::Ready || silent {
            return false;
        }
        let Some(here) = self.item_here(now) else { return false };
        let there = self.item_there(here);
        let Some(forecast) = self.forecast(now) else { return false };
        if !self.state.joined {
            if !self.worth(now, &forecast, self.options.margin) {
                return false;
            }
            self.state.joined = true;
        }
        // It is left alone as soon as it helps no more, also if only for a while.
        if forecast.together > forecast.alone * (1.0 - self.options.margin / 4.0) {
            return false;
        }
        let count = f64::from(items.max(1));
        let estimates = &self.state.estimates;
        if self.state.items.is_none() {
            let most = self.options.commitment * estimates.pulled as f64;
            if estimates.side(Side::Cloud).items as f64 + count > most {
                return false;
            }
        }
        let cost = self.cost(there);
        let pays = cost * self.rate_here(here) <= self.options.credits_per_second;
        let rest = self.left() + estimates.side(Side::Local).items as f64;
        pays && cost * count <= self.affordable()
            && self.turnaround(now, count, here) < self.alone(rest, here)
    }

    /// Whether a batch that is begun here ends before the service would be through with all.
    fn helps_here(&self, now: f64, here: Option<f64>, items: u32) -> bool {
        let Some(here) = here else { return true };
        let local = self.state.estimates.side(Side::Local);
        let waiting = (local.batches as f64 / local.workers.max(1.0)).floor();
        let each = f64::from(items.max(1)) * here;
        let ends = each * (1.0 + waiting);
        let there = self.item_there(here);
        let rate = self.rate_there(there);
        let rest =
            (self.left() - f64::from(items)) / rate.max(1e-9) + self.turnaround(now, f64::from(items), here);
        ends <= rest
    }

    /// Workers that share what is left, in units of a local one; batches for either side are cut by it.
    pub fn sharers(&self, now: f64) -> f64 {
        let estimates = &self.state.estimates;
        let local = estimates.side(Side::Local).workers;
        let takes = self.state.joined && self.state.link == Link::Ready && !self.state.silent;
        let Some(here) = self.item_here(now).filter(|_| takes) else { return local };
        local + self.rate_there(self.item_there(here)) * here
    }

    /// How many times longer items take than the host's adapter thinks, by whose mean the latest answers weigh most. Short
    /// ones are answered first, and of thousands of workers the latest answers are few.
    pub fn bias(&self, now: f64, side: Side) -> f64 {
        let [local, cloud] = &self.state.estimates.sides;
        let Some(here) = self.item_here(now) else { return 1.0 };
        match (side, self.state.estimates.latest) {
            (Side::Local, _) => local.item.get().map_or(1.0, |mean| (here / mean.max(1e-9)).max(1.0)),
            (Side::Cloud, None) => 1.0,
            (Side::Cloud, Some(thought)) => {
                let running = self.censored(Side::Cloud, now, self.way()).filter(|_| cloud.is_full());
                let there = self.item_there(here).max(running.unwrap_or(0.0));
                (there / thought.max(1e-9)).max(LEAST_BIAS)
            }
        }
    }

    /// Seconds that the local workers alone would have taken for all that is answered, as their items have taken so far.
    pub fn alone_so_far(&self, now: f64) -> Option<f64> {
        Some(self.alone(self.state.estimates.done as f64, self.item_here(now)?))
    }

    /// Which batch is to be done twice, where a side has workers without work and there is nothing more to hand out.
    pub fn repeat(&mut self, now: f64, local_idle: bool, cloud_idle: bool) -> Option<Repeat> {
        let here = self.item_here(now)?;
        if local_idle && let Some(batch) = self.is_straggler(now, Side::Cloud, here) {
            return Some(batch);
        }
        if cloud_idle && self.state.link == Link::Ready && !self.state.silent {
            return self.is_straggler(now, Side::Local, here);
        }
        None
    }

    /// Which batch of a service that gives no answer is to be done here before anything that was not begun: the consumer
    /// waits for the earliest. The service may go on, and then its own answer counts if it comes first.
    pub fn rescue(&self) -> Option<Repeat> {
        let batch = self.state.silent.then(|| self.state.estimates.earliest(Side::Cloud))??;
        Some(Repeat { batch, to: Side::Local, pieces: 1 })
    }

    /// The batch of a side that the other would answer sooner.
    fn is_straggler(&mut self, now: f64, side: Side, here: f64) -> Option<Repeat> {
        let there = self.item_there(here);
        let ends = self.state.estimates.ends(side);
        let mut latest: Option<(f64, u64, bool)> = None;
        for batch in ends.into_iter().flatten() {
            let flight = self.state.estimates.flight(batch)?;
            let age = now - flight.sent[side as usize]?;
            let items = f64::from(flight.items[side as usize]);
            let expected = match side {
                Side::Cloud => self.way() + items * there,
                Side::Local => items * here,
            };
            // What is overdue takes as long again as it has taken.
            let left = if age < expected { expected - age } else { age / 2.0 };
            let queue = match side {
                Side::Cloud if Some(batch) == ends[1] => self.turnaround(now, 0.0, here) - age,
                Side::Local if Some(batch) == ends[1] => {
                    self.alone(self.state.estimates.side(Side::Local).items as f64, here)
                }
                _ => 0.0,
            };
            let ends_in = left.max(queue);
            if latest.is_none_or(|(other, ..)| ends_in > other) {
                latest = Some((ends_in, batch, age > SUSPICIOUS * expected));
            }
        }
        let (ends_in, batch, suspected) = latest?;
        let flight = self.state.estimates.flight(batch)?;
        let items = f64::from(flight.items[side as usize]);
        let worth = match side {
            Side::Cloud => {
                let local = self.state.estimates.side(Side::Local);
                let idle = (local.workers - local.batches as f64).clamp(1.0, items.max(1.0));
                items * here / idle < ends_in
            }
            Side::Local => {
                let again = self.turnaround(now, items, here);
                let gain = ends_in - again;
                let cost = items * self.cost(there);
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

    /// A batch that was to be repeated can't be: it is not asked for again.
    pub fn not_repeated(&mut self, batch: u64) {
        if let Some(flight) = self.state.estimates.flight_mut(batch) {
            flight.repeated = true;
        }
    }

    /// Seconds after which it is worth asking again without news.
    pub fn pause(&self, now: f64) -> f64 {
        (now / 64.0).clamp(0.001, 1.0)
    }
}
