//! The worker pool of this machine keeps what the trait `Backend` promises, and the kit that says so notices who
//! does not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use fastmap::backends::adaptive::policy;
use fastmap::backends::conformance::{self, Failed, Promise};
use fastmap::backends::{
    Adaptive, AdaptiveOptions, Backend, BackendError, Batch, BatchId, Capacity, Completion, Job, Local,
    LocalOptions, Outcome, Payload, Receipt, Results, Run, Running, SubmitError,
};

fastmap::test_support!();

fn local(processes: usize) -> Local {
    Local::new(LocalOptions::new(processes)).expect("a pool without workers")
}

#[test]
fn a_pool_of_one_worker_keeps_its_promises() -> Result<(), Failed> {
    conformance::check(local(1))
}

#[test]
fn a_pool_of_some_workers_keeps_its_promises() -> Result<(), Failed> {
    conformance::check(local(4))
}

#[test]
fn a_choice_between_two_pools_keeps_its_promises_also_where_the_second_is_always_worth_it()
-> Result<(), Failed> {
    let eager = policy::Options {
        margin: -10.0,
        least_gain: f64::NEG_INFINITY,
        worth_asking: 0.0,
        opening: 0.0,
        ..policy::Options::default()
    };
    for policy in [eager, policy::Options::default()] {
        let options = AdaptiveOptions { policy, ..AdaptiveOptions::default() };
        conformance::check(Adaptive::new(Arc::new(local(2)), Arc::new(local(2)), options))?;
    }
    Ok(())
}

/// What a [`Flawed`] backend does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    NeverHasRoom,
    Panics,
    AnswersTwice,
    ChangesResults,
    HidesFailures,
    ComesBackEarly,
    FlattensErrors,
    AccusesTheFirst,
}

/// The pool of this machine, spoilt.
#[derive(Debug)]
struct Flawed {
    inner: Local,
    flaw: Flaw,
}

struct FlawedRun {
    inner: Box<dyn Run>,
    flaw: Flaw,
    more: VecDeque<Completion>,
}

impl Backend for Flawed {
    fn name(&self) -> &'static str {
        "flawed"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        let inner = self.inner.open(job)?;
        Ok(Box::new(FlawedRun { inner, flaw: self.flaw, more: VecDeque::new() }))
    }
}

impl Run for FlawedRun {
    fn capacity(&mut self) -> Capacity {
        let mut capacity = self.inner.capacity();
        if self.flaw == Flaw::NeverHasRoom {
            capacity.batches = 0;
        }
        capacity
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        assert!(self.flaw != Flaw::Panics, "this backend is not finished");
        self.inner.submit(batch)
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        if let Some(completion) = self.more.pop_front() {
            return Ok(Some(completion));
        }
        let deadline = if self.flaw == Flaw::ComesBackEarly { Instant::now() } else { deadline };
        let polled = self.inner.poll(deadline).map_err(|error| match self.flaw {
            Flaw::FlattensErrors => BackendError::Other(error.to_string()),
            _ => error,
        })?;
        let Some(mut completion) = polled else { return Ok(None) };
        match (&mut completion.outcome, self.flaw) {
            (Outcome::Done(results), Flaw::AnswersTwice) => {
                let payload = Payload::from(results.payload.bytes().to_vec());
                let again = Results { payload, failures: results.failures.clone(), ..Results::default() };
                self.more.push_back(Completion { outcome: Outcome::Done(again), ..completion });
            }
            (Outcome::Done(results), Flaw::ChangesResults) => {
                let mut bytes = results.payload.bytes().to_vec();
                bytes.iter_mut().rev().take(1).for_each(|last| *last ^= 1);
                results.payload = Payload::from(bytes);
            }
            (Outcome::Done(results), Flaw::HidesFailures) => results.failures.clear(),
            (Outcome::Lost(_, loss), Flaw::AccusesTheFirst) => loss.running = Running::Item(0),
            _ => {}
        }
        Ok(Some(completion))
    }

    fn cancel(&mut self, batch: BatchId) {
        self.inner.cancel(batch);
    }

    fn close(self: Box<Self>) -> Receipt {
        self.inner.close()
    }
}

#[test]
fn a_broken_promise_is_named_with_what_was_seen() {
    for (flaw, promise, words) in [
        (Flaw::NeverHasRoom, Promise::Capacity, "capacity() is 0"),
        (Flaw::Panics, Promise::ManyBatches, "not finished"),
        (Flaw::AnswersTwice, Promise::AnswersOnce, "was answered before"),
        (Flaw::ChangesResults, Promise::LargeItems, "not its own"),
        (Flaw::HidesFailures, Promise::ItemFailures, "no failure stands at its offset"),
        (Flaw::ComesBackEarly, Promise::PollDeadline, "where its deadline was in"),
        (Flaw::FlattensErrors, Promise::RefusedSetup, "another error"),
        (Flaw::AccusesTheFirst, Promise::DeathInItem, "is accused and is innocent"),
    ] {
        let others: Vec<Promise> = Promise::ALL.iter().copied().filter(|other| *other != promise).collect();
        let failed = conformance::check_all_but(&others, Flawed { inner: local(2), flaw })
            .expect_err("a flaw that must be seen");
        assert_eq!(failed.broken.len(), 1, "{flaw:?}: {failed}");
        assert_eq!(failed.broken[0].promise, promise, "{flaw:?}: {failed}");
        assert!(failed.to_string().contains(words), "{flaw:?}: {failed}");
    }
}
