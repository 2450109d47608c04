use super::*;
use crate::model::batch::BatchBuilder;
use crate::model::ids::JobId;

#[test]
fn what_the_service_has_not_heard_is_cancelled_again_while_it_is_on_its_way() {
    let mut state = RunInner::new();
    for seq in 1..=3 {
        state.on_sent(seq, BatchId(seq));
    }
    state.given_up.extend([1, 2]);
    assert!(!state.on_done(1), "the answer came while it was being cancelled, and is not wanted");
    state.cancel_again(&[1, 2]);
    assert_eq!(state.to_cancel, [2u64]);
    assert!(!state.on_done(2) && state.on_done(3));
    assert!(state.to_cancel.is_empty());
}

#[test]
fn after_a_want_of_credits_one_goes_alone_and_then_one_more_each_round() {
    let mut state = RunInner::new();
    for seq in 1..=4 {
        state.on_sent(seq, BatchId(seq));
    }
    // One of four is put back, and the others are answered.
    state.shrink_window();
    state.land();
    for left in (0..3).rev() {
        state.land_for_good();
        assert_eq!(state.room(), usize::from(left == 0), "{left} are in flight");
    }
    for round in 1..4 {
        for _ in 0..round {
            assert!(state.room() > 0);
            state.on_sent(9, BatchId(9));
        }
        assert_eq!(state.room(), 0);
        for _ in 0..round {
            state.land_for_good();
        }
        assert_eq!(state.room(), round + 1);
    }
}

fn piece(id: u64, before: Option<(Arc<Opened>, u64)>) -> Piece {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().push(0);
    builder.added(1);
    Piece { batch: builder.finish(JobId(1), BatchId(id), id, 10), before }
}

#[test]
fn without_credits_answers_that_were_paid_before_are_fetched_and_then_the_run_ends() {
    let mut state = RunInner::new();
    let earlier = Arc::new(Opened { run: "earlier".to_owned(), lease: Duration::from_secs(1) });
    state.on_sent(1, BatchId(1));
    state.put(piece(2, Some((earlier, 7))));
    state.put(piece(3, None));
    state.on_exhausted(BackendError::OutOfCredits("none left".to_owned()));
    state.on_done(1);
    state.land_for_good();
    assert!(state.end_by_exhaustion().is_none(), "an answer is still to be fetched");
    let fetched = state.waiting.pop_front().expect("what was paid before");
    assert_eq!((fetched.batch.id(), state.waiting.len()), (BatchId(2), 0));
    state.on_sent(2, fetched.batch.id());
    assert!(state.end_by_exhaustion().is_none(), "it is being fetched");
    state.on_done(2);
    state.land_for_good();
    assert!(state.end_by_exhaustion().is_some());
    // What another thread does next finds the run ended: no batch is sent any more.
    assert!(state.failed && state.end == Some(End::Cancel));
    assert!(state.end_by_exhaustion().is_none(), "once");
}
