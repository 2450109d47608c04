//! One item, result or context, to bytes and back.
//!
//! `compact` is the format: plain numbers and vectors of them as they are, everything else by postcard through `strict`,
//! which refuses what the format would carry wrongly. `check` reads the first value of each shape back before it leaves;
//! `trace`, `token`, `replay` and `shapes` find out what that shape is. `json` is the way for types that need a self-describing
//! format.

mod check;
pub(crate) mod compact;
mod error;
mod json;
mod replay;
mod shapes;
mod strict;
#[cfg(test)]
mod tests;
mod token;
mod trace;
mod words;

pub(crate) use crate::codec::error::CodecError;
pub use crate::codec::json::Json;
pub(crate) use compact::{decode, encode, get, is_err, put, stride, write_plain};
