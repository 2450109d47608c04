//! What JSON can't hold: found by a look at the value before it is written.
//! Called by `Json` for each value; notes shapes as `strict` does for the compact format.
//!
//! `serde_json` writes `null` for NaN and the infinities, and the same for `None`, `()` and `Some` of
//! either: another value is read then, without an error.

use std::fmt::{self, Display, Formatter};

use serde::ser::{self, Serialize, Serializer};

use crate::codec::shapes::{self, Part, Shapes};

/// Why a value can't travel as JSON.
#[derive(Debug)]
pub(super) enum Unfit {
    /// `Some` of what is written as `null`.
    SomeNull,
    NotFinite,
    /// What `Serialize` said.
    Said(String),
}

impl Display for Unfit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::SomeNull => f.write_str(
                "JSON writes Some(None), Some(()) and the like as null, which is read as None; use an enum of \
                 one's own instead of Option<Option<T>> and Option<()>",
            ),
            Unfit::NotFinite => f.write_str(
                "JSON has no NaN and no infinity; send the bits (f64::to_bits) instead",
            ),
            Unfit::Said(words) => f.write_str(words),
        }
    }
}

impl std::error::Error for Unfit {}

impl ser::Error for Unfit {
    fn custom<T: Display>(words: T) -> Self {
        Unfit::Said(words.to_string())
    }
}

/// Looks at a value, and notes its shapes.
pub(super) fn judge<T: Serialize>(value: &T, shapes: &mut Shapes) -> Result<(), Unfit> {
    value.serialize(Judge { shapes, of: shapes::of::<T>() }).map(|_| ())
}

struct Judge<'a> {
    shapes: &'a mut Shapes,
    of: u64,
}

impl Judge<'_> {
    fn see(&mut self, part: Part) {
        self.shapes.see(part.key(self.of));
    }

    fn nest<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<Null, Unfit> {
        value.serialize(Judge { shapes: &mut *self.shapes, of: shapes::of::<T>() })
    }
}

/// Whether a value is written as `null`.
type Null = bool;

macro_rules! scalars {
    ($($method:ident($kind:ty) $number:expr;)*) => {$(
        fn $method(mut self, _: $kind) -> Result<Null, Unfit> {
            self.see(Part::Scalar($number));
            Ok(false)
        }
    )*};
}

impl Serializer for Judge<'_> {
    type Ok = Null;
    type Error = Unfit;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    scalars! {
        serialize_bool(bool) 0;
        serialize_i8(i8) 1;
        serialize_i16(i16) 2;
        serialize_i32(i32) 3;
        serialize_i64(i64) 4;
        serialize_i128(i128) 5;
        serialize_u8(u8) 6;
        serialize_u16(u16) 7;
        serialize_u32(u32) 8;
        serialize_u64(u64) 9;
        serialize_u128(u128) 10;
        serialize_char(char) 11;
        serialize_str(&str) 12;
        serialize_bytes(&[u8]) 13;
    }

    fn serialize_f32(self, value: f32) -> Result<Null, Unfit> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(mut self, value: f64) -> Result<Null, Unfit> {
        self.see(Part::Scalar(14));
        if value.is_finite() { Ok(false) } else { Err(Unfit::NotFinite) }
    }

    fn collect_str<T: ?Sized + Display>(self, _: &T) -> Result<Null, Unfit> {
        self.serialize_str("")
    }

    fn serialize_unit(self) -> Result<Null, Unfit> {
        Ok(true)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Null, Unfit> {
        Ok(true)
    }

    fn serialize_none(self) -> Result<Null, Unfit> {
        Ok(true)
    }

    fn serialize_some<T: ?Sized + Serialize>(mut self, value: &T) -> Result<Null, Unfit> {
        self.see(Part::Some);
        if self.nest(value)? { Err(Unfit::SomeNull) } else { Ok(false) }
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        mut self,
        _: &'static str,
        value: &T,
    ) -> Result<Null, Unfit> {
        self.nest(value)
    }

    fn serialize_unit_variant(mut self, _: &'static str, index: u32, _: &'static str) -> Result<Null, Unfit> {
        self.see(Part::UnitVariant(index));
        Ok(false)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        mut self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<Null, Unfit> {
        self.see(Part::NewtypeVariant(index));
        self.nest(value)?;
        Ok(false)
    }

    fn serialize_seq(mut self, len: Option<usize>) -> Result<Self, Unfit> {
        if len != Some(0) {
            self.see(Part::Seq);
        }
        Ok(self)
    }

    fn serialize_map(mut self, len: Option<usize>) -> Result<Self, Unfit> {
        if len != Some(0) {
            self.see(Part::Map);
        }
        Ok(self)
    }

    fn serialize_tuple(mut self, len: usize) -> Result<Self, Unfit> {
        self.see(Part::Fixed(len));
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Self, Unfit> {
        self.serialize_tuple(len)
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Self, Unfit> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        index: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self, Unfit> {
        self.see(Part::FixedVariant(index, len));
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self, Unfit> {
        self.serialize_tuple_variant(name, index, variant, len)
    }
}

macro_rules! parts {
    ($($part:ident: $($method:ident($($name:ident: $kind:ty)?))*;)*) => {$(
        impl ser::$part for Judge<'_> {
            type Ok = Null;
            type Error = Unfit;

            $(fn $method<T: ?Sized + Serialize>(&mut self, $($name: $kind,)? value: &T) -> Result<(), Unfit> {
                self.nest(value).map(|_| ())
            })*

            fn end(self) -> Result<Null, Unfit> {
                Ok(false)
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key() serialize_value();
    SerializeStruct: serialize_field(_name: &'static str);
    SerializeStructVariant: serialize_field(_name: &'static str);
}
