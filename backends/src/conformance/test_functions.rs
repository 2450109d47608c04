//! Functions of the kit, over raw bytes. An item is an order to the worker that runs it; its expected result
//! follows from the order and the context. `trial` encodes orders and verifies results; workers run them.

use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::execution::function::{Descriptor, FunctionId};
use crate::execution::task::{Task, Work};
use crate::model::failure::{FailureKind, ItemFailure};

/// Bytes of the context that precede each result, so that answers of different runs differ.
const TAG: usize = 8;

/// Message of the function that can't be prepared.
pub(crate) const SETUP_FAILURE: &str = "the conformance kit refuses to be prepared";

static SCRIPTED: Descriptor = Descriptor::new(
    || "fastmap conformance: puppet",
    |context| Ok(Box::new(Scripted { context: context.to_vec() })),
);

static FAILING_SETUP: Descriptor = Descriptor::new(
    || "fastmap conformance: refusing",
    |_| Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message: SETUP_FAILURE.to_owned() }),
);

static EXITING_SETUP: Descriptor = Descriptor::new(|| "fastmap conformance: dying", |_| exit(3));

/// The function that follows the orders.
pub(crate) fn scripted() -> FunctionId {
    FunctionId::of(&SCRIPTED)
}

/// A function whose preparation fails.
pub(crate) fn failing_setup() -> FunctionId {
    FunctionId::of(&FAILING_SETUP)
}

/// A function whose preparation ends the process.
pub(crate) fn exiting_setup() -> FunctionId {
    FunctionId::of(&EXITING_SETUP)
}

/// Order to a worker, encoded as an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// Answer with these bytes. An item without bytes is answered by an empty result.
    Echo(&'a [u8]),
    /// Answer with the whole context.
    Context,
    /// Answer with this many bytes.
    Grow(u32),
    /// Answer after that many milliseconds.
    Wait(u32),
    /// Fail with this message.
    Fail(FailureKind, &'a str),
    /// Exit the process with this code.
    Exit(u8),
    /// Crash with SIGSEGV.
    Segfault,
}

/// Expected answer to an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Result(Vec<u8>),
    Failure(FailureKind, String),
    /// None: the process ends.
    WorkerExit,
}

impl<'a> Order<'a> {
    /// Encodes the order as an item.
    pub(crate) fn item(self) -> Vec<u8> {
        let (kind, rest) = match self {
            Order::Echo(bytes) => (b'e', bytes.to_vec()),
            Order::Context => (b'c', Vec::new()),
            Order::Grow(bytes) => (b'g', bytes.to_le_bytes().to_vec()),
            Order::Wait(milliseconds) => (b'w', milliseconds.to_le_bytes().to_vec()),
            Order::Fail(FailureKind::Panic, words) => (b'p', words.as_bytes().to_vec()),
            Order::Fail(FailureKind::Serialize, words) => (b's', words.as_bytes().to_vec()),
            Order::Exit(code) => (b'x', vec![code]),
            Order::Segfault => (b'k', Vec::new()),
        };
        let mut item = vec![kind];
        item.extend(rest);
        item
    }

    fn of(item: &'a [u8]) -> Order<'a> {
        let Some((kind, rest)) = item.split_first() else { return Order::Echo(item) };
        let number = || rest.try_into().map(u32::from_le_bytes).unwrap_or_default();
        let words = || std::str::from_utf8(rest).unwrap_or_default();
        match kind {
            b'c' => Order::Context,
            b'g' => Order::Grow(number()),
            b'w' => Order::Wait(number()),
            b'p' => Order::Fail(FailureKind::Panic, words()),
            b's' => Order::Fail(FailureKind::Serialize, words()),
            b'x' => Order::Exit(rest.first().copied().unwrap_or_default()),
            b'k' => Order::Segfault,
            _ => Order::Echo(rest),
        }
    }
}

/// The expected answer to an item in a run with this context.
pub(crate) fn expected(item: &[u8], context: &[u8]) -> Expected {
    let mut result = context[..context.len().min(TAG)].to_vec();
    match Order::of(item) {
        _ if item.is_empty() => result.clear(),
        Order::Echo(bytes) => result.extend_from_slice(bytes),
        Order::Context => result.extend_from_slice(context),
        Order::Grow(bytes) => result.resize(result.len() + bytes as usize, b'g'),
        Order::Wait(_) => {}
        Order::Fail(kind, words) => return Expected::Failure(kind, words.to_owned()),
        Order::Exit(_) | Order::Segfault => return Expected::WorkerExit,
    }
    Expected::Result(result)
}

struct Scripted {
    context: Vec<u8>,
}

impl Task for Scripted {
    fn run(&mut self, work: &mut Work<'_>) {
        while let Some(item) = work.next_item() {
            match Order::of(item) {
                Order::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds.into())),
                Order::Exit(code) => exit(code.into()),
                // The first signal runs the standard library's handler, which restores the default action.
                Order::Segfault => loop {
                    let _raised = raise(Signal::SIGSEGV);
                },
                _ => {}
            }
            match expected(item, &self.context) {
                Expected::Result(result) => {
                    work.out().extend_from_slice(&(result.len() as u32).to_le_bytes());
                    work.out().extend_from_slice(&result);
                }
                Expected::Failure(kind, words) => {
                    // Bytes of a result that were written before the failure must not be visible.
                    work.out().extend_from_slice(b"half a result");
                    work.fail(kind, words);
                }
                Expected::WorkerExit => unreachable!("the process has ended"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_round_trip() {
        for order in [
            Order::Echo(b"abc"),
            Order::Echo(b""),
            Order::Context,
            Order::Grow(7),
            Order::Wait(8),
            Order::Fail(FailureKind::Panic, "p"),
            Order::Fail(FailureKind::Serialize, "s"),
            Order::Exit(9),
            Order::Segfault,
        ] {
            assert_eq!(Order::of(&order.item()), order);
        }
        assert_eq!(Order::of(b""), Order::Echo(b""));
    }
}
