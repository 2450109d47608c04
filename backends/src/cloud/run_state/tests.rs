use super::*;
use crate::model::batch::BatchBuilder;
use crate::model::ids::JobId;

#[test]
fn unreceived_cancellations_are_queued_again_while_in_flight() {
    let mut state = RunInner::new();
    for seq in 1..=3 {
        state.on_sent(seq, BatchId(seq));
    }
    state.cancelled_seqs.extend([1, 2]);
    assert!(!state.on_done(1), "the answer came while it was being cancelled, and is not wanted");
    state.requeue_cancellations(&[1, 2]);
    assert_eq!(state.to_cancel, [2u64]);
    assert!(!state.on_done(2) && state.on_done(3));
    assert!(state.to_cancel.is_empty());
}

#[test]
fn window_shrinks_to_one_and_grows_each_round() {
    let mut state = RunInner::new();
    for seq in 1..=4 {
        state.on_sent(seq, BatchId(seq));
    }
    // One of four is put back, and the others are answered.
    state.shrink_window();
    state.on_put_back();
    for left in (0..3).rev() {
        state.on_finished();
        assert_eq!(state.free_slots(), usize::from(left == 0), "{left} are in flight");
    }
    for round in 1..4 {
        for _ in 0..round {
            assert!(state.free_slots() > 0);
            state.on_sent(9, BatchId(9));
        }
        assert_eq!(state.free_slots(), 0);
        for _ in 0..round {
            state.on_finished();
        }
        assert_eq!(state.free_slots(), round + 1);
    }
}

fn piece(id: u64, sent_before: Option<(Arc<Opened>, u64)>) -> Piece {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().push(0);
    builder.added(1);
    Piece { batch: builder.finish(JobId(1), BatchId(id), id, 10), sent_before }
}

#[test]
fn exhausted_runs_fetch_paid_answers_and_then_end() {
    let mut state = RunInner::new();
    let earlier = Arc::new(Opened { run: "earlier".to_owned(), lease: Duration::from_secs(1) });
    state.on_sent(1, BatchId(1));
    state.put(piece(2, Some((earlier, 7))));
    state.put(piece(3, None));
    state.on_exhausted(BackendError::OutOfCredits("none left".to_owned()));
    state.on_done(1);
    state.on_finished();
    assert!(state.end_by_exhaustion().is_none(), "an answer is still to be fetched");
    let fetched = state.waiting.pop_front().expect("what was paid before");
    assert_eq!((fetched.batch.id(), state.waiting.len()), (BatchId(2), 0));
    state.on_sent(2, fetched.batch.id());
    assert!(state.end_by_exhaustion().is_none(), "it is being fetched");
    state.on_done(2);
    state.on_finished();
    assert!(state.end_by_exhaustion().is_some());
    // Another thread then sees that the run has ended, and sends no more batches.
    assert!(state.failed && state.end == Some(End::Cancel));
    assert!(state.end_by_exhaustion().is_none(), "once");
}
