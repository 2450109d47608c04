//! `Json<T>`: serializes a value as one string of JSON text.

use std::any::type_name;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};
use serde::ser::{self, Serialize, Serializer};

use crate::codec::check::is_same;
use crate::codec::json::judge::{Unfit, judge};
use crate::codec::json::read::{read, read_and_tell};
use crate::codec::shapes::Shapes;

/// A value that travels between processes as JSON.
///
/// Items, results and contexts travel in a compact format that holds no names and no types. Some
/// types need them to be read again: enums with `#[serde(untagged)]` or `#[serde(tag = "…")]`,
/// structs with `#[serde(flatten)]` or `#[serde(skip_serializing_if = "…")]`, and
/// `serde_json::Value`. Such a type is refused with an error that points here. Wrapped in `Json`,
/// it travels: larger and several times slower than the compact format.
///
/// So is what a type writes in another way than it reads it, where the compact format would not notice: a
/// field with `#[serde(skip_serializing)]` or `#[serde(skip_deserializing)]` without the other, a variant
/// behind one that has `#[serde(skip)]`, a tuple struct with `#[serde(skip_serializing_if = "…")]`. The
/// first value of each shape is read back before it leaves, where it is encoded; so its `Deserialize` runs
/// in your process, too.
///
/// # Limits
///
/// JSON's own. An item is refused that holds NaN or an infinity, or `Some` of what JSON writes as `null`
/// (`Some(None)`, `Some(())`); map keys must be strings, numbers, `char`s, `bool`s or unit variants; values
/// nested deeper than 128 levels are written, but not read. serde reads no `u128` and no `i128` inside of
/// `untagged`, `tag` and `flatten`. Finite floats come back bit for bit.
///
/// serde's own: an `untagged` enum comes back as the first variant that its JSON fits, and a `flatten`ed
/// `Option` of a map as `Some`.
///
/// # Examples
///
/// ```
/// use fastmap::Json;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(untagged)]
/// enum Cell {
///     Number(f64),
///     Text(String),
/// }
///
/// // A function to map: it takes `Json<Cell>` where it would have taken `Cell`.
/// fn width(cell: Json<Cell>) -> usize {
///     match cell.0 {
///         Cell::Number(number) => number.to_string().len(),
///         Cell::Text(text) => text.len(),
///     }
/// }
///
/// let cells = vec![Cell::Number(2.5), Cell::Text("seven".into())];
/// let widths: Vec<usize> = cells.into_iter().map(Json).map(width).collect();
/// assert_eq!(widths, [3, 5]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Marks the shapes of values that travel as JSON: they may be right there, and wrong in the compact format.
struct AsJson<T>(PhantomData<fn(T)>);

/// As one string that holds the JSON text, whatever the format around it.
impl<T: Serialize + DeserializeOwned> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shapes = Shapes::new::<AsJson<T>>();
        let text = judge(&self.0, &mut shapes)
            .map_err(|unfit| match unfit {
                Unfit::Said(words) => words,
                unfit => format!("in a fastmap::Json<T>: {unfit}"),
            })
            .and_then(|()| serde_json::to_string(&self.0).map_err(|error| error.to_string()))
            .map_err(ser::Error::custom)?;
        if shapes.is_new() && !returns(&self.0, &text, shapes) {
            return Err(ser::Error::custom(OTHER));
        }
        serializer.serialize_str(&text)
    }
}

const OTHER: &str = "in a fastmap::Json<T>: its Deserialize makes another value of the JSON that its Serialize writes, as \
    where a field has two names (#[serde(rename(serialize = …, deserialize = …))]), or where two variants of an \
    #[serde(untagged)] enum look alike";

/// Whether the value of a new shape comes back from its text. Its shapes are known from here on if it does,
/// and no other value could fare otherwise: one with a field whose name is not known when it is read may
/// lose it.
#[cold]
#[inline(never)]
fn returns<T: Serialize + DeserializeOwned>(value: &T, text: &str, shapes: Shapes) -> bool {
    // What is refused, or panics, does so where it is read.
    let seen = catch_unwind(AssertUnwindSafe(|| {
        read_and_tell(text).ok().map(|(back, ignored)| (is_same(value, &back), ignored))
    }));
    match seen {
        Ok(Some((true, false))) => shapes.learn(),
        Ok(Some((false, _))) => return false,
        Ok(Some((true, true)) | None) | Err(_) => {}
    }
    true
}

/// From one string that holds the JSON text.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);

        impl<T: DeserializeOwned> Visitor<'_> for Text<T> {
            type Value = Json<T>;

            fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.write_str("a string of JSON")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Json<T>, E> {
                read(text).map(Json).map_err(|error| {
                    E::custom(format_args!("in a fastmap::Json<{}>: {error}", type_name::<T>()))
                })
            }
        }

        deserializer.deserialize_str(Text(PhantomData))
    }
}
