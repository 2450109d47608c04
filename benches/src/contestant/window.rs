//! What contestants share that are handed chunks and give them back in any order: a bounded window of chunks under
//! way, and results in order.

use std::collections::VecDeque;

use super::Plan;

/// Hands chunks of `item(0)`, `item(1)`, … to `submit`, as many at a time as the plan's window holds, and what
/// `receive` gives (the number of a chunk and its results, `None` if it is lost) to `consume`, in order.
///
/// Ends early when `consume` says `false`; what is under way then is received first, so that nothing is left over.
pub(super) fn drive<State, In, Out>(
    state: &mut State,
    plan: Plan,
    count: u64,
    item: impl Fn(u64) -> In,
    mut submit: impl FnMut(&mut State, u64, Vec<In>),
    mut receive: impl FnMut(&mut State) -> (u64, Option<Vec<Out>>),
    mut consume: impl FnMut(Option<Out>) -> bool,
) {
    // The chunks from `first` on that are submitted: not received yet, or received before their turn.
    let mut window: VecDeque<Option<Option<Vec<Out>>>> = VecDeque::with_capacity(plan.window);
    let mut outstanding = 0;
    let (mut first, mut next) = (0, 0);
    let length = |chunk: u64| plan.chunk.min(count - chunk * plan.chunk);
    loop {
        while window.len() < plan.window && next * plan.chunk < count {
            let from = next * plan.chunk;
            submit(state, next, (from..from + length(next)).map(&item).collect());
            window.push_back(None);
            (next, outstanding) = (next + 1, outstanding + 1);
        }
        if outstanding > 0 {
            let (chunk, results) = receive(state);
            window[(chunk - first) as usize] = Some(results);
            outstanding -= 1;
        } else if window.is_empty() {
            return;
        }
        while let Some(results) = window.front_mut().and_then(Option::take) {
            window.pop_front();
            let wanted = match results {
                Some(results) => results.into_iter().all(|result| consume(Some(result))),
                None => (0..length(first)).all(|_| consume(None)),
            };
            first += 1;
            if !wanted {
                (0..outstanding).for_each(|_| drop(receive(state)));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_no_more_than_the_window_is_under_way() {
        let plan = Plan { window: 3, ..Plan::chunks_of(4) };
        let mut under_way: Vec<(u64, Vec<u64>)> = Vec::new();
        let mut seen = Vec::new();
        // What was handed over last is answered first.
        drive(
            &mut under_way,
            plan,
            10,
            |index| index,
            |under_way, chunk, items| {
                under_way.push((chunk, items));
                assert!(under_way.len() <= 3);
            },
            |under_way| {
                under_way.pop().map(|(chunk, items)| (chunk, Some(items))).expect("something is under way")
            },
            |result| {
                seen.push(result);
                true
            },
        );
        assert_eq!(seen, (0..10).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn a_lost_chunk_gives_as_many_failures_as_it_had_items() {
        let mut under_way = VecDeque::new();
        let mut failed = 0;
        drive(
            &mut under_way,
            Plan::chunks_of(4),
            10,
            |index| index,
            |under_way, chunk, _| under_way.push_back(chunk),
            |under_way| (under_way.pop_front().expect("something is under way"), None::<Vec<u64>>),
            |result| {
                failed += u64::from(result.is_none());
                true
            },
        );
        assert_eq!(failed, 10);
    }
}
