//! A value as the calls that its `Serialize` makes, in order.
//! Made by `check` for values of a new shape; `replay` reads it.
//!
//! Elements of a sequence or map that hold nothing new are left out, so that a trace is small however large
//! its value.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};

use super::shapes::{self, Part, Shapes};
use super::token::{Token, Variant};

/// Levels of nesting in a trace. A value is read back in the thread that writes it, which may have a small
/// stack.
const DEPTH: u32 = 128;

/// Why there is no trace.
#[derive(Debug)]
pub(super) enum Untraced {
    /// `Serialize` refused.
    Refused,
    /// A sequence or map has another number of elements than it announced.
    Miscounted { announced: usize, written: usize },
    /// The value is nested too deeply.
    Deep,
    /// It has too many tokens.
    Long,
}

/// What to leave out.
#[derive(Debug)]
pub(super) enum Extent {
    /// Elements without one of these shapes.
    New(Shapes),
    Everything,
}

/// The trace of a value, and whether something was left out. `readable`: as for a format that people can
/// read.
pub(super) fn trace<T: Serialize>(
    value: &T,
    extent: Extent,
    readable: bool,
    most: usize,
) -> Result<(Vec<Token>, bool), Untraced> {
    let mut tracer =
        Tracer { tokens: Vec::new(), extent, readable, fresh: 0, omitted: false, depth: 0, most };
    value.serialize(Nested { tracer: &mut tracer, of: shapes::of::<T>() })?;
    Ok((tracer.tokens, tracer.omitted))
}

struct Tracer {
    tokens: Vec<Token>,
    extent: Extent,
    readable: bool,
    /// New shapes met until now.
    fresh: usize,
    omitted: bool,
    depth: u32,
    most: usize,
}

impl Tracer {
    fn push(&mut self, token: Token) -> Result<(), Untraced> {
        if self.tokens.len() >= self.most {
            return Err(Untraced::Long);
        }
        self.tokens.push(token);
        Ok(())
    }
}

struct Nested<'a> {
    tracer: &'a mut Tracer,
    of: u64,
}

impl<'a> Nested<'a> {
    fn see(&mut self, part: Part) {
        if let Extent::New(shapes) = &mut self.tracer.extent
            && shapes.take(part.key(self.of))
        {
            self.tracer.fresh += 1;
        }
    }

    fn nest<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Untraced> {
        if self.tracer.depth >= DEPTH {
            return Err(Untraced::Deep);
        }
        self.tracer.depth += 1;
        let written = value.serialize(Nested { tracer: &mut *self.tracer, of: shapes::of::<T>() });
        self.tracer.depth -= 1;
        written
    }

    fn variant(
        mut self,
        part: Part,
        (enumeration, index, name): (&'static str, u32, &'static str),
    ) -> Result<Self, Untraced> {
        self.see(part);
        self.tracer.push(Token::Variant(Variant { index, enumeration, name }))?;
        Ok(self)
    }

    fn fixed(self, len: usize, name: &'static str) -> Result<Group<'a>, Untraced> {
        let start = self.tracer.tokens.len();
        self.tracer.push(Token::Fixed(len, name))?;
        Ok(Group { nested: self, start, announced: None, elements: 0, kept: 0, entry: start, fresh: 0 })
    }
}

/// A sequence, map, tuple or struct while its elements are written.
struct Group<'a> {
    nested: Nested<'a>,
    /// Where its token is.
    start: usize,
    announced: Option<usize>,
    elements: usize,
    kept: usize,
    /// Where the current element begins, and the new shapes before it.
    entry: usize,
    fresh: usize,
}

impl Group<'_> {
    /// An element that is always kept.
    fn part<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Untraced> {
        self.elements += 1;
        self.kept += 1;
        self.nested.nest(value)
    }

    /// Begins an element that may be left out.
    fn begin(&mut self) {
        self.entry = self.nested.tracer.tokens.len();
        self.fresh = self.nested.tracer.fresh;
    }

    /// Ends it: kept is the first one, and what holds something new.
    fn end_element(&mut self) {
        self.elements += 1;
        let tracer = &mut *self.nested.tracer;
        let everything = matches!(tracer.extent, Extent::Everything);
        if everything || self.elements == 1 || tracer.fresh > self.fresh {
            self.kept += 1;
        } else {
            tracer.tokens.truncate(self.entry);
            tracer.omitted = true;
        }
    }

    fn end_group(self) -> Result<(), Untraced> {
        if let Some(announced) = self.announced
            && announced != self.elements
        {
            return Err(Untraced::Miscounted { announced, written: self.elements });
        }
        match &mut self.nested.tracer.tokens[self.start] {
            Token::Fixed(len, _) | Token::Seq(len) | Token::Map(len) => *len = self.kept,
            _ => {}
        }
        Ok(())
    }
}

macro_rules! scalars {
    ($($method:ident($value:ident: $kind:ty) $token:expr;)*) => {$(
        fn $method(self, $value: $kind) -> Result<(), Untraced> {
            self.tracer.push($token)
        }
    )*};
}

impl<'a> Serializer for Nested<'a> {
    type Ok = ();
    type Error = Untraced;
    type SerializeSeq = Group<'a>;
    type SerializeTuple = Group<'a>;
    type SerializeTupleStruct = Group<'a>;
    type SerializeTupleVariant = Group<'a>;
    type SerializeMap = Group<'a>;
    type SerializeStruct = Group<'a>;
    type SerializeStructVariant = Group<'a>;

