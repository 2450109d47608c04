//! postcard's serializer, made to refuse what it would write wrongly.
//! Called by `codec::append`, for every item and context that has no stride.
//! Calls `postcard::Serializer`, which does all the writing.

use std::fmt::Display;
use std::io;

use fastmap_backends::ContextWriter;
use postcard::ser_flavors::Flavor;
use serde::ser::{self, Serialize, Serializer};

use super::error::Why;
use super::shapes::{self, Part, Shapes};

type Result<T> = std::result::Result<T, Box<Why>>;

/// postcard's output, with the shapes of what is written to it.
pub(super) trait Output: Flavor {
    fn shapes(&mut self) -> &mut Shapes;
}

/// The end of a caller's buffer, as postcard's output: nothing lies between a value and the frame.
pub(super) struct Append<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) shapes: &'a mut Shapes,
}

impl Output for Append<'_> {
    #[inline]
    fn shapes(&mut self) -> &mut Shapes {
        self.shapes
    }
}

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.out.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A context on its way into its memory. What goes wrong there is kept, as postcard's errors have no room for it.
pub(super) struct Stream<'a> {
    pub(super) writer: &'a mut ContextWriter,
    pub(super) error: &'a mut Option<io::Error>,
    pub(super) shapes: &'a mut Shapes,
}

impl Output for Stream<'_> {
    #[inline]
    fn shapes(&mut self) -> &mut Shapes {
        self.shapes
    }
}

impl Stream<'_> {
    #[inline]
    pub(crate) fn kept(&mut self, written: io::Result<()>) -> postcard::Result<()> {
        written.map_err(|error| {
            *self.error = Some(error);
            postcard::Error::SerializeBufferFull
        })
    }
}

impl Flavor for Stream<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        let written = self.writer.push(byte);
        self.kept(written)
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        let written = self.writer.extend(bytes);
        self.kept(written)
    }

    #[inline]
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Forwards to postcard, and hands itself to every nested value.
///
/// A field left out leaves no trace in the bytes, so its neighbours are read in its place: a struct
/// of two `Option`s was seen to come back as another valid value. Here it is an error. The other
/// gain is the words of a user's own `Serialize`, which `postcard::Error` throws away.
///
/// It notes which shapes the value has, so that the first of each is read back before it leaves, see `check`.
pub(super) struct Strict<'a, F: Output> {
    to: &'a mut postcard::Serializer<F>,
    /// Identity of the type that is written.
    of: u64,
}

impl<'a, F: Output> Strict<'a, F> {
    /// For a value of type `T`.
    #[inline]
    pub(super) fn new<T: ?Sized>(to: &'a mut postcard::Serializer<F>) -> Self {
        Strict { to, of: shapes::of::<T>() }
    }

    #[inline]
    fn nest<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<()> {
        value.serialize(Strict::new::<T>(&mut *self.to))
    }

    #[inline]
    fn see(&mut self, part: Part) {
        self.to.output.shapes().see(part.key(self.of));
    }
}

/// postcard writes the value, or the start of one, and this serializer goes on from there.
macro_rules! forward {
    ($($method:ident($($arg:ident: $kind:ty),*) $(as $part:expr)? => $done:ident;)*) => {$(
        #[inline]
        #[allow(unused_mut)]
        fn $method(mut self, $($arg: $kind),*) -> Result<forward!(type $done)> {
            $(if let Some(part) = $part {
                self.see(part);
            })?
            self.to.$method($($arg),*)?;
            Ok(forward!(value $done self))
        }
    )*};
    (type done) => { () };
    (type nested) => { Self };
    (value done $this:ident) => { () };
    (value nested $this:ident) => { $this };
}

/// A length above 0.
#[inline]
fn filled(len: Option<usize>) -> Option<usize> {
    len.filter(|len| *len > 0)
}

impl<F: Output> Serializer for Strict<'_, F> {
    type Ok = ();
    type Error = Box<Why>;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    forward! {
        serialize_bool(value: bool) => done;
        serialize_i8(value: i8) => done;
        serialize_i16(value: i16) => done;
        serialize_i32(value: i32) => done;
        serialize_i64(value: i64) => done;
        serialize_i128(value: i128) => done;
        serialize_u8(value: u8) => done;
        serialize_u16(value: u16) => done;
        serialize_u32(value: u32) => done;
        serialize_u64(value: u64) => done;
        serialize_u128(value: u128) => done;
        serialize_f32(value: f32) => done;
        serialize_f64(value: f64) => done;
        serialize_char(value: char) => done;
        serialize_str(value: &str) => done;
        serialize_bytes(value: &[u8]) => done;
        serialize_unit() => done;
        serialize_none() => done;
        serialize_unit_struct(name: &'static str) => done;
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str)
            as Some(Part::UnitVariant(index)) => done;
        serialize_seq(len: Option<usize>) as filled(len).map(|_| Part::Seq) => nested;
        serialize_map(len: Option<usize>) as filled(len).map(|_| Part::Map) => nested;
        serialize_tuple(len: usize) as Some(Part::Fixed(len)) => nested;
        serialize_tuple_struct(name: &'static str, len: usize) as Some(Part::Fixed(len)) => nested;
        serialize_tuple_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) as Some(Part::FixedVariant(index, len)) => nested;
        serialize_struct(name: &'static str, len: usize) as Some(Part::Fixed(len)) => nested;
        serialize_struct_variant(
            name: &'static str, index: u32, variant: &'static str, len: usize
        ) as Some(Part::FixedVariant(index, len)) => nested;
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn collect_str<T: ?Sized + Display>(self, value: &T) -> Result<()> {
        Ok(self.to.collect_str(value)?)
    }

    // `()` takes no bytes: postcard writes the mark, and the value itself is nested here.
    #[inline]
    fn serialize_some<T: ?Sized + Serialize>(mut self, value: &T) -> Result<()> {
        self.see(Part::Some);
        self.to.serialize_some(&())?;
        self.nest(value)
    }

    #[inline]
    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        mut self,
        _name: &'static str,
        value: &T,
    ) -> Result<()> {
        self.nest(value)
    }

    #[inline]
    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        mut self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<()> {
        self.see(Part::NewtypeVariant(index));
        self.to.serialize_unit_variant(name, index, variant)?;
        self.nest(value)
    }
}

macro_rules! parts {
    ($($part:ident: $($method:ident)*;)*) => {$(
        impl<F: Output> ser::$part for Strict<'_, F> {
            type Ok = ();
            type Error = Box<Why>;

            $(#[inline]
            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<()> {
                self.nest(value)
            })*

            #[inline]
            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key serialize_value;
}

macro_rules! fields {
    ($($part:ident)*) => {$(
        impl<F: Output> ser::$part for Strict<'_, F> {
            type Ok = ();
            type Error = Box<Why>;

            #[inline]
            fn serialize_field<T: ?Sized + Serialize>(
                &mut self,
                _name: &'static str,
                value: &T,
            ) -> Result<()> {
                self.nest(value)
            }

            #[cold]
            fn skip_field(&mut self, name: &'static str) -> Result<()> {
                Err(Box::new(Why::Skips(name)))
            }

            #[inline]
            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }
