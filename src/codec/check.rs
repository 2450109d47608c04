//! Whether a value comes back as itself: what the compact format can't say by itself, as it has no names.
//! Called by the codec for a value that has a shape not seen before; calls `trace` and `replay`.
//!
//! `Serialize` and `Deserialize` of one type need not fit each other where nothing is named. serde's derive
//! numbers variants as they are declared and reads them as if the skipped ones were not there; fields that
//! only one of the two skips shift those behind them. Each was seen to come back as another valid value.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Why;
use super::replay::{By, Refusal, replay};
use super::shapes::Shapes;
use super::token::{Token, Variant, digest};
use super::trace::{Extent, Untraced, trace};

/// Tokens of a trace. A value of more is taken for good.
const MOST: usize = 1 << 20;

/// Refuses a value that would come back as another one. Otherwise its shapes are known from here on.
///
/// What can't be found out is let through: a value that its own `Deserialize` refuses is refused where it
/// is read.
#[cold]
#[inline(never)]
pub(super) fn check<T: Serialize + DeserializeOwned>(value: &T, shapes: Shapes) -> Result<(), Box<Why>> {
    // A panic of the type's own code is answered where the value is read: in a worker, if it is an item.
    let checked = catch_unwind(AssertUnwindSafe(|| survives::<T>(value, &shapes)));
    match checked {
        Ok(Ok(true)) => shapes.learn(),
        Ok(Ok(false)) | Err(_) => {}
        Ok(Err(why)) => return Err(why),
    }
    Ok(())
}

/// Whether the value comes back, as far as that can be found out.
fn survives<T: Serialize + DeserializeOwned>(value: &T, shapes: &Shapes) -> Result<bool, Box<Why>> {
    for extent in [Extent::New(shapes.again()), Extent::Everything] {
        let (tokens, omitted) = match trace(value, extent, false, MOST) {
            Ok(traced) => traced,
            Err(Untraced::Long) => return Ok(true),
            Err(Untraced::Refused | Untraced::Deep) => return Ok(false),
            Err(Untraced::Miscounted { announced, written }) => {
                return Err(Box::new(Why::Miscounted { announced, written }));
            }
        };
        match replayed::<T>(&tokens) {
            Ok(()) => return Ok(true),
            // A sequence of fewer elements may be none that the type accepts.
            Err(Refusal::Said { .. }) if omitted => {}
            Err(Refusal::Said { .. }) => return Ok(false),
            Err(refusal) => return Err(Box::new(refusal.into())),
        }
    }
    Ok(false)
}

/// Reads a trace as the compact format does. Where the result has other variants than were written, or none
/// is made, names decide: what comes out otherwise by names is read wrongly by numbers.
fn replayed<T: Serialize + DeserializeOwned>(tokens: &[Token]) -> Result<(), Refusal> {
    let written = variants(tokens);
    let read = replay::<T>(tokens, By::Number, false);
    if written.is_empty() {
        return read.map(|_| ()).map_err(|refusal| *refusal);
    }
    let read = read.map(|value| variants_of(&value));
    if read.as_ref().is_ok_and(|read| *read == written) {
        return Ok(());
    }
    let by_name = replay::<T>(tokens, By::Name, false).map(|value| variants_of(&value));
    match (read, by_name) {
        // A type that changes its own values does so whichever way it is read.
        (Ok(read), Ok(by_name)) if read == by_name => Ok(()),
        (Ok(read), _) => Err(match first_difference(&written, &read) {
            Some(variant) => Refusal::Variant(variant),
            None => Refusal::Undescribed,
        }),
        (Err(refusal), Ok(_)) => Err(refusal.variant().map_or(*refusal, Refusal::Variant)),
        (Err(refusal), Err(_)) => Err(*refusal),
    }
}

/// The variants of a trace, in an order that does not depend on the one in which a hash map yields them.
fn variants(tokens: &[Token]) -> Vec<Variant> {
    let variant = |token: &Token| if let Token::Variant(variant) = token { Some(*variant) } else { None };
    let mut variants: Vec<_> = tokens.iter().filter_map(variant).collect();
    variants.sort_unstable();
    variants
}

fn variants_of<T: Serialize>(value: &T) -> Vec<Variant> {
    trace(value, Extent::Everything, false, MOST).map_or(Vec::new(), |(tokens, _)| variants(&tokens))
}

/// The first variant that was written and not read.
fn first_difference(written: &[Variant], read: &[Variant]) -> Option<Variant> {
    written.iter().find(|variant| !read.contains(variant)).or(written.first()).copied()
}

/// Whether `back` is what `value` became on its way through a format with names. A type that changes its
/// own values may: then it does so on any way.
pub(super) fn is_same<T: Serialize + DeserializeOwned>(value: &T, back: &T) -> bool {
    let trace = |value: &T| trace(value, Extent::Everything, true, MOST);
    let (Ok((written, _)), Ok((read, _))) = (trace(value), trace(back)) else { return true };
    let read = digest(&read);
    digest(&written) == read
        || replay::<T>(&written, By::Name, true)
            .is_ok_and(|other| trace(&other).is_ok_and(|(other, _)| digest(&other) == read))
}

impl From<Refusal> for Why {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Undescribed => Why::Undescribed,
            Refusal::Said { words, .. } => Why::Refused(words),
            Refusal::Kind { written, read, .. } => Why::Kind { written, read },
            Refusal::Count { name, written, .. } => Why::Count { name, written },
            Refusal::Variant(variant) => Why::Variant(variant),
        }
    }
}
