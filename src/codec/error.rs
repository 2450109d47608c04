//! What can go wrong between a value and its bytes, in words a user can act on.
//! Made by `codec` and `codec::strict`; becomes the source of the crate's own errors.
//! Calls nothing.

use std::error::Error;
use std::fmt::{self, Display, Formatter};

use super::token::Variant;

/// Why a value could not be written to bytes, or read from them.
///
/// The message names the Rust type, the reason, and, where the type is one that the compact format
/// cannot carry, the way out.
#[derive(Debug)]
pub(crate) struct CodecError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    /// "write an item", "read a context": what follows "cannot".
    action: &'static str,
    type_name: &'static str,
    why: Why,
}

/// The reason, without the type.
#[derive(Debug)]
pub(super) enum Why {
    /// `skip_serializing_if` left out this field: seen while writing.
    Skips(&'static str),
    /// A sequence or map that does not say its length, as `flatten` writes: seen while writing.
    NoLength,
    /// The type wants to be told by the bytes what they are, as `untagged`, `tag`, `flatten` and
    /// `serde_json::Value` do: seen while reading.
    Undescribed,
    /// The type's own `Deserialize` would read this variant's number as another variant: found by reading back.
    Variant(Variant),
    /// It would read another number of fields of this struct than the so many that were written: found by reading back.
    Count { name: &'static str, written: usize },
    /// It would read another kind of value: found by reading back.
    Kind { written: &'static str, read: &'static str },
    /// A sequence or map announced another number of elements than it wrote.
    Miscounted { announced: usize, written: usize },
    /// What the type's own `Deserialize` said.
    Refused(String),
    /// It expects another kind of value than the compact format has.
    Unfit(String),
    /// The item takes more bytes than a batch can hold of one.
    TooLong { bytes: usize, limit: u32 },
    /// The value was complete before its bytes were used up.
    Trailing(usize),
    /// What the type's own `Serialize` said.
    Said(String),
    /// There is no memory for a context.
    NoMemory(std::io::Error),
    /// postcard's own error while writing.
    Writing(postcard::Error),
    /// postcard's own error while reading.
    Reading(postcard::Error),
}

impl CodecError {
    #[cold]
    pub(super) fn new<T>(action: &'static str, why: Why) -> Self {
        Self(Box::new(Inner { action, type_name: std::any::type_name::<T>(), why }))
    }
}

impl Display for CodecError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Inner { action, type_name, why } = &*self.0;
        write!(f, "cannot {action} of type {type_name}: {why}")
    }
}

impl Error for CodecError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.why.source()
    }
}

const WAY_OUT: &str = "wrap it in fastmap::Json<T>, which travels as JSON";
const ONE_SIDED: &str = "is what its Deserialize reads what its Serialize writes?";

impl Display for Why {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skips(field) => write!(
                f,
                "it skips the field `{field}` (skip_serializing_if), which the compact format \
                 cannot carry; {WAY_OUT}"
            ),
            Self::NoLength => write!(
                f,
                "it has a sequence or map of unknown length (as #[serde(flatten)] writes), which \
                 the compact format cannot carry; {WAY_OUT}"
            ),
            Self::Undescribed => write!(
                f,
                "it must learn the type of a value from the bytes (as #[serde(untagged)], \
                 #[serde(tag = \"…\")], #[serde(flatten)] and serde_json::Value must), which the \
                 compact format does not say; {WAY_OUT}"
            ),
            Self::Variant(Variant { index, enumeration, name }) => write!(
                f,
                "the variant `{name}` of its enum `{enumeration}` is written as number {index}, which its \
                 Deserialize takes for another one, as where a variant before it has #[serde(skip)] or \
                 #[serde(skip_deserializing)]; let such variants be the last ones, or {WAY_OUT}"
            ),
            Self::Count { name, written } => write!(
                f,
                "{} is {written} where it is written and another where it is read, as by \
                 #[serde(skip_serializing)] or #[serde(skip_deserializing)] without the other, \
                 #[serde(skip_serializing_if)] in a tuple and #[serde(tag = \"…\")] of a struct, which the compact \
                 format cannot carry; use #[serde(skip)], or {WAY_OUT}",
                Fields { name }
            ),
            Self::Kind { written, read } => write!(
                f,
                "{written} is written where its Deserialize reads {read}, which the compact format cannot \
                 carry; {WAY_OUT}"
            ),
            Self::Miscounted { announced, written } => write!(
                f,
                "its Serialize announces a sequence or map of {announced} elements and writes {written}"
            ),
            Self::Refused(words) => refused(f, words),
            Self::Unfit(words) => {
                write!(f, "{words}, which is all that the compact format has of it; {WAY_OUT}")
            }
            Self::TooLong { bytes, limit } => write!(
                f,
                "it takes {bytes} bytes, and one item may take {limit}; split it, or pass a path \
                 or a range instead of the data"
            ),
            Self::Trailing(bytes) => write!(f, "{bytes} bytes are left over; {ONE_SIDED}"),
            Self::Said(words) => f.write_str(words),
            Self::NoMemory(source) => write!(f, "its bytes can't be kept in memory: {source}"),
            Self::Writing(source) => write!(f, "{source}"),
            Self::Reading(source) => write!(f, "{source}; {ONE_SIDED}"),
        }
    }
}

/// What is written with a number of fields, in words.
struct Fields {
    name: &'static str,
}

impl Display for Fields {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.name {
            "" => f.write_str("the number of elements of one of its tuples or sequences"),
            name => write!(f, "the number of fields of `{name}`"),
        }
    }
}

/// The words of a `Deserialize`. Most types that refuse what the compact format has expect names, as JSON has.
fn refused(f: &mut Formatter<'_>, words: &str) -> fmt::Result {
    write!(f, "its Deserialize refused the value: {words}")?;
    if words.contains("fastmap::Json") {
        return Ok(());
    }
    write!(f, "; if it reads only formats with names, as JSON: {WAY_OUT}")
}

impl Error for Why {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Writing(source) | Self::Reading(source) => Some(source),
            Self::NoMemory(source) => Some(source),
            _ => None,
        }
    }
}

impl serde::ser::Error for Box<Why> {
    #[cold]
    fn custom<T: Display>(words: T) -> Self {
        Box::new(Why::Said(words.to_string()))
    }
}

/// While writing; a reader says `Why::reading`.
impl From<postcard::Error> for Box<Why> {
    #[cold]
    fn from(source: postcard::Error) -> Self {
        Box::new(match source {
            postcard::Error::SerializeSeqLengthUnknown => Why::NoLength,
            source => Why::Writing(source),
        })
    }
}

impl Why {
    // Boxed for its callers, whose results then carry a pointer, not 32 bytes of reason.
    #[expect(clippy::unnecessary_box_returns)]
    #[cold]
    pub(super) fn reading(source: postcard::Error) -> Box<Self> {
        Box::new(match source {
            postcard::Error::WontImplement => Self::Undescribed,
            source => Self::Reading(source),
        })
    }
}
