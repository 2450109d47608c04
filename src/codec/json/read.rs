//! The deserializer of `serde_json`, made to read each value the same way in every program.
//! Called by `Json` for its text; wraps itself around each nested value.
//!
//! Two things are changed. Where a crate of the program switches on `serde_json`'s feature
//! `arbitrary_precision`, a number is a map with one private key to whatever asks for any kind of value:
//! what serde buffers for `untagged`, `tag` and `flatten` can't be read as a number any more, and a variant
//! that is a map of strings takes it. Here such a buffer gets the number. And a tuple that ends early is an
//! error, although its missing fields may have defaults: with `skip_serializing_if`, others would take
//! their places.

use std::any::type_name;
use std::cell::Cell;
use std::fmt::{self, Formatter};

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

/// The key by which `serde_json` knows its own numbers.
const NUMBER: &str = "$serde_json::private::Number";

thread_local! {
    static IGNORED: Cell<bool> = const { Cell::new(false) };
}

/// Reads a whole JSON text; whether a field was not read because its name is not known.
pub(super) fn read_and_tell<T: DeserializeOwned>(text: &str) -> serde_json::Result<(T, bool)> {
    IGNORED.set(false);
    let value = read(text)?;
    Ok((value, IGNORED.get()))
}

/// Reads a whole JSON text.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Same(&mut reader))?;
    reader.end()?;
    Ok(value)
}

/// A deserializer, an access or a seed with the changes.
struct Same<D>(D);

/// A visitor of what comes from such a deserializer.
struct Seen<V> {
    visitor: V,
    /// So many elements a tuple must have.
    elements: usize,
    /// Numbers are to come as numbers.
    numbers: bool,
}

impl<V> Seen<V> {
    fn new(visitor: V) -> Self {
        Seen { visitor, elements: 0, numbers: false }
    }

    fn tuple(visitor: V, elements: usize) -> Self {
        Seen { visitor, elements, numbers: false }
    }
}

macro_rules! deserialize {
    ($($method:ident($($argument:ident: $kind:ty),*) $wrap:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $kind,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* $wrap(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Same<D> {
    type Error = D::Error;

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        // serde's buffers are private: `Content`, `TaggedContent`, `TagOrContent`. All other types that ask
        // for any kind of value know serde_json's numbers, or read them as the map that they are.
        let numbers = type_name::<V>().contains("Content");
        self.0.deserialize_any(Seen { visitor, elements: 0, numbers })
    }

    deserialize! {
        deserialize_bool() Seen::new;
        deserialize_i8() Seen::new;
        deserialize_i16() Seen::new;
        deserialize_i32() Seen::new;
        deserialize_i64() Seen::new;
        deserialize_i128() Seen::new;
        deserialize_u8() Seen::new;
        deserialize_u16() Seen::new;
        deserialize_u32() Seen::new;
        deserialize_u64() Seen::new;
        deserialize_u128() Seen::new;
        deserialize_f32() Seen::new;
        deserialize_f64() Seen::new;
        deserialize_char() Seen::new;
        deserialize_str() Seen::new;
        deserialize_string() Seen::new;
        deserialize_bytes() Seen::new;
        deserialize_byte_buf() Seen::new;
        deserialize_option() Seen::new;
        deserialize_unit() Seen::new;
        deserialize_unit_struct(name: &'static str) Seen::new;
        deserialize_newtype_struct(name: &'static str) Seen::new;
        deserialize_seq() Seen::new;
        deserialize_tuple(len: usize) |visitor| Seen::tuple(visitor, len);
        deserialize_tuple_struct(name: &'static str, len: usize) |visitor| Seen::tuple(visitor, len);
        deserialize_map() Seen::new;
        deserialize_struct(name: &'static str, fields: &'static [&'static str]) Seen::new;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) Seen::new;
        deserialize_identifier() Seen::new;
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        IGNORED.set(true);
        self.0.deserialize_ignored_any(visitor)
    }
}

macro_rules! visit {
    ($($method:ident($kind:ty);)*) => {$(
        fn $method<E: de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Seen<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_borrowed_str(&'de str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Same(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Same(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements { from: elements, wanted: self.elements })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<V::Value, A::Error> {
        if !self.numbers {
            return self.visitor.visit_map(Entries { from: entries, first: None });
        }
        let Some(first) = entries.next_key::<String>()? else {
            return self.visitor.visit_map(Entries { from: entries, first: None });
        };
        if first == NUMBER {
            let digits: String = entries.next_value()?;
            return number(self.visitor, digits);
        }
        self.visitor.visit_map(Entries { from: entries, first: Some(first) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Same(data))
    }
}

/// A number as a program without `arbitrary_precision` has it; as `serde_json`'s own, if digits would be
/// lost.
fn number<'de, V: Visitor<'de>, E: de::Error>(visitor: V, digits: String) -> Result<V::Value, E> {
    if let Ok(number) = digits.parse() {
        return visitor.visit_u64(number);
    }
    if let Ok(number) = digits.parse() {
        return visitor.visit_i64(number);
    }
    match digits.parse::<f64>() {
        Ok(number) if serde_json::to_string(&number).is_ok_and(|written| written == digits) => {
            visitor.visit_f64(number)
        }
        _ => {
            let entry = std::iter::once((NUMBER, digits));
            visitor.visit_map(de::value::MapDeserializer::new(entry))
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Same<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Same(deserializer))
    }
}

struct Elements<A> {
    from: A,
    wanted: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let element = self.from.next_element_seed(Same(seed))?;
        if element.is_none() && self.wanted > 0 {
            return Err(de::Error::custom(
                "a tuple has fewer elements than are read, as where #[serde(skip_serializing_if)] leaves one out",
            ));
        }
        self.wanted = self.wanted.saturating_sub(1);
        Ok(element)
    }

    fn size_hint(&self) -> Option<usize> {
        self.from.size_hint()
    }
}

struct Entries<A> {
    from: A,
    /// The first key, if it was looked at before.
    first: Option<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        match self.first.take() {
            Some(key) => seed.deserialize(StrDeserializer::new(&key)).map(Some),
            None => self.from.next_key_seed(Same(seed)),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.from.next_value_seed(Same(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.from.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Same<A> {
    type Error = A::Error;
    type Variant = Same<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(seed).map(|(value, variant)| (value, Same(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Same<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Same(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Seen::tuple(visitor, len))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Seen::new(visitor))
    }
}
