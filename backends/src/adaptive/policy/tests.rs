//! Single decisions, with their numbers. The simulator tests how they work together.

use super::*;
use crate::split_after_crash::PARTS;

const PROBE: Probe =
    Probe { round_trip: 0.05, upload: 10_000_000, cpu_second: 0.003, result_byte: 1e-8, spendable: 100.0 };

/// Two local workers with items of `item` seconds; the first one is answered.
fn started(items: Option<u64>, item: f64) -> Policy {
    let mut policy = Policy::new(Options::default(), items, 2);
    for batch in 0..4 {
        let sent = Event::Sent { batch, side: Side::Local, first: batch, items: 1, bytes: 8 };
        policy.see(0.0, &sent);
    }
    let answered = Event::Answered { batch: 0, side: Side::Local, items: 1, wall: item, bytes: 8 };
    policy.see(item, &answered);
    policy
}

/// As `started`, with a service of this many workers that accepts batches.
fn ready(items: Option<u64>, item: f64, workers: u32) -> Policy {
    let mut policy = started(items, item);
    policy.see(item, &Event::Probed(PROBE));
    assert_eq!(policy.step(item).0, Step::Open);
    policy.see(item + 0.3, &Event::Ready { workers });
    policy
}

#[test]
fn short_map_does_not_contact_the_service() {
    let mut policy = started(Some(20), 0.001);
    assert_eq!(policy.step(0.001).0, Step::Stay);
}

#[test]
fn a_long_map_asks_and_opens_once_each() {
    let mut policy = started(Some(10_000), 0.01);
    assert_eq!((policy.step(0.01).0, policy.step(0.02).0), (Step::Probe, Step::Stay));
    policy.see(0.06, &Event::Probed(PROBE));
    assert_eq!((policy.step(0.06).0, policy.step(0.07).0), (Step::Open, Step::Stay));
}

#[test]
fn long_items_contact_the_service_before_the_first_answer() {
    let mut policy = Policy::new(Options::default(), Some(1000), 2);
    policy.see(0.0, &Event::Sent { batch: 0, side: Side::Local, first: 0, items: 1, bytes: 8 });
    assert_eq!(policy.step(0.005).0, Step::Stay);
    assert_eq!(policy.step(0.1).0, Step::Probe);
}

#[test]
fn upload_longer_than_the_map_is_not_started() {
    let mut policy = started(Some(1000), 0.01);
    assert_eq!(policy.step(0.01).0, Step::Probe);
    policy.see(0.06, &Event::Probed(Probe { upload: 10_000_000_000, ..PROBE }));
    assert_eq!(policy.step(0.06).0, Step::Stay);
}

#[test]
fn too_expensive_service_is_not_opened() {
    let mut policy = started(Some(10_000), 0.01);
    assert_eq!(policy.step(0.01).0, Step::Probe);
    policy.see(0.06, &Event::Probed(Probe { cpu_second: 10.0, ..PROBE }));
    assert_eq!(policy.step(0.06).0, Step::Stay);
}

#[test]
fn idle_local_workers_precede_the_service() {
    let mut policy = ready(Some(10_000), 0.01, 16);
    assert_eq!(policy.place(0.4, Some(0.02), Some(0.1)), Some(Side::Cloud), "both have a batch that waits");
    for batch in 1..3 {
        let answered = Event::Answered { batch, side: Side::Local, items: 1, wall: 0.01, bytes: 8 };
        policy.see(0.4, &answered);
    }
    assert_eq!(policy.place(0.4, Some(0.02), Some(0.1)), Some(Side::Local));
}

#[test]
fn retries_go_to_the_service_after_its_first_answer() {
    let mut policy = ready(Some(10_000), 0.01, 16);
    assert_eq!(policy.place_again(0.4, Some(0.02), Some(0.1)), Some(Side::Local));
    assert_eq!(policy.place_again(0.4, None, Some(0.1)), None);
    policy.see(0.4, &Event::Sent { batch: 9, side: Side::Cloud, first: 4, items: 1, bytes: 8 });
    policy.see(0.5, &Event::Answered { batch: 9, side: Side::Cloud, items: 1, wall: 0.01, bytes: 8 });
    assert_eq!(
        policy.place_again(0.5, Some(0.02), Some(0.1)),
        Some(Side::Cloud),
        "the workers here are busy"
    );
}

#[test]
fn suspicious_batch_is_repeated_in_pieces() {
    let mut policy = ready(Some(104), 1.0, 16);
    for batch in 1..4 {
        policy.see(1.5, &Event::Answered { batch, side: Side::Local, items: 1, wall: 1.0, bytes: 8 });
    }
    policy.see(1.5, &Event::Sent { batch: 7, side: Side::Cloud, first: 4, items: 100, bytes: 800 });
    assert_eq!(policy.repeat(1000.0, true, false), Some(Repeat { batch: 7, to: Side::Local, pieces: PARTS }));
}

