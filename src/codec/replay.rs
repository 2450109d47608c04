//! A trace, read as the compact format would be read; what doesn't fit what was written is an error.
//! Called by `check`, for values of a new shape.
//!
//! The format has neither names nor types: here both are known, so that a `Deserialize` is caught that asks
//! for another kind of value, reads more or fewer fields, or takes a variant's number for another variant.
//! What has the same bytes may be read in place of each other: a tuple for a struct, a wider integer, a
//! `char` for a string.

use std::fmt::{self, Display, Formatter};

use serde::de::value::SeqDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::token::{Token, Variant};

type Result<T> = std::result::Result<T, Box<Refusal>>;

/// How a variant is named to `Deserialize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its number, as in the compact format.
    Number,
    /// By its name, as in JSON.
    Name,
}

/// Why a trace can't be read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The words of a `Deserialize` that refuses the value.
    Said { words: String, variant: Option<Variant> },
    /// It asks what comes next: formats without types don't say.
    Undescribed,
    /// It asks for another kind of value than was written.
    Kind { written: &'static str, read: &'static str, variant: Option<Variant> },
    /// It reads another number of elements than were written.
    Count { name: &'static str, written: usize, variant: Option<Variant> },
    /// It knows no variant of this number or name.
    Variant(Variant),
}

impl Refusal {
    /// The variant that was read last, whose number may be another one's.
    pub(super) fn variant(&self) -> Option<Variant> {
        match self {
            Refusal::Said { variant, .. }
            | Refusal::Kind { variant, .. }
            | Refusal::Count { variant, .. } => *variant,
            Refusal::Variant(variant) => Some(*variant),
            Refusal::Undescribed => None,
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Box<Refusal> {}

impl de::Error for Box<Refusal> {
    fn custom<T: Display>(words: T) -> Self {
        Box::new(Refusal::Said { words: words.to_string(), variant: None })
    }
}

/// The value that `tokens` are the trace of, as its `Deserialize` makes it. `readable`: as from a format
/// that people can read.
pub(super) fn replay<T: DeserializeOwned>(tokens: &[Token], by: By, readable: bool) -> Result<T> {
    let mut replay = Replay { tokens, by, readable, variant: None };
    let value = T::deserialize(&mut replay).map_err(|mut refusal| {
        if let Refusal::Said { variant, .. } = &mut *refusal {
            *variant = replay.variant;
        }
        refusal
    })?;
    match replay.tokens {
        [] => Ok(value),
        [next, ..] => Err(replay.differs(next, "nothing more")),
    }
}

struct Replay<'de> {
    /// What is left.
    tokens: &'de [Token],
    by: By,
    readable: bool,
    /// The variant that was read last.
    variant: Option<Variant>,
}

impl<'de> Replay<'de> {
    fn next(&mut self) -> Option<&'de Token> {
        let (next, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(next)
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the error of all that is here")]
    fn differs(&self, written: &Token, read: &'static str) -> Box<Refusal> {
        Box::new(Refusal::Kind { written: written.kind(), read, variant: self.variant })
    }

    fn refuse<T>(&self, written: Option<&Token>, read: &'static str) -> Result<T> {
        let written = written.map_or("nothing more", Token::kind);
        Err(Box::new(Refusal::Kind { written, read, variant: self.variant }))
    }

    fn fixed<V: Visitor<'de>>(&mut self, asked: usize, visitor: V) -> Result<V::Value> {
        let (written, name) = match self.next() {
            Some(Token::Fixed(written, name)) => (*written, *name),
            Some(Token::Unit) if asked == 0 => (0, ""),
            other => return self.refuse(other, "a tuple or struct"),
        };
        self.group(Group { name, written, left: written, asked: Some(asked) }, |elements| {
            visitor.visit_seq(elements)
        })
    }
}

fn out_of_range<T>(number: impl Display) -> Result<T> {
    Err(de::Error::custom(format_args!("{number} is out of range")))
}

macro_rules! integers {
    ($token:ident, $read:expr, $($method:ident $visit:ident $t:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            match self.next() {
                Some(Token::$token(number)) => match <$t>::try_from(*number) {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => out_of_range(number),
                },
                other => self.refuse(other, $read),
            }
        }
    )*};
}

macro_rules! scalars {
    ($($method:ident $read:expr, ($this:ident, $visitor:ident) { $($token:pat => $value:expr,)* })*) => {$(
        fn $method<V: Visitor<'de>>(self, $visitor: V) -> Result<V::Value> {
            let $this = self;
            match $this.next() {
                $(Some($token) => $value,)*
                other => $this.refuse(other, $read),
            }
        }
    )*};
}

