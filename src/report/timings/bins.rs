//! Bounded counts over a time of any length: bins that double their width, and a histogram by powers.
//! Filled by the recorder; both cost the same for a map of a millisecond and for one of a week.

use serde::Serialize;

/// Bins at most.
const BINS: usize = 300;
/// Width of the first ones, in seconds.
const WIDTH: f64 = 0.001;

/// What happened in one stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Bin {
    /// Items answered, by workers of this machine (or the calling thread) and by a service.
    pub(crate) here: u64,
    pub(crate) cloud: u64,
    /// Batches sent (or done by the calling thread), and the items of the smallest and the largest.
    pub(crate) batches: u64,
    pub(crate) fewest: u32,
    pub(crate) most: u32,
    /// Seconds that the program spent in the input iterator, and waiting for workers.
    pub(crate) input: f64,
    pub(crate) waiting: f64,
    /// Seconds that workers ran items, added up over the workers.
    pub(crate) busy: f64,
}

impl Bin {
    fn add(&mut self, other: &Bin) {
        if other.batches > 0 {
            self.fewest = if self.batches > 0 { self.fewest.min(other.fewest) } else { other.fewest };
            self.most = self.most.max(other.most);
        }
        self.here += other.here;
        self.cloud += other.cloud;
        self.batches += other.batches;
        self.input += other.input;
        self.waiting += other.waiting;
        self.busy += other.busy;
    }
}

/// Bins of equal width from the begin of a map on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Bins {
    /// Seconds.
    pub(crate) width: f64,
    pub(crate) bins: Vec<Bin>,
}

impl Default for Bins {
    fn default() -> Self {
        Bins { width: WIDTH, bins: Vec::new() }
    }
}

impl Bins {
    /// The bin of that second; earlier ones are joined in pairs until there is room.
    fn index(&mut self, at: f64) -> usize {
        while at / self.width >= BINS as f64 {
            self.width *= 2.0;
            self.bins = self
                .bins
                .chunks(2)
                .map(|pair| {
                    let mut joined = Bin::default();
                    for bin in pair {
                        joined.add(bin);
                    }
                    joined
                })
                .collect();
        }
        let index = (at.max(0.0) / self.width) as usize;
        if self.bins.len() <= index {
            self.bins.resize(index + 1, Bin::default());
        }
        index
    }

    /// Adds what happened at that second.
    pub(crate) fn add(&mut self, at: f64, what: &Bin) {
        let index = self.index(at);
        self.bins[index].add(what);
    }

    /// Adds a stretch of time, to each bin its part.
    pub(crate) fn spread(&mut self, from: f64, to: f64, part: impl Fn(&mut Bin) -> &mut f64) {
        let (from, to) = (from.max(0.0), to.max(0.0));
        let last = self.index(to);
        for index in self.index(from)..=last {
            let begin = index as f64 * self.width;
            let inside = to.min(begin + self.width) - from.max(begin);
            *part(&mut self.bins[index]) += inside.max(0.0);
        }
    }
}

/// Buckets for each doubling, and how many doublings of a nanosecond: more than a day.
const FINE: f64 = 4.0;
const BUCKETS: usize = 4 * 48;

/// How many items took how long.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, seconds: f64, items: u64) {
        let bucket = ((seconds * 1e9).max(1.0).log2() * FINE) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += items;
        self.total += items;
    }

    /// Seconds at which the bucket begins.
    fn begin(bucket: usize) -> f64 {
        (bucket as f64 / FINE).exp2() * 1e-9
    }

    /// Within a tenth, the time that this share of the items did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return Histogram::begin(bucket) * (0.5 / FINE).exp2();
            }
        }
        0.0
    }

    /// Items that took at least so long, within a bucket.
    pub(crate) fn above(&self, seconds: f64) -> u64 {
        let from = ((seconds * 1e9).max(1.0).log2() * FINE).ceil() as usize;
        self.counts.iter().skip(from).sum()
    }

    /// Buckets that have items, and those between: seconds from, seconds to, items.
    pub(crate) fn buckets(&self) -> Vec<(f64, f64, u64)> {
        let used = |count: &u64| *count > 0;
        let Some(first) = self.counts.iter().position(used) else { return Vec::new() };
        let last = self.counts.iter().rposition(used).unwrap_or(first);
        (first..=last)
            .map(|bucket| (Histogram::begin(bucket), Histogram::begin(bucket + 1), self.counts[bucket]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_takes_as_many_bins_as_a_second_and_nothing_is_lost() {
        let mut bins = Bins::default();
        for second in 0..7 * 24 * 3600 {
            let at = f64::from(second);
            bins.add(at, &Bin { here: 2, batches: 1, fewest: 2, most: 2, ..Bin::default() });
            bins.spread(at, at + 0.25, |bin| &mut bin.input);
        }
        assert!(bins.bins.len() <= BINS);
        let items: u64 = bins.bins.iter().map(|bin| bin.here).sum();
        let input: f64 = bins.bins.iter().map(|bin| bin.input).sum();
        assert_eq!(items, 2 * 7 * 24 * 3600);
        assert!((input - 0.25 * 7.0 * 24.0 * 3600.0).abs() < 1e-3, "{input}");
        assert!(bins.bins.iter().all(|bin| bin.batches == 0 || (bin.fewest, bin.most) == (2, 2)));
    }

    #[test]
    fn a_stretch_is_divided_among_the_bins_that_it_touches() {
        let mut bins = Bins::default();
        bins.spread(0.0005, 0.0035, |bin| &mut bin.waiting);
        let parts: Vec<f64> = bins.bins.iter().map(|bin| (bin.waiting * 1e6).round()).collect();
        assert_eq!(parts, [500.0, 1000.0, 1000.0, 500.0]);
    }

    #[test]
    fn a_stretch_that_makes_the_bins_double_is_not_lost() {
        let mut bins = Bins::default();
        bins.spread(0.0, 3600.0, |bin| &mut bin.busy);
        let busy: f64 = bins.bins.iter().map(|bin| bin.busy).sum();
        assert!((busy - 3600.0).abs() < 1e-6, "{busy}");
    }

    #[test]
    fn quantiles_are_right_within_a_tenth() {
        let mut times = Histogram::default();
        for item in 1..=1000u32 {
            times.add(f64::from(item) * 1e-3, 1);
        }
        for (share, expected) in [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99)] {
            let quantile = times.quantile(share);
            assert!((quantile / expected - 1.0).abs() < 0.1, "{share}: {quantile}");
        }
        assert_eq!(times.above(10.0), 0);
        assert_eq!(times.buckets().iter().map(|(.., items)| items).sum::<u64>(), 1000);
        assert!(Histogram::default().quantile(0.5).abs() < f64::EPSILON);
        let mut odd = Histogram::default();
        odd.add(0.0, 1);
        odd.add(f64::INFINITY, 1);
        odd.add(f64::NAN, 1);
        assert_eq!(odd.buckets().iter().map(|(.., items)| items).sum::<u64>(), 3);
    }
}
