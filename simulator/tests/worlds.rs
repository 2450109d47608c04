//! What the policy of ADAPTIVE must reach in random worlds. Each message names the worst seed, which
//! `fastmap-simulator worlds --seed SEED --worlds 1` plays again.

use fastmap_backends::adaptive::policy::Options;
use fastmap_simulator::choice::{Ranges, Report};

fn play(ranges: &Ranges, seed: u64, worlds: u64) -> Report {
    Report::run(ranges, Options::default(), seed, worlds)
}

#[test]
fn of_known_length_and_steady_it_is_hardly_ever_slower_than_the_better_of_the_two() {
    let report = play(&Ranges::default(), 1, 2500);
    let worst = report.worst_lines(3);
    assert!(report.ratio_at(0.99) <= 1.05, "99 % of the worlds: {}\n{worst}", report.ratio_at(0.99));
    assert!(report.ratio_at(0.95) <= 1.01, "95 % of the worlds: {}\n{worst}", report.ratio_at(0.95));
    assert!(report.gain() <= 0.9, "where both can do a good part: {}\n{worst}", report.gain());
    assert!(report.wasted() <= 0.0, "credits where the service can't help: {}\n{worst}", report.wasted());
}

/// Bounds, from the figures in backends/src/adaptive/README.md.
#[test]
fn of_unknown_length_or_drifting_it_loses_a_bounded_time_and_next_to_no_credits() {
    for (unknown, drifting, dying) in [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)] {
        let report = play(&Ranges { unknown, drifting, dying, ..Ranges::default() }, 1, 400);
        let worst = report.worst_lines(3);
        assert!(report.ratio_at(0.95) <= 1.02 && report.ratio_at(1.0) <= 3.0, "{worst}");
        assert!(
            report.wasted() <= 0.01,
            "credits where the service can't help: {}\n{worst}",
            report.wasted()
        );
    }
}

/// Worlds in which some items never end, some end their worker and some take many times as long as the others.
fn lethal() -> Ranges {
    let range = |text: &str| text.parse().expect("a range");
    Ranges { hanging: range("0..4"), crashing: range("0..4"), slow: range("0..8"), ..Ranges::default() }
}

#[test]
fn with_items_that_hang_crash_or_are_slow_it_is_hardly_slower_or_dearer_than_the_better_of_the_two() {
    let report = play(&lethal(), 1, 200);
    let worst = report.worst_lines(3);
    assert!(report.ratio_at(1.0) <= 1.3, "time: {}\n{worst}", report.ratio_at(1.0));
    assert!(report.credits_at(1.0) <= 1.3, "credits: {}\n{worst}", report.credits_at(1.0));
    for trial in &report.trials {
        let [local, adaptive] = [&trial.local, &trial.adaptive].map(|played| played.failed);
        assert_eq!(local, adaptive, "seed {}: items that have no answer", trial.place.seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_world_and_the_same_map() {
    let ranges = Ranges::default();
    assert_eq!(play(&ranges, 7, 20).trials, play(&ranges, 7, 20).trials);
}
