//! Decisions about a batch whose worker died, on any side: pure functions, tested without processes. The host's adapter asks,
//! whose pieces go back to the backend or are answered; so does the simulator. ADAPTIVE, whose other side may have the batch
//! as well, asks what a loss says of the batch.

use std::ops::Range;

use crate::model::death::{ExitReason, MemoryLimit, Running, WorkerExit, WorkerLoss};

/// A part of a lost batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Items to send again, and how often the only item of the piece has been tried.
    Again(Range<u32>, u32),
    /// An item that is answered by the death, and its number of tries.
    Answer(u32, u32),
}

/// Pieces that a batch is divided into where the item at fault is unknown. Each step costs a process, and
/// where a worker fell silent three seconds: of 1,000 items that is three steps, where halves take ten.
pub const PARTS: u32 = 16;

/// Processes that may die while they run one item before it is taken for the cause.
///
/// A fault in the item itself comes again: it gets one more try, alone. SIGKILL and SIGTERM come from outside (an
/// operator, the memory killer), where the item most often stood only in the way. Memory may have been leaked by the
/// items before it.
fn deaths_allowed(death: &WorkerExit) -> u32 {
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    match death.cause {
        ExitReason::Signal(SIGKILL | SIGTERM)
        | ExitReason::Stopped(_)
        | ExitReason::OutOfMemory(MemoryLimit::Worker(_) | MemoryLimit::Shared(_))
        | ExitReason::AgentsLost(_)
        | ExitReason::Unknown => 4,
        // Nothing but the item itself can have taken the time.
        ExitReason::Timeout(_) => 1,
        _ => 2,
    }
}

/// Whether a loss says something of the batch: one of its items may have done it. Preparing the function belongs to
/// no item, and agents of a service that go away lose whatever they have.
pub fn accuses(loss: &WorkerLoss) -> bool {
    let prepared = loss.running == Running::Setup;
    !prepared && !matches!(loss.death.cause, ExitReason::AgentsLost(_) | ExitReason::NotStarted(_))
}

