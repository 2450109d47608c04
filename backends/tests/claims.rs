//! Every order in which a worker's main thread and its helper thread can come to the claims of a batch, tried by loom: each item
//! is run or given back, never both and never neither.

use loom::sync::Arc;
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[path = "../src/execution/claims.rs"]
mod claims;

use claims::Claims;

/// Tries every order with up to three switches between threads at places where none has to be.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Claims chunks as `Work` does, until there is nothing more; how many items were run. `stops_after`: results have reached
/// their credit then, and what was not begun is given back with the answer.
fn run(claims: &Claims, chunk: u32, stops_after: Option<u32>) -> u32 {
    let (mut begun, mut claimed) = (0, 0);
    loop {
        if stops_after.is_some_and(|most| begun >= most) {
            claims.close();
            return begun;
        }
        if begun == claimed {
            match claims.claim(chunk) {
                Some(end) => claimed = end,
                None => return begun,
            }
        }
        begun += 1;
    }
}

#[test]
fn an_item_is_run_or_given_back_in_whatever_order_two_threads_come() {
    for (items, chunk) in [(1, 1), (2, 1), (3, 2), (4, 1), (4, 3)] {
        model(move || {
            let claims = Arc::new(Claims::new(items));
            let helper = {
                let claims = Arc::clone(&claims);
                // The host asks once more as soon as it has the answer to its first question.
                thread::spawn(move || [claims.recall(true), claims.recall(false)])
            };
            let ran = run(&claims, chunk, None);
            let given_back = helper.join().expect("it ends");
            // The later question may take from where the earlier one left off, and never more.
            if let [Some(first), Some(second)] = given_back {
                assert!(second < first);
            }
            let kept = given_back.into_iter().flatten().min().unwrap_or(items);
            assert_eq!(ran, kept, "of {items}, chunk {chunk}, {given_back:?}");
        });
    }
}

#[test]
fn a_batch_that_is_closed_gives_nothing_back_any_more() {
    model(|| {
        let claims = Arc::new(Claims::new(4));
        let helper = {
            let claims = Arc::clone(&claims);
            thread::spawn(move || claims.recall(true))
        };
        let ran = run(&claims, 1, Some(2));
        let given_back = helper.join().expect("it ends");
        // What was taken back is behind what was run; the answer tells of the rest.
        assert!(given_back.is_none_or(|from| from >= ran), "{ran} {given_back:?}");
        assert_eq!(claims.recall(false), None);
        assert_eq!(claims.claim(1), None);
    });
}

#[test]
fn two_deputies_questions_never_take_the_same_items() {
    model(|| {
        let claims = Arc::new(Claims::new(3));
        let ask = |half| {
            let claims = Arc::clone(&claims);
            thread::spawn(move || claims.recall(half))
        };
        let (one, other) = (ask(true), ask(false));
        let ran = run(&claims, 1, None);
        let (one, other) = (one.join().expect("it ends"), other.join().expect("it ends"));
        assert!(one.is_none() || one != other);
        assert_eq!(ran, one.into_iter().chain(other).min().unwrap_or(3));
    });
}
