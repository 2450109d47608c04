//! A table of many trials, and the worst of them.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fastmap_backends::adaptive::policy::Options;

use super::ranges::Ranges;
use super::trial::{Trial, trial};

/// Bytes of inputs and undelivered results that a map is allowed. What a result has is not known before the first answer: until
/// then CLOUD has up to four batches a worker on their way, however large their results turn out to be.
const READ_AHEAD: f64 = 64e6;

/// Many trials, by seed.
#[derive(Debug)]
pub struct Report {
    /// All of them.
    pub trials: Vec<Trial>,
}

impl Report {
    /// Plays the worlds of the seeds from `seed` on, on all cores.
    ///
    /// # Panics
    /// If one of the worlds stands still.
    pub fn run(ranges: &Ranges, options: Options, seed: u64, worlds: u64) -> Self {
        let next = AtomicU64::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            let mut trials = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= worlds {
                    return trials;
                }
                trials.push(trial(ranges, options, seed + number));
            }
        };
        let mut trials: Vec<Trial> = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no world stands still")).collect()
        });
        trials.sort_by_key(|trial| trial.place.seed);
        Report { trials }
    }

    /// Time over the better of LOCAL and CLOUD at a share of the worlds, from the best on.
    pub fn ratio_at(&self, share: f64) -> f64 {
        at(self.trials.iter().map(Trial::ratio).collect(), share)
    }

    /// Credits over those of CLOUD at a share of the worlds, from the best on.
    pub fn credits_at(&self, share: f64) -> f64 {
        at(self.trials.iter().filter_map(Trial::credits_ratio).collect(), share)
    }

    /// The worst world.
    ///
    /// # Panics
    /// If there is none.
    pub fn worst(&self) -> &Trial {
        self.trials.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio())).expect("there is a world")
    }

    /// Credits spent in worlds that the service could not help.
    pub fn wasted(&self) -> f64 {
        self.trials.iter().filter(|trial| !trial.helps()).map(|trial| trial.adaptive.credits).sum()
    }

    /// Mean time over the better of the two, of the worlds where both help (the geometric mean).
    pub fn gain(&self) -> f64 {
        let both: Vec<f64> =
            self.trials.iter().filter(|trial| trial.both()).map(|trial| trial.ratio().ln()).collect();
        (both.iter().sum::<f64>() / both.len().max(1) as f64).exp()
    }

    /// Markdown.
    pub fn table(&self) -> String {
        let count = |which: &dyn Fn(&Trial) -> bool| self.trials.iter().filter(|trial| which(trial)).count();
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            let _infallible = writeln!(text, "| {what} | {value} |");
        };
        line("worlds", self.trials.len().to_string());
        line("CLOUD is better than LOCAL", count(&|t| t.cloud.seconds < t.local.seconds).to_string());
        line("of these: not worth its credits", count(&Trial::too_dear).to_string());
        line("the service can't help", count(&|t| !t.helps()).to_string());
        line("both can do a good part", count(&Trial::both).to_string());
        line("ADAPTIVE used the service", count(&|t| t.adaptive.answered[1] > 0).to_string());
        for share in [0.5, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0] {
            line(
                &format!("time over the better of LOCAL and CLOUD, {} % of the worlds", share * 100.0),
                format!("≤ {:.3}", self.ratio_at(share)),
            );
        }
        for share in [0.5, 0.9, 0.99, 1.0] {
            line(
                &format!("credits over those of CLOUD, {} % of the worlds", share * 100.0),
                format!("≤ {:.3}", self.credits_at(share)),
            );
        }
        let failed: u64 = self.trials.iter().map(|trial| trial.adaptive.failed).sum();
        if failed > 0 {
            line("items that hang or crash", failed.to_string());
            let deaths =
                |played: &dyn Fn(&Trial) -> u64| self.trials.iter().map(played).sum::<u64>().to_string();
            line("their deaths under LOCAL", deaths(&|t| t.local.deaths));
            line("under CLOUD", deaths(&|t| t.cloud.deaths));
            line("under ADAPTIVE", deaths(&|t| t.adaptive.deaths));
        }
        line(
            "time over the better one where both can do a good part (geometric mean)",
            format!("{:.3}", self.gain()),
        );
        let wasters: Vec<String> = self
            .trials
            .iter()
            .filter(|t| !t.helps() && t.adaptive.credits > 0.0)
            .map(|t| t.place.seed.to_string())
            .collect();
        line("worlds where it can't help and something was paid", wasters.join(" "));
        line("credits spent where the service can't help", format!("{}", self.wasted()));
        let beyond = |t: &Trial| {
            t.cloud_counts() && t.cloud.seconds < t.local.seconds && t.cloud.peak_bytes > READ_AHEAD * 1.1
        };
        line("CLOUD is the better one and held more than read_ahead", count(&beyond).to_string());
        let ratios = self.trials.iter().filter(|t| !beyond(t)).map(Trial::ratio).collect();
        line("time over the better one, 99 % of the other worlds", format!("≤ {:.3}", at(ratios, 0.99)));
        let vain = |t: &Trial| !t.helps() && t.adaptive.uploaded > 0.0;
        line("worlds where it can't help and something was uploaded", count(&vain).to_string());
        line("batches done twice, a world", {
            let all: u64 = self.trials.iter().map(|trial| trial.adaptive.repeated).sum();
            format!("{:.2}", all as f64 / self.trials.len().max(1) as f64)
        });
        text
    }

    /// The worst worlds, one a line.
    pub fn worst_lines(&self, count: usize) -> String {
        let mut trials: Vec<&Trial> = self.trials.iter().collect();
        trials.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
        let mut text = String::new();
        for t in trials.into_iter().take(count) {
            let p = &t.place;
            let _infallible = writeln!(
                text,
                "seed {} ratio {:.3} credits {:.3}: {:.3} s (LOCAL {:.3}, CLOUD {:.3}, ideal {:.3}); {} {} items of {:.2e} s, {}+{} \
                 workers, way {:.3}, upload {:.2e} at {:.2e}, bytes {:.0}/{:.0}, slow {:.2}, opening {:.2}, cap {:.1e}, \
                 limit {:.2e}, faults {:?} ({} deaths, LOCAL {}, CLOUD {}); here {} \
                 there {}, credits {:.3} (CLOUD {:.3}), twice {}",
                p.seed,
                t.ratio(),
                t.credits_ratio().unwrap_or(f64::NAN),
                t.adaptive.seconds,
                t.local.seconds,
                t.cloud.seconds,
                t.ideal,
                p.shape,
                p.items,
                p.item_time,
                p.local,
                p.cloud,
                p.round_trip,
                p.upload,
                p.up,
                p.bytes.0,
                p.bytes.1,
                p.slowness,
                p.opening,
                p.cap,
                p.item_timeout,
                p.faults,
                t.adaptive.deaths,
                t.local.deaths,
                t.cloud.deaths,
                t.adaptive.answered[0],
                t.adaptive.answered[1],
                t.adaptive.credits,
                t.cloud.credits,
                t.adaptive.repeated,
            );
        }
        text
    }
}

fn at(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(index).copied().unwrap_or(f64::NAN)
}
