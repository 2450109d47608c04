//! Refusals of batches, in words for their client.

use fastmap_backends::cloud::{Problem, ProblemCode};
use fastmap_backends::in_credits;

use crate::pricing;
use crate::problem::{Refusal, ended, refuse};
use crate::store::Reserved;

pub(super) fn conflict() -> Refusal {
    refuse(ProblemCode::SeqConflict, "another batch came under this seq before")
}

pub(super) fn gone() -> Refusal {
    refuse(ProblemCode::ResultGone, "the answer was acknowledged, and is no longer kept")
}

pub(super) fn cancelled() -> Refusal {
    refuse(ProblemCode::BatchCancelled, "the batch was cancelled by its client")
}

/// Why a batch is not dispatched.
pub(super) fn refused(reserved: Reserved) -> Refusal {
    match reserved {
        Reserved::Acknowledged => gone(),
        Reserved::Conflict => conflict(),
        Reserved::NoRun => refuse(ProblemCode::NotFound, "there is no such run in this account"),
        Reserved::Ended(state, reason) => ended(&state, reason.as_deref()),
        Reserved::CapReached { cap, spent, least } => {
            refuse(ProblemCode::SpendCapReached, cap_reached(cap, spent, least))
        }
        Reserved::OutOfCredits => {
            refuse(ProblemCode::OutOfCredits, "the account has too little left for another batch")
        }
        Reserved::Full(kept) => full(kept),
        Reserved::CreditsOnHold | Reserved::Granted(_) | Reserved::Answered(..) | Reserved::OwnedByOther => {
            let detail = "what is left is reserved for batches that run";
            Problem::new(ProblemCode::CreditsHeld, detail).retry_after(1).into()
        }
    }
}

/// What a run may still spend is too little for any batch.
pub(super) fn cap_reached(cap: i64, spent: i64, least: i64) -> String {
    let least = format!("the least that is reserved for a batch is {}", in_credits(least));
    match spent {
        ..=0 => format!(
            "the run may spend {} (its max_credits), too little for any batch: {least}",
            in_credits(cap)
        ),
        _ => format!(
            "the run has spent {} of the {} that it may (its max_credits), and the rest is too little for \
             another batch: {least}",
            pricing::show(spent),
            in_credits(cap)
        ),
    }
}

/// No more answers are kept for the account.
pub(super) fn full(kept: u64) -> Refusal {
    let detail = format!(
        "{kept} bytes of the account's answers are kept, as many as may be: acknowledge those that have arrived \
         (POST /runs/{{run}}/ack), or wait until answers of ended runs are forgotten"
    );
    Problem::new(ProblemCode::TooManyBatches, detail).retry_after(1).into()
}

/// A batch's number as the database stores it.
pub(super) fn check_seq(seq: u64) -> Result<i64, Refusal> {
    i64::try_from(seq).map_err(|_| refuse(ProblemCode::BadRequest, "a seq beyond 2^63"))
}