#[test]
fn a_service_without_workers_gets_nothing() {
    let mut policy = ready(Some(10_000), 0.01, 0);
    assert_eq!(policy.place(0.4, None, Some(0.1)), None);
    assert_eq!(policy.place(0.4, Some(0.02), Some(0.1)), Some(Side::Local));
}

#[test]
fn last_items_stay_local_if_the_latency_is_longer() {
    let mut policy = ready(Some(10_000), 0.01, 16);
    assert_eq!(policy.place(0.4, None, Some(0.1)), Some(Side::Cloud));
    policy.see(0.4, &Event::Sent { batch: 9, side: Side::Local, first: 4, items: 9994, bytes: 8 });
    policy.see(0.5, &Event::Answered { batch: 9, side: Side::Local, items: 9994, wall: 99.94, bytes: 8 });
    assert_eq!(policy.place(0.5, None, Some(0.1)), None, "2 items of 10 ms, and a way of 56 ms");
}

#[test]
fn left_service_is_never_used_again() {
    let mut policy = ready(Some(10_000), 0.01, 16);
    policy.see(0.4, &Event::Gone { why: "it was killed".to_owned() });
    assert_eq!(policy.place(0.5, None, Some(0.1)), None);
    assert_eq!(policy.step(0.5).0, Step::Stay);
    policy.see(0.6, &Event::Ready { workers: 16 });
    assert!(matches!(policy.link(), Link::Left { .. }));
}

#[test]
fn straggler_in_the_service_is_repeated_locally() {
    let mut policy = ready(Some(10), 10.0, 16);
    for batch in 1..4 {
        policy.see(11.0, &Event::Answered { batch, side: Side::Local, items: 1, wall: 10.0, bytes: 8 });
    }
    policy.see(11.0, &Event::Sent { batch: 7, side: Side::Cloud, first: 4, items: 1, bytes: 8 });
    assert_eq!(policy.repeat(11.5, false, false), None);
    let repeat = policy.repeat(60.0, true, false);
    assert_eq!(repeat, Some(Repeat { batch: 7, to: Side::Local, pieces: 1 }));
    policy.see(60.0, &Event::Sent { batch: 7, side: Side::Local, first: 4, items: 1, bytes: 8 });
    assert_eq!(policy.repeat(61.0, true, false), None, "once is enough");
}

#[test]
fn unknown_length_expects_as_many_items_as_seen() {
    let mut policy = started(None, 0.01);
    assert_eq!(policy.step(0.01).0, Step::Stay, "4 items were seen");
    let mut first = 4;
    for batch in 10..200 {
        policy.see(0.02, &Event::Sent { batch, side: Side::Local, first, items: 10, bytes: 80 });
        first += 10;
    }
    assert_eq!(policy.step(0.02).0, Step::Probe, "1904 are out, and as many again are expected");
}

#[test]
fn serialized_state_decides_the_same() {
    let mut policy = ready(Some(10_000), 0.01, 16);
    let text = serde_json::to_string(&policy).expect("it can be written");
    let mut again: Policy = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(again, policy);
    assert_eq!(again.place(0.4, None, Some(0.1)), policy.place(0.4, None, Some(0.1)));
}

/// A batch of four items on both sides.
fn raced() -> (Policy, u64) {
    let mut policy = ready(Some(10_000), 0.01, 16);
    for side in [Side::Cloud, Side::Local] {
        policy.see(0.4, &Event::Sent { batch: 9, side, first: 4, items: 4, bytes: 32 });
    }
    let done = policy.state.estimates.done;
    (policy, done)
}

fn answered(side: Side, items: u32) -> Event {
    Event::Answered { batch: 9, side, items, wall: 0.01, bytes: 8 }
}

fn back(side: Side, items: u32, lost: bool) -> Event {
    Event::Back { batch: 9, side, items, lost }
}

#[test]
fn items_that_both_sides_answer_count_once() {
    let (mut policy, done) = raced();
    policy.see(0.5, &answered(Side::Cloud, 3));
    assert_eq!(policy.state.estimates.done, done, "either may be first with all of it");
    policy.see(0.5, &answered(Side::Local, 4));
    policy.see(0.5, &back(Side::Cloud, 1, false));
    assert_eq!((policy.state.estimates.done, policy.left() as u64), (done + 4, 9992));
    assert!(policy.state.estimates.sent_batch(9).is_none());
}

#[test]
fn answers_of_the_continuing_side_count_only() {
    let (mut policy, done) = raced();
    policy.see(0.5, &answered(Side::Cloud, 1));
    policy.see(0.5, &answered(Side::Local, 2));
    policy.see(0.5, &back(Side::Cloud, 2, true));
    assert_eq!(policy.state.estimates.done, done, "it owes one more, and may go on");
    policy.see(0.5, &back(Side::Cloud, 1, false));
    assert_eq!(policy.state.estimates.done, done + 2);
    policy.see(0.6, &answered(Side::Local, 2));
    assert_eq!((policy.state.estimates.done, policy.left() as u64), (done + 4, 9992));
}