macro_rules! undescribed {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value> {
            Err(Box::new(Refusal::Undescribed))
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Replay<'de> {
    type Error = Box<Refusal>;

    fn is_human_readable(&self) -> bool {
        self.readable
    }

    undescribed! { deserialize_any deserialize_identifier deserialize_ignored_any }

    integers! {
        Signed, "a signed integer",
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
    }

    integers! {
        Unsigned, "an unsigned integer",
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
    }

    scalars! {
        deserialize_bool "a bool", (this, visitor) {
            Token::Bool(value) => visitor.visit_bool(*value),
            Token::U8(value @ 0..=1) => visitor.visit_bool(*value == 1),
        }
        deserialize_i8 "an i8", (this, visitor) {
            Token::I8(value) => visitor.visit_i8(*value),
        }
        deserialize_u8 "a u8", (this, visitor) {
            Token::U8(value) => visitor.visit_u8(*value),
            Token::Bool(value) => visitor.visit_u8(u8::from(*value)),
        }
        deserialize_f32 "an f32", (this, visitor) {
            Token::F32(value) => visitor.visit_f32(*value),
        }
        deserialize_f64 "an f64", (this, visitor) {
            Token::F64(value) => visitor.visit_f64(*value),
        }
        deserialize_char "a char", (this, visitor) {
            Token::Char(value) => visitor.visit_char(*value),
        }
        deserialize_str "a string", (this, visitor) {
            Token::Str(value) => visitor.visit_borrowed_str(value),
            Token::Char(value) => visitor.visit_str(value.encode_utf8(&mut [0; 4])),
            Token::Bytes(value) => match std::str::from_utf8(value) {
                Ok(value) => visitor.visit_borrowed_str(value),
                Err(error) => Err(de::Error::custom(error)),
            },
        }
        deserialize_string "a string", (this, visitor) {
            Token::Str(value) => visitor.visit_str(value),
            Token::Char(value) => visitor.visit_str(value.encode_utf8(&mut [0; 4])),
            Token::Bytes(value) => match std::str::from_utf8(value) {
                Ok(value) => visitor.visit_str(value),
                Err(error) => Err(de::Error::custom(error)),
            },
        }
        deserialize_bytes "bytes", (this, visitor) {
            Token::Bytes(value) => visitor.visit_borrowed_bytes(value),
            Token::Str(value) => visitor.visit_borrowed_bytes(value.as_bytes()),
            Token::Seq(len) => visitor.visit_bytes(&this.bytes(*len)?),
        }
        deserialize_byte_buf "bytes", (this, visitor) {
            Token::Bytes(value) => visitor.visit_bytes(value),
            Token::Str(value) => visitor.visit_bytes(value.as_bytes()),
            Token::Seq(len) => visitor.visit_bytes(&this.bytes(*len)?),
        }
        deserialize_option "an option", (this, visitor) {
            Token::None => visitor.visit_none(),
            Token::Some => visitor.visit_some(this),
        }
        deserialize_unit "a unit", (this, visitor) {
            Token::Unit => visitor.visit_unit(),
            Token::Fixed(0, _) => visitor.visit_unit(),
        }
        deserialize_seq "a sequence", (this, visitor) {
            Token::Seq(len) => this.group(Group::of(*len), |elements| visitor.visit_seq(elements)),
            Token::Bytes(value) => visitor.visit_seq(SeqDeserializer::new(value.iter().copied())),
            Token::Str(value) => visitor.visit_seq(SeqDeserializer::new(value.bytes())),
        }
        deserialize_map "a map", (this, visitor) {
            Token::Map(len) => this.group(Group::of(*len), |elements| visitor.visit_map(elements)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.fixed(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.fixed(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.fixed(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.next() {
            Some(Token::Variant(variant)) => {
                self.variant = Some(*variant);
                visitor.visit_enum(Held { replay: self, variant: *variant })
            }
            other => self.refuse(other, "an enum"),
        }
    }
}

impl<'de> Replay<'de> {
    /// Elements, all of which must be read.
    fn group<V>(
        &mut self,
        mut group: Group,
        visit: impl FnOnce(Elements<'_, 'de>) -> Result<V>,
    ) -> Result<V> {
        let variant = self.variant;
        let value = visit(Elements { replay: self, group: &mut group })?;
        if group.left > 0 { Err(group.miscounted(variant)) } else { Ok(value) }
    }

    /// A sequence of so many elements that lie in the format as bytes do.
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for _ in 0..len {
            match self.next() {
                Some(Token::U8(byte)) => bytes.push(*byte),
                other => return self.refuse(other, "bytes"),
            }
        }
        Ok(bytes)
    }
}

/// The elements of a tuple, struct, sequence or map.
struct Group {
    name: &'static str,
    written: usize,
    left: usize,
    /// So many more are asked for, in a tuple or struct; of a sequence or map, as many as there are.
    asked: Option<usize>,
}

impl Group {
    /// A sequence or map of so many elements.
    fn of(len: usize) -> Self {
        Group { name: "", written: len, left: len, asked: None }
    }

    #[expect(clippy::unnecessary_box_returns, reason = "the error of all that is here")]
    fn miscounted(&self, variant: Option<Variant>) -> Box<Refusal> {
        Box::new(Refusal::Count { name: self.name, written: self.written, variant })
    }
}

struct Elements<'a, 'de> {
    replay: &'a mut Replay<'de>,
    group: &'a mut Group,
}

impl Elements<'_, '_> {
    /// Whether there is another one.
    fn advance(&mut self) -> Result<bool> {
        match (self.group.asked, self.group.left) {
            (Some(0), _) | (None, 0) => Ok(false),
            (Some(_), 0) => Err(self.group.miscounted(self.replay.variant)),
            (asked, left) => {
                self.group.left = left - 1;
                self.group.asked = asked.map(|asked| asked - 1);
                Ok(true)
            }
        }
    }

    fn hint(&self) -> usize {
        self.group.asked.unwrap_or(self.group.left)
    }
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Box<Refusal>;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.advance()? { seed.deserialize(&mut *self.replay).map(Some) } else { Ok(None) }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = Box<Refusal>;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.advance()? { seed.deserialize(&mut *self.replay).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(&mut *self.replay)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

/// A variant and what it holds.
struct Held<'a, 'de> {
    replay: &'a mut Replay<'de>,
    variant: Variant,
}

impl<'de> de::EnumAccess<'de> for Held<'_, 'de> {
    type Error = Box<Refusal>;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let chosen: Result<S::Value> = match self.replay.by {
            By::Number => seed.deserialize(self.variant.index.into_deserializer()),
            By::Name => seed.deserialize(self.variant.name.into_deserializer()),
        };
        match chosen {
            Ok(chosen) => Ok((chosen, self)),
            Err(_) => Err(Box::new(Refusal::Variant(self.variant))),
        }
    }
}

impl<'de> de::VariantAccess<'de> for Held<'_, 'de> {
    type Error = Box<Refusal>;

    fn unit_variant(self) -> Result<()> {
        match self.replay.next() {
            Some(Token::Unit | Token::Fixed(0, _)) => Ok(()),
            other => self.replay.refuse(other, "a variant without fields"),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.replay)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.replay.fixed(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.replay.fixed(fields.len(), visitor)
    }
}
