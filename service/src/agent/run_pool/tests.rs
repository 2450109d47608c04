//! Tests of `run_pool`.

use fastmap_backends::{FailureKind, ItemFailure, Payload, Results};

use super::*;
use crate::dispatch::Payer;

fn active(items: u32, enough: u64, most: u64) -> ActiveBatch {
    ActiveBatch {
        batch: BatchId(1),
        first: 100,
        items,
        limit: Duration::from_secs(1),
        parts: Vec::new(),
        covered: 0,
        bytes: 0,
        enough,
        whole: Part::HEAD,
        most,
        over: false,
        cpu: Duration::ZERO,
        begun: None,
        age: Duration::ZERO,
        cut: false,
        given_back: false,
        reply: None,
    }
}

#[test]
fn a_batch_whose_answers_bring_enough_is_over_and_the_rest_goes_back() {
    let mut state = State::new(Arc::new(Tab::new("run", Payer::default())));
    state.batches.push(active(10, 1000, 1 << 20));
    let mut answer = |first: u64, items: u32| {
        let results = Results { payload: Payload::from(vec![0; 400]), ..Results::default() };
        state.take(Completion { batch: BatchId(1), first, items, outcome: Outcome::Done(results) })
    };
    assert!(answer(101, 2).is_none());
    assert!(answer(105, 1).is_none());
    let over = answer(104, 1).expect("1200 bytes are enough");
    let mut parts: Vec<_> = over
        .parts
        .iter()
        .map(|part| (part.offset, part.items, matches!(part.outcome, PartOutcome::Returned)))
        .collect();
    parts.sort_unstable();
    let wanted = [(0, 1, true), (1, 2, false), (3, 1, true), (4, 1, false), (5, 1, false), (6, 4, true)];
    assert_eq!(parts, wanted);
    assert!(over.given_back);
    assert!(answer(106, 1).is_none(), "it is abandoned");
}

/// A completion of those items with a result of so many bytes.
fn done(first: u64, items: u32, bytes: usize) -> Completion {
    let results = Results { payload: Payload::from(vec![0; bytes]), ..Results::default() };
    Completion { batch: BatchId(1), first, items, outcome: Outcome::Done(results) }
}

#[test]
fn an_answer_is_cut_to_its_limit_and_says_what_was_too_large() {
    const MOST: u64 = 2000;
    let take = |items: u32, completions: Vec<Completion>| {
        let mut state = State::new(Arc::new(Tab::new("run", Payer::default())));
        state.batches.push(active(items, 1000, MOST));
        let complete = completions.into_iter().find_map(|completion| state.take(completion));
        let active = complete.expect("it is through");
        let answer = fastmap_backends::cloud::Answer { charge: 0, cpu: active.cpu, parts: active.parts };
        assert!(answer.encode().len() as u64 <= MOST);
        assert!(active.over);
        answer.parts
    };
    let parts = take(1, vec![done(100, 1, 5000)]);
    let PartOutcome::Done(results) = &parts[0].outcome else { panic!("{parts:?}") };
    let message = &results.failures[0].message;
    assert!(message.contains("may have 2000") && results.payload.bytes().is_empty(), "{message}");
    let failure = ItemFailure { offset: 0, kind: FailureKind::Panic, message: "x".repeat(5000) };
    let failed = Outcome::Done(Results { failures: vec![failure], ..Results::default() });
    let parts = take(1, vec![Completion { batch: BatchId(1), first: 100, items: 1, outcome: failed }]);
    let PartOutcome::Done(results) = &parts[0].outcome else { panic!("{parts:?}") };
    assert!(results.failures[0].message.len() < 500, "the text of a failure counts as well");
    let parts = take(2, vec![done(100, 2, 5000)]);
    assert!(matches!(&parts[0].outcome, PartOutcome::Lost(loss) if loss.running == Running::Unknown));
    let parts = take(3, vec![done(100, 1, 900), done(101, 1, 5000)]);
    let kinds: Vec<bool> = parts.iter().map(|part| matches!(part.outcome, PartOutcome::Returned)).collect();
    assert_eq!(kinds, [false, true, true], "what comes behind has a way of its own");
}
