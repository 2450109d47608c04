//! The functions of the kit, over raw bytes: an item is an order to the worker that runs it, and what its result must
//! be follows from the order and the context. Encoded and judged by `trial`, carried out in workers.

use std::process::exit;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::execution::function::{Descriptor, FunctionId};
use crate::execution::task::{Task, Work};
use crate::model::failure::{FailureKind, ItemFailure};

/// Bytes of the context that stand before each result, so that answers of different runs differ.
const TAG: usize = 8;

/// What the function that can't be prepared says.
pub(crate) const REFUSAL: &str = "the conformance kit refuses to be prepared";

static PUPPET: Descriptor = Descriptor::new(
    || "fastmap conformance: puppet",
    |context| Ok(Box::new(Puppet { context: context.to_vec() })),
);

static REFUSING: Descriptor = Descriptor::new(
    || "fastmap conformance: refusing",
    |_| Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message: REFUSAL.to_owned() }),
);

static DYING: Descriptor = Descriptor::new(|| "fastmap conformance: dying", |_| exit(3));

/// The function that obeys.
pub(crate) fn puppet() -> FunctionId {
    FunctionId::of(&PUPPET)
}

/// A function whose preparation fails.
pub(crate) fn refusing() -> FunctionId {
    FunctionId::of(&REFUSING)
}

/// A function whose preparation ends the process.
pub(crate) fn dying() -> FunctionId {
    FunctionId::of(&DYING)
}

/// What a worker is to do with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// Answer by these bytes. As an item of no bytes it answers by nothing at all.
    Echo(&'a [u8]),
    /// Answer by the whole context.
    Context,
    /// Answer by so many bytes.
    Grow(u32),
    /// Answer after that many milliseconds.
    Wait(u32),
    /// Fail with these words.
    Fail(FailureKind, &'a str),
    /// Leave by `exit`.
    Exit(u8),
    /// Die of SIGSEGV.
    Segfault,
}

/// What must come back for an item.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Result(Vec<u8>),
    Failure(FailureKind, String),
    /// Nothing: the process ends.
    WorkerExit,
}

impl<'a> Order<'a> {
    /// The item that gives this order.
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

/// What an item must be answered by in a run with that context.
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

struct Puppet {
    context: Vec<u8>,
}

impl Task for Puppet {
    fn run(&mut self, work: &mut Work<'_>) {
        while let Some(item) = work.next_item() {
            match Order::of(item) {
                Order::Wait(milliseconds) => sleep(Duration::from_millis(milliseconds.into())),
                Order::Exit(code) => exit(code.into()),
                // The standard library's handler takes the first one, and gives the signal its default back.
                Order::Segfault => loop {
                    let _dead = raise(Signal::SIGSEGV);
                },
                _ => {}
            }
            match expected(item, &self.context) {
                Expected::Result(result) => {
                    work.out().extend_from_slice(&(result.len() as u32).to_le_bytes());
                    work.out().extend_from_slice(&result);
                }
                Expected::Failure(kind, words) => {
                    // What was written of a result before the failure must not be seen.
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
    fn an_order_survives_the_way() {
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
