//! The trials, one function per promise. `trial` checks the general form of completions; these functions
//! check what is specific to a promise.

use std::thread;
use std::time::{Duration, Instant};

use super::hopeless::{End, run_to_failure};
use super::trial::{MAX_IN_FLIGHT, RESULT_CREDIT, Trial};
use crate::Backend;
use crate::conformance::test_functions::{Order, SETUP_FAILURE, exiting_setup, failing_setup, scripted};
use crate::conformance::trial::TIMEOUT;
use crate::execution::function::FunctionId;
use crate::model::death::Running;
use crate::model::error::BackendError;
use crate::model::failure::FailureKind;
use crate::model::ids::BatchId;

type TrialResult = Result<(), String>;

/// Durations, in milliseconds, of an item that a call must not wait for. If the call takes as long because
/// the machine is loaded, the next duration is tried.
const ITEM_MILLIS: [u32; 3] = [500, 2_000, 8_000];

/// Runs a few items to check that the backend still works.
fn still_works(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for n in 0..10u8 {
        trial.order(&[Order::Echo(&[n]), Order::Echo(b"still here")])?;
    }
    trial.finish()
}

pub(super) fn capacity(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for _ in 0..3 {
        let room = trial.capacity()?;
        if room.batches > room.slots
            || room.workers == 0
            || room.targets.bytes == 0
            || room.targets.work.is_zero()
        {
            return Err(format!("a run that holds nothing says {room:?}"));
        }
        for n in 0..room.batches.min(MAX_IN_FLIGHT) {
            trial.order(&[Order::Echo(&n.to_le_bytes())])?;
        }
        trial.settle()?;
    }
    trial.finish()
}

pub(super) fn answers_once(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    let mut index = 0u32;
    for size in [1, 2, 3, 64, 1, 500, 7, 1000, 1] {
        for stride in [None, Some(5)] {
            let items = (index..index + size).map(|n| Order::Echo(&n.to_le_bytes()).item()).collect();
            index += size;
            let batch = trial.batch_of(items, stride, RESULT_CREDIT);
            trial.submit(batch)?;
        }
    }
    trial.finish()
}

pub(super) fn many_batches(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for n in 0..2000u32 {
        trial.order(&[Order::Echo(&n.to_le_bytes())])?;
    }
    trial.finish()
}

pub(super) fn empty_items(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for items in [vec![vec![]], vec![vec![]; 100], vec![vec![], Order::Echo(b"not empty").item(), vec![]]] {
        let batch = trial.batch_of(items, None, RESULT_CREDIT);
        trial.submit(batch)?;
    }
    trial.finish()
}

pub(super) fn large_items(backend: &dyn Backend) -> TrialResult {
    let large: Vec<u8> = (0..8u32 << 20).map(|n| (n ^ (n >> 8)) as u8).collect();
    let mut trial = Trial::open(backend)?;
    trial.order(&[Order::Echo(&large)])?;
    trial.order(&[
        Order::Echo(b"small"),
        Order::Echo(&large[..3 << 20]),
        Order::Echo(b""),
        Order::Echo(&large),
    ])?;
    trial.order(&[Order::Echo(b"small again")])?;
    trial.finish()
}

pub(super) fn context(backend: &dyn Backend) -> TrialResult {
    for bytes in [0, 1, 100, 3 << 20] {
        let context: Vec<u8> = (0..bytes).map(|n: u32| (n ^ (n >> 8)) as u8).collect();
        let mut trial = Trial::open_with(backend, &context)?;
        for _ in 0..4 {
            trial.order(&[Order::Context, Order::Echo(b"between"), Order::Context])?;
        }
        trial.finish()?;
    }
    Ok(())
}

pub(super) fn item_failures(backend: &dyn Backend) -> TrialResult {
    let good = Order::Echo(b"good");
    let panic = Order::Fail(FailureKind::Panic, "it panicked");
    let unreadable = Order::Fail(FailureKind::Serialize, "it could not be read");
    let mut trial = Trial::open(backend)?;
    trial.order(&[panic])?;
    trial.order(&[panic, good, unreadable, good, good, panic])?;
    trial.order(&[good, good, panic, unreadable, panic, good])?;
    trial.order(&[unreadable; 40])?;
    trial.order(&[good])?;
    trial.finish()
}

