//! `Json<T>`: the way round for types that only a self-describing format can carry.
//! Used by users of the crate, around their item, result and context types.
//! Calls `serde_json`; the text then travels as one string of the compact format.

use std::fmt::{self, Formatter};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};
use serde::ser::{self, Serialize, Serializer};

/// A value that travels between processes as JSON.
///
/// Items, results and contexts travel in a compact format that holds no names and no types. Some
/// types need them to be read again: enums with `#[serde(untagged)]` or `#[serde(tag = "…")]`,
/// structs with `#[serde(flatten)]` or `#[serde(skip_serializing_if = "…")]`, and
/// `serde_json::Value`. Such a type is refused with an error that points here. Wrapped in `Json`,
/// it travels: larger and several times slower than the compact format.
///
/// One mistake no check sees: `#[serde(skip_serializing)]` or `#[serde(skip_deserializing)]`
/// without the other. Such a struct can come back with a neighbour's bytes in a field, and no
/// error; use `#[serde(skip)]`, or wrap it in `Json`, which tells fields apart by name.
///
/// # Limits
///
/// JSON's own: NaN and the infinities become `null`, which does not read back as a number; map
/// keys must be strings, numbers, `char`s, `bool`s or unit variants; values nested deeper than 128
/// levels are written, but not read. Finite floats come back bit for bit.
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

/// As one string that holds the JSON text, whatever the format around it.
impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&self.0).map_err(ser::Error::custom)?;
        serializer.serialize_str(&text)
    }
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
                serde_json::from_str(text).map(Json).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text(PhantomData))
    }
}