/// Splits a batch of `items`, whose only item (if it is one) has been tried `attempt` times before, wherever. `retries`
/// of the user are tries after the one that would be the last without them.
pub fn after_loss(items: u32, attempt: u32, retries: u32, loss: &WorkerLoss) -> Vec<Piece> {
    let again = |range: Range<u32>, attempt| (!range.is_empty()).then_some(Piece::Again(range, attempt));
    let suspect = match loss.running {
        Running::Item(item) => Some(item.min(items - 1)),
        Running::Unknown if items == 1 => Some(0),
        // The function could not be prepared: no item has to do with it.
        Running::Setup => return vec![Piece::Again(0..items, attempt)],
        // One of them did it: divide until it stands alone.
        Running::Unknown => {
            let part = items.div_ceil(PARTS);
            return (0..items)
                .step_by(part as usize)
                .filter_map(|from| again(from..items.min(from + part), 0))
                .collect();
        }
    };
    let Some(suspect) = suspect else { return vec![Piece::Again(0..items, attempt)] };
    let tries = if items == 1 { attempt.saturating_add(1) } else { 1 };
    let alone = if tries >= deaths_allowed(&loss.death).saturating_add(retries) {
        Piece::Answer(suspect, tries)
    } else {
        Piece::Again(suspect..suspect + 1, tries)
    };
    [again(0..suspect, 0), Some(alone), again(suspect + 1..items, 0)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn loss(running: Running, cause: ExitReason) -> WorkerLoss {
        WorkerLoss {
            running,
            death: WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() },
        }
    }

    const SEGFAULT: ExitReason = ExitReason::Signal(11);

    fn timeout() -> ExitReason {
        ExitReason::Timeout(Duration::from_secs(1))
    }

    #[test]
    fn only_the_running_item_is_a_suspect() {
        let pieces = after_loss(10, 0, 0, &loss(Running::Item(3), SEGFAULT));
        assert_eq!(pieces, [Piece::Again(0..3, 0), Piece::Again(3..4, 1), Piece::Again(4..10, 0)]);
    }

    #[test]
    fn a_batch_of_which_nothing_is_known_stands_as_single_items_after_three_deaths() {
        let mut items = 1000;
        for _ in 0..3 {
            let pieces = after_loss(items, 0, 0, &loss(Running::Unknown, SEGFAULT));
            let Piece::Again(first, 0) = &pieces[0] else { panic!("{pieces:?}") };
            items = first.end;
        }
        assert_eq!(items, 1);
        assert_eq!(after_loss(2, 0, 0, &loss(Running::Unknown, SEGFAULT)).len(), 2);
    }

    #[test]
    fn a_suspect_that_is_lethal_alone_is_answered() {
        assert_eq!(after_loss(1, 1, 0, &loss(Running::Item(0), SEGFAULT)), [Piece::Answer(0, 2)]);
        assert_eq!(after_loss(1, 1, 0, &loss(Running::Unknown, SEGFAULT)), [Piece::Answer(0, 2)]);
    }

    #[test]
    fn an_item_that_was_killed_from_outside_gets_more_tries() {
        let killed = || loss(Running::Item(0), ExitReason::Signal(9));
        assert_eq!(after_loss(1, 1, 0, &killed()), [Piece::Again(0..1, 2)]);
        assert_eq!(after_loss(1, 3, 0, &killed()), [Piece::Answer(0, 4)]);
    }

    #[test]
    fn a_timeout_is_answered_at_once_and_costs_that_item_alone() {
        let pieces = after_loss(3, 0, 0, &loss(Running::Item(1), timeout()));
        assert_eq!(pieces, [Piece::Again(0..1, 0), Piece::Answer(1, 1), Piece::Again(2..3, 0)]);
    }

    #[test]
    fn retries_come_on_top_of_the_tries_that_clear_the_innocent() {
        let tries = |cause: ExitReason, retries: u32| {
            let lost = loss(Running::Item(0), cause);
            (0..100).find_map(|attempt| match after_loss(1, attempt, retries, &lost)[..] {
                [Piece::Answer(0, tries)] => Some(tries),
                _ => None,
            })
        };
        for retries in [0, 1, 5] {
            assert_eq!(tries(timeout(), retries), Some(1 + retries));
            assert_eq!(tries(SEGFAULT, retries), Some(2 + retries));
            assert_eq!(tries(ExitReason::Signal(9), retries), Some(4 + retries));
        }
        assert_eq!(after_loss(1, u32::MAX, u32::MAX, &loss(Running::Item(0), SEGFAULT)).len(), 1);
    }

    #[test]
    fn a_failing_preparation_accuses_no_item() {
        assert_eq!(after_loss(5, 0, 0, &loss(Running::Setup, SEGFAULT)), [Piece::Again(0..5, 0)]);
    }

    #[test]
    fn what_is_no_items_work_accuses_none() {
        assert!(!accuses(&loss(Running::Setup, SEGFAULT)));
        assert!(!accuses(&loss(Running::Unknown, ExitReason::AgentsLost(4))));
        assert!(accuses(&loss(Running::Unknown, SEGFAULT)) && accuses(&loss(Running::Item(0), timeout())));
    }

    /// Whatever is known, the pieces are the batch, in order, each item once; and they get smaller or older.
    #[test]
    fn pieces_cover_the_batch() {
        let causes = [SEGFAULT, ExitReason::Signal(9), ExitReason::Exit(1), ExitReason::Unknown];
        for items in (1..40).chain([199]) {
            for running in (0..items + 3).map(Running::Item).chain([Running::Unknown, Running::Setup]) {
                for (attempt, cause) in
                    (0..4).flat_map(|attempt| causes.iter().map(move |cause| (attempt, cause)))
                {
                    let attempt = if items == 1 { attempt } else { 0 };
                    let pieces = after_loss(items, attempt, attempt % 3, &loss(running, cause.clone()));
                    let mut next = 0;
                    for piece in &pieces {
                        let range = match piece {
                            Piece::Again(range, _) => range.clone(),
                            Piece::Answer(item, _) => *item..*item + 1,
                        };
                        assert!(
                            range.start == next && range.end > next,
                            "{running:?} of {items}: {pieces:?}"
                        );
                        next = range.end;
                    }
                    assert_eq!(next, items, "{running:?}: {pieces:?}");
                    if let ([Piece::Again(_, deaths)], true) = (&pieces[..], running != Running::Setup) {
                        assert!(*deaths > attempt, "{running:?} of {items}: {pieces:?}");
                    }
                }
            }
        }
    }
}