pub(super) fn result_credit(backend: &dyn Backend) -> TrialResult {
    const RESULT: u32 = 64 << 10;
    let mut trial = Trial::open(backend)?;
    for credit in [0, 1, 4 * u64::from(RESULT), u64::MAX] {
        let mut items = vec![Order::Grow(RESULT).item(); 24];
        items[5] = Order::Fail(FailureKind::Panic, "among large results").item();
        let batch = trial.batch_of(items, None, credit);
        trial.submit(batch)?;
    }
    trial.finish()
}

pub(super) fn submit_never_waits(backend: &dyn Backend) -> TrialResult {
    for millis in ITEM_MILLIS {
        let mut trial = Trial::open(backend)?;
        let limit = (trial.capacity()?.slots + 4).min(MAX_IN_FLIGHT);
        let started = Instant::now();
        for _ in 0..limit {
            let batch = trial.batch(&[Order::Wait(millis)]);
            if trial.try_submit(batch)?.is_some() {
                break;
            }
        }
        let took = started.elapsed();
        trial.close();
        if took < Duration::from_millis(millis.into()) {
            return still_works(backend);
        }
    }
    Err(format!(
        "submit took as long as the items run, also when that was {} ms",
        ITEM_MILLIS[ITEM_MILLIS.len() - 1]
    ))
}

pub(super) fn poll_deadline(backend: &dyn Backend) -> TrialResult {
    const PAUSE: Duration = Duration::from_millis(50);
    // Tolerance for a wait on a loaded machine.
    const TOLERANCE: Duration = Duration::from_secs(10);
    let mut idle = Trial::open(backend)?;
    for _ in 0..2 {
        let started = Instant::now();
        if idle.poll(started + PAUSE)? {
            return Err("a run that was given nothing has a completion".to_owned());
        }
        let took = started.elapsed();
        if took < PAUSE.mul_f64(0.9) || took > PAUSE + TOLERANCE {
            return Err(format!("poll came back after {took:?}, where its deadline was in {PAUSE:?}"));
        }
        idle.poll(started)?;
        idle.order(&[Order::Echo(b"busy")])?;
        idle.settle()?;
    }
    idle.finish()?;
    for millis in ITEM_MILLIS {
        let mut busy = Trial::open(backend)?;
        busy.order(&[Order::Wait(millis)])?;
        let started = Instant::now();
        let completed = busy.poll(started + PAUSE)?;
        let took = started.elapsed();
        busy.finish()?;
        if took < Duration::from_millis(millis.into()) {
            return match completed {
                true => Err(format!("an item that runs for {millis} ms was answered after {took:?}")),
                false if took < PAUSE.mul_f64(0.9) => Err(format!(
                    "poll came back after {took:?} with nothing, where its deadline was in {PAUSE:?}"
                )),
                false => Ok(()),
            };
        }
    }
    Err("poll with a deadline waits for the item that runs".to_owned())
}

pub(super) fn cancel(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for round in 0..5u8 {
        let room = trial.capacity()?.batches.min(MAX_IN_FLIGHT);
        let mut batches = Vec::new();
        for n in 0..room {
            let batch = trial.batch(&[Order::Wait(10), Order::Echo(&[round, n as u8]), Order::Wait(1)]);
            batches.push(batch.id());
            trial.submit(batch)?;
        }
        // The first batches probably run, the last ones are probably queued.
        for (n, batch) in batches.into_iter().enumerate() {
            if n % 2 == usize::from(round % 2) {
                trial.cancel(batch);
                trial.cancel(batch);
            }
        }
        trial.cancel(BatchId(u64::MAX));
        trial.settle()?;
    }
    trial.order(&[Order::Echo(b"after all")])?;
    trial.finish()
}

pub(super) fn two_runs(backend: &dyn Backend) -> TrialResult {
    // In one thread, polled in turn: one run always has work, and the other one must still finish.
    let mut greedy = Trial::open(backend)?;
    let mut modest = Trial::open(backend)?;
    let mut left = 40u8;
    let until = Instant::now() + TIMEOUT;
    while left > 0 || !modest.is_settled() {
        greedy.fill(&[Order::Wait(2), Order::Echo(b"greedy")])?;
        if left > 0 && modest.capacity()?.batches > 0 {
            left -= 1;
            modest.order(&[Order::Echo(&[left])])?;
        }
        for run in [&mut greedy, &mut modest] {
            run.poll(Instant::now() + Duration::from_millis(1))?;
        }
        if Instant::now() > until {
            return Err(format!("beside a busy run another one of 40 items did not end within {TIMEOUT:?}"));
        }
    }
    modest.finish()?;
    greedy.finish()?;
    // In separate threads.
    thread::scope(|scope| {
        let busy = || {
            let mut trial = Trial::open(backend)?;
            for n in 0..200u32 {
                trial.order(&[Order::Echo(&n.to_le_bytes()), Order::Context])?;
            }
            trial.finish()
        };
        let others: Vec<_> = (0..3).map(|_| scope.spawn(busy)).collect();
        others.into_iter().try_for_each(|other| other.join().map_err(|_| "a run panicked".to_owned())?)
    })
}

