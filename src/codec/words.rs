//! postcard's deserializer once more, for the words of what failed: its own error has no room for them.
//! Called by the codec when a value could not be read.

use std::fmt::Display;

use postcard::de_flavors::Slice;
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor,
};

use super::error::Why;

type Postcard<'de> = postcard::Deserializer<'de, Slice<'de>>;
type Result<T> = std::result::Result<T, Box<Why>>;

/// Why `bytes` could not be read as a `T`; `failed` is what postcard said.
#[expect(clippy::unnecessary_box_returns, reason = "the error of all that reads")]
#[cold]
#[inline(never)]
pub(super) fn words<T: DeserializeOwned>(bytes: &[u8], failed: postcard::Error) -> Box<Why> {
    let mut from = Postcard::from_bytes(bytes);
    match T::deserialize(Wordy(&mut from)) {
        Err(why) => why,
        Ok(_) => Why::reading(failed),
    }
}

impl de::Error for Box<Why> {
    fn custom<T: Display>(words: T) -> Self {
        Box::new(Why::Refused(words.to_string()))
    }

    /// The type takes only what another format has: a map, say, where this one has a sequence.
    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let words = format!("it expects {expected}, and gets {unexpected}");
        Box::new(Why::Unfit(words))
    }
}

struct Wordy<'a, 'de>(&'a mut Postcard<'de>);

fn reading<T>(read: postcard::Result<T>) -> Result<T> {
    read.map_err(Why::reading)
}

macro_rules! scalars {
    ($($method:ident $visit:ident $t:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(reading(<$t>::deserialize(self.0))?)
        }
    )*};
}

macro_rules! undescribed {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value> {
            Err(Box::new(Why::Undescribed))
        }
    )*};
}

impl<'a, 'de> Wordy<'a, 'de> {
    fn elements(self, left: usize) -> Elements<'a, 'de> {
        Elements { from: self.0, left }
    }

    fn length(&mut self) -> Result<usize> {
        reading(usize::deserialize(&mut *self.0))
    }
}

impl<'de> Deserializer<'de> for Wordy<'_, 'de> {
    type Error = Box<Why>;

    fn is_human_readable(&self) -> bool {
        false
    }

    undescribed! { deserialize_any deserialize_identifier deserialize_ignored_any }

    scalars! {
        deserialize_bool visit_bool bool;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
        deserialize_char visit_char char;
        deserialize_str visit_borrowed_str &'de str;
        deserialize_string visit_borrowed_str &'de str;
        deserialize_bytes visit_borrowed_bytes &'de [u8];
        deserialize_byte_buf visit_borrowed_bytes &'de [u8];
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        // Nothing lies behind the mark of an `Option<()>`.
        match reading(Option::<()>::deserialize(&mut *self.0))? {
            None => visitor.visit_none(),
            Some(()) => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let length = self.length()?;
        visitor.visit_seq(self.elements(length))
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value> {
        let length = self.length()?;
        visitor.visit_map(self.elements(length))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.elements(len))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(self.elements(len))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(self.elements(fields.len()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_enum(self)
    }
}

impl<'de> de::EnumAccess<'de> for Wordy<'_, 'de> {
    type Error = Box<Why>;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let index = reading(u32::deserialize(&mut *self.0))?;
        let chosen: Result<S::Value> = seed.deserialize(index.into_deserializer());
        Ok((chosen?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Wordy<'_, 'de> {
    type Error = Box<Why>;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        visitor.visit_seq(self.elements(len))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_seq(self.elements(fields.len()))
    }
}

/// Elements that are left. Their number is a claim: nothing is reserved for it.
struct Elements<'a, 'de> {
    from: &'a mut Postcard<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Box<Why>;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(Wordy(self.from)).map(Some)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de> {
    type Error = Box<Why>;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        seed.deserialize(Wordy(self.from))
    }
}
