//! The calls of a `Serialize` as data: `trace` records them, `replay` reads them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// One call.
#[derive(Debug, PartialEq)]
pub(super) enum Token {
    Bool(bool),
    I8(i8),
    U8(u8),
    /// An integer of 16 bits or more. The format writes all widths alike.
    Signed(i128),
    Unsigned(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Str(Box<str>),
    Bytes(Box<[u8]>),
    Unit,
    None,
    Some,
    /// A tuple, tuple struct or struct of so many elements, with the name of a struct.
    Fixed(usize, &'static str),
    Seq(usize),
    Map(usize),
    /// Behind it stands what the variant holds.
    Variant(Variant),
}

/// A variant as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variant {
    pub(super) index: u32,
    pub(super) enumeration: &'static str,
    pub(super) name: &'static str,
}

impl Token {
    /// The kind of value that it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Token::Bool(_) => "a bool",
            Token::I8(_) => "an i8",
            Token::U8(_) => "a u8",
            Token::Signed(_) => "a signed integer",
            Token::Unsigned(_) => "an unsigned integer",
            Token::F32(_) => "an f32",
            Token::F64(_) => "an f64",
            Token::Char(_) => "a char",
            Token::Str(_) => "a string",
            Token::Bytes(_) => "bytes",
            Token::Unit => "a unit",
            Token::None | Token::Some => "an option",
            Token::Fixed(..) => "a tuple or struct",
            Token::Seq(_) => "a sequence",
            Token::Map(_) => "a map",
            Token::Variant(_) => "an enum",
        }
    }
}

/// A number for the value of a trace: the same, most likely, only if the values are. Elements of sequences
/// and maps count in any order, as those of a hash map have none.
pub(super) fn digest(tokens: &[Token]) -> u64 {
    fn value(tokens: &mut std::slice::Iter<'_, Token>) -> u64 {
        let Some(token) = tokens.next() else { return 0 };
        let mut hasher = DefaultHasher::new();
        format!("{token:?}").hash(&mut hasher);
        match token {
            Token::Some | Token::Variant(_) => value(tokens).hash(&mut hasher),
            Token::Fixed(len, _) => (0..*len).for_each(|_| value(tokens).hash(&mut hasher)),
            Token::Seq(len) => {
                (0..*len).fold(0, |sum: u64, _| sum.wrapping_add(value(tokens))).hash(&mut hasher);
            }
            Token::Map(len) => {
                let entry = |tokens: &mut std::slice::Iter<'_, Token>| (value(tokens), value(tokens));
                let mut sum = 0u64;
                for _ in 0..*len {
                    let mut hasher = DefaultHasher::new();
                    entry(tokens).hash(&mut hasher);
                    sum = sum.wrapping_add(hasher.finish());
                }
                sum.hash(&mut hasher);
            }
            _ => {}
        }
        hasher.finish()
    }
    value(&mut tokens.iter())
}