    scalars! {
        serialize_bool(value: bool) Token::Bool(value);
        serialize_i8(value: i8) Token::I8(value);
        serialize_i16(value: i16) Token::Signed(value.into());
        serialize_i32(value: i32) Token::Signed(value.into());
        serialize_i64(value: i64) Token::Signed(value.into());
        serialize_i128(value: i128) Token::Signed(value);
        serialize_u8(value: u8) Token::U8(value);
        serialize_u16(value: u16) Token::Unsigned(value.into());
        serialize_u32(value: u32) Token::Unsigned(value.into());
        serialize_u64(value: u64) Token::Unsigned(value.into());
        serialize_u128(value: u128) Token::Unsigned(value);
        serialize_f32(value: f32) Token::F32(value);
        serialize_f64(value: f64) Token::F64(value);
        serialize_char(value: char) Token::Char(value);
        serialize_str(value: &str) Token::Str(value.into());
        serialize_bytes(value: &[u8]) Token::Bytes(value.into());
        serialize_unit_struct(_name: &'static str) Token::Unit;
    }

    fn is_human_readable(&self) -> bool {
        self.tracer.readable
    }

    fn collect_str<T: ?Sized + Display>(self, value: &T) -> Result<(), Untraced> {
        self.serialize_str(&value.to_string())
    }

    fn serialize_unit(self) -> Result<(), Untraced> {
        self.tracer.push(Token::Unit)
    }

    fn serialize_none(self) -> Result<(), Untraced> {
        self.tracer.push(Token::None)
    }

    fn serialize_some<T: ?Sized + Serialize>(mut self, value: &T) -> Result<(), Untraced> {
        self.see(Part::Some);
        self.tracer.push(Token::Some)?;
        self.nest(value)
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        mut self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), Untraced> {
        self.nest(value)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<(), Untraced> {
        self.variant(Part::UnitVariant(index), (name, index, variant))?.tracer.push(Token::Unit)
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Untraced> {
        self.variant(Part::NewtypeVariant(index), (name, index, variant))?.nest(value)
    }

    fn serialize_seq(mut self, len: Option<usize>) -> Result<Group<'a>, Untraced> {
        if len.is_some_and(|len| len > 0) {
            self.see(Part::Seq);
        }
        let start = self.tracer.tokens.len();
        self.tracer.push(Token::Seq(0))?;
        Ok(Group { nested: self, start, announced: len, elements: 0, kept: 0, entry: start, fresh: 0 })
    }

    fn serialize_map(mut self, len: Option<usize>) -> Result<Group<'a>, Untraced> {
        if len.is_some_and(|len| len > 0) {
            self.see(Part::Map);
        }
        let start = self.tracer.tokens.len();
        self.tracer.push(Token::Map(0))?;
        Ok(Group { nested: self, start, announced: len, elements: 0, kept: 0, entry: start, fresh: 0 })
    }

    fn serialize_tuple(mut self, len: usize) -> Result<Group<'a>, Untraced> {
        self.see(Part::Fixed(len));
        self.fixed(len, "")
    }

    fn serialize_tuple_struct(mut self, name: &'static str, len: usize) -> Result<Group<'a>, Untraced> {
        self.see(Part::Fixed(len));
        self.fixed(len, name)
    }

    fn serialize_struct(mut self, name: &'static str, len: usize) -> Result<Group<'a>, Untraced> {
        self.see(Part::Fixed(len));
        self.fixed(len, name)
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Group<'a>, Untraced> {
        self.variant(Part::FixedVariant(index, len), (name, index, variant))?.fixed(len, variant)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Group<'a>, Untraced> {
        self.variant(Part::FixedVariant(index, len), (name, index, variant))?.fixed(len, variant)
    }
}

impl ser::SerializeSeq for Group<'_> {
    type Ok = ();
    type Error = Untraced;

    fn serialize_element<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Untraced> {
        self.begin();
        self.nested.nest(value)?;
        self.end_element();
        Ok(())
    }

    fn end(self) -> Result<(), Untraced> {
        self.end_group()
    }
}

impl ser::SerializeMap for Group<'_> {
    type Ok = ();
    type Error = Untraced;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Untraced> {
        self.begin();
        self.nested.nest(key)
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Untraced> {
        self.nested.nest(value)?;
        self.end_element();
        Ok(())
    }

    fn end(self) -> Result<(), Untraced> {
        self.end_group()
    }
}

macro_rules! parts {
    ($($part:ident: $method:ident;)*) => {$(
        impl ser::$part for Group<'_> {
            type Ok = ();
            type Error = Untraced;

            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Untraced> {
                self.part(value)
            }

            fn end(self) -> Result<(), Untraced> {
                self.end_group()
            }
        }
    )*};
}

parts! {
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
}

macro_rules! fields {
    ($($part:ident)*) => {$(
        impl ser::$part for Group<'_> {
            type Ok = ();
            type Error = Untraced;

            fn serialize_field<T: ?Sized + Serialize>(
                &mut self,
                _name: &'static str,
                value: &T,
            ) -> Result<(), Untraced> {
                self.part(value)
            }

            fn end(self) -> Result<(), Untraced> {
                self.end_group()
            }
        }
    )*};
}

fields! { SerializeStruct SerializeStructVariant }

impl std::error::Error for Untraced {}

impl Display for Untraced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no trace")
    }
}

impl ser::Error for Untraced {
    fn custom<T: Display>(_: T) -> Self {
        Untraced::Refused
    }
}