pub(super) fn ended_midway(backend: &dyn Backend) -> TrialResult {
    for close in [true, false] {
        for millis in [100, 0] {
            let mut trial = Trial::open(backend)?;
            for _ in 0..trial.capacity()?.batches.min(MAX_IN_FLIGHT) {
                trial.order(&[Order::Echo(b"unread"), Order::Wait(millis), Order::Wait(millis)])?;
            }
            if close {
                trial.close();
            } else {
                drop(trial);
            }
            still_works(backend)?;
        }
    }
    // Runs without batches.
    for _ in 0..100 {
        Trial::open(backend)?.close();
    }
    still_works(backend)
}

pub(super) fn moves_between_threads(backend: &dyn Backend) -> TrialResult {
    let mut trial = Trial::open(backend)?;
    for round in 0..4u8 {
        trial = thread::scope(|scope| {
            let step = scope.spawn(move || {
                trial.order(&[Order::Echo(&[round]), Order::Context])?;
                if round % 2 == 1 {
                    trial.settle()?;
                }
                Ok::<_, String>(trial)
            });
            step.join().map_err(|_| "a run panicked in another thread".to_owned())?
        })?;
    }
    thread::scope(|scope| scope.spawn(move || trial.finish()).join())
        .map_err(|_| "a run panicked in another thread".to_owned())?
}

pub(super) fn unknown_function(backend: &dyn Backend) -> TrialResult {
    let known = scripted();
    for (offset, name) in [(0, "no such function"), (8, &*known.name), (1 << 40, &*known.name)] {
        let unknown = FunctionId { offset: known.offset.wrapping_add(offset), name: name.to_owned() };
        match run_to_failure(backend, unknown)? {
            End::Error(_) => {}
            End::Lost(losses) => {
                let first = losses.first().map(|loss| loss.death.to_string());
                return Err(format!("a worker died of it: {}", first.unwrap_or_default()));
            }
        }
        still_works(backend)?;
    }
    Ok(())
}

pub(super) fn refused_setup(backend: &dyn Backend) -> TrialResult {
    match run_to_failure(backend, failing_setup())? {
        End::Error(BackendError::Setup(failure))
            if failure.kind == FailureKind::Serialize && failure.message == SETUP_FAILURE => {}
        End::Error(other) => return Err(format!("the run ended by another error: {other:?}")),
        End::Lost(losses) => {
            let first = losses.first().map(|loss| loss.death.to_string());
            return Err(format!("a worker died of it: {}", first.unwrap_or_default()));
        }
    }
    still_works(backend)
}

pub(super) fn death_in_setup(backend: &dyn Backend) -> TrialResult {
    if let End::Lost(losses) = run_to_failure(backend, exiting_setup())?
        && let Some(loss) = losses.iter().find(|loss| matches!(loss.running, Running::Item(_)))
    {
        return Err(format!("an item is accused where none was begun: {loss:?}"));
    }
    still_works(backend)
}

pub(super) fn death_in_item(backend: &dyn Backend) -> TrialResult {
    for lethal in [Order::Segfault, Order::Exit(0), Order::Exit(7)] {
        for places in [&[5][..], &[0], &[7], &[1, 2, 6]] {
            let mut trial = Trial::open(backend)?;
            for n in 0..12u8 {
                let echo = [n];
                let mut orders = [Order::Echo(&echo); 8];
                if n == 4 {
                    for at in places {
                        orders[*at] = lethal;
                    }
                }
                trial.order(&orders)?;
            }
            trial.settle()?;
            if trial.died() != places.len() || trial.losses.is_empty() {
                return Err(format!(
                    "of {} items that end their process {} did, by {} deaths",
                    places.len(),
                    trial.died(),
                    trial.losses.len()
                ));
            }
            for n in 0..8u8 {
                trial.order(&[Order::Echo(&[n])])?;
            }
            trial.finish()?;
        }
        let mut alone = Trial::open(backend)?;
        alone.order(&[lethal])?;
        alone.finish()?;
        still_works(backend)?;
    }
    Ok(())
}
