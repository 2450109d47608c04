use super::*;

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
