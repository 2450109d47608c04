//! The compact format: plain numbers and vectors of them as they are, everything else by postcard.
#![forbid(unsafe_code)]

use std::any::type_name;
use std::convert::identity;
use std::io;
use std::num::TryFromIntError;

use fastmap_backends::{Context, ContextWriter};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::check::check;
use crate::codec::error::{CodecError, Why};
use crate::codec::shapes::Shapes;
use crate::codec::strict::{Append, Stream, Strict};
use crate::codec::words::words;

/// The bytes that hold the length of an item without a stride.
pub(super) const LENGTH: usize = size_of::<u32>();

/// A number that lies in a batch as its little-endian bytes and nothing else.
trait Plain: Copy {
    const STRIDE: u32;
    fn append(self, out: &mut Vec<u8>);
    /// Writes over as many bytes as the stride says.
    fn write(self, slot: &mut [u8]);
    fn read(bytes: &[u8]) -> Result<Self, Box<Why>>;
}

/// Vectors of plain numbers: the numbers' bytes one behind the other, instead of serde's way through each element
/// (1 MiB as `Vec<u8>`: 0.05 ms against 1 ms). Both ends are one executable, so that nobody else reads this.
macro_rules! plain_vectors {
    ($($t:ty)*) => {
        /// Appends a vector of plain numbers; false if `T` is not one.
        #[inline]
        fn append_plain_vector<T>(item: &T, out: &mut Vec<u8>) -> bool {
            if size_of::<T>() != size_of::<Vec<u8>>() {
                return false;
            }
            $(if let Ok(numbers) = castaway::cast!(item, &Vec<$t>) {
                let start = out.len();
                out.resize(start + size_of_val(numbers.as_slice()), 0);
                for (bytes, number) in out[start..].chunks_exact_mut(size_of::<$t>()).zip(numbers) {
                    bytes.copy_from_slice(&number.to_le_bytes());
                }
                return true;
            })*
            false
        }

        /// Writes a vector of plain numbers as a context; `None` if `T` is not one.
        fn stream_plain_vector<T>(item: &T, writer: &mut ContextWriter) -> Option<io::Result<()>> {
            if size_of::<T>() != size_of::<Vec<u8>>() {
                return None;
            }
            if let Ok(bytes) = castaway::cast!(item, &Vec<u8>) {
                return Some(writer.extend(bytes));
            }
            $(if let Ok(numbers) = castaway::cast!(item, &Vec<$t>) {
                let mut buffer = Vec::new();
                // So many that they stay in a core's cache.
                return Some(numbers.chunks(4096).try_for_each(|numbers| {
                    buffer.clear();
                    buffer.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
                    writer.extend(&buffer)
                }));
            })*
            None
        }

        /// Reads a vector of plain numbers; `Ok(None)` if `T` is not one.
        #[inline]
        fn read_plain_vector<T>(bytes: &[u8]) -> Result<Option<T>, Box<Why>> {
            let mut item: Option<T> = None;
            if size_of::<T>() != size_of::<Vec<u8>>() {
                return Ok(item);
            }
            if let Ok(slot) = castaway::cast!(&mut item, &mut Option<Vec<u8>>) {
                // An unoptimised program takes 0.1 µs a byte in the loop below.
                *slot = Some(bytes.to_vec());
                return Ok(item);
            }
            $(if let Ok(slot) = castaway::cast!(&mut item, &mut Option<Vec<$t>>) {
                let chunks = bytes.chunks_exact(size_of::<$t>());
                if !chunks.remainder().is_empty() {
                    return Err(Why::reading(postcard::Error::DeserializeUnexpectedEnd));
                }
                *slot = Some(chunks.map(|bytes| <$t>::from_le_bytes(bytes.try_into().expect("a whole number"))).collect());
                return Ok(item);
            })*
            Ok(item)
        }
    };
}

plain_vectors! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 }

/// `$t as $wire`: `$t` lies in a batch as `$wire`, which `$back` turns into a `$t` if it is one.
macro_rules! plain {
    ($($t:ty as $wire:ty, $to:expr, $back:expr;)*) => {
        $(impl Plain for $t {
            const STRIDE: u32 = size_of::<$wire>() as u32;

            #[inline]
            fn append(self, out: &mut Vec<u8>) {
                let wire: $wire = $to(self);
                out.extend_from_slice(&wire.to_le_bytes());
            }

            #[inline]
            fn write(self, slot: &mut [u8]) {
                let wire: $wire = $to(self);
                *slot.first_chunk_mut().expect("a slot as wide as the stride") = wire.to_le_bytes();
            }

            #[inline]
            fn read(bytes: &[u8]) -> Result<Self, Box<Why>> {
                let (head, rest) = bytes
                    .split_first_chunk()
                    .ok_or(postcard::Error::DeserializeUnexpectedEnd)
                    .map_err(Why::reading)?;
                if !rest.is_empty() {
                    return Err(Box::new(Why::Trailing(rest.len())));
                }
                $back(<$wire>::from_le_bytes(*head)).map_err(Why::reading)
            }
        })*

        // A cast asks whether `T` is that very type, without `T: 'static`, and folds to a constant
        // when optimised; the sizes are compared first for the sake of debug builds.

        /// Some(n): items of type T lie in a batch as n bytes each, with no length before them.
        ///
        /// Only a primitive number, `bool` or `char` itself has a stride: `&u64` and `Box<u64>`
        /// have none, so call [`put`] with the type that the other end calls [`get`] with.
        #[inline]
        pub(crate) fn stride<T>() -> Option<u32> {
            let nothing: Option<T> = None;
            $(if size_of::<T>() == size_of::<$t>()
                && castaway::cast!(&nothing, &Option<$t>).is_ok()
            {
                return Some(<$t>::STRIDE);
            })*
            None
        }

        /// Appends a `T` that has a stride; false if it has none.
        #[inline]
        fn append_plain<T>(item: &T, out: &mut Vec<u8>) -> bool {
            $(if size_of::<T>() == size_of::<$t>()
                && let Ok(number) = castaway::cast!(item, &$t)
            {
                number.append(out);
                return true;
            })*
            false
        }

        /// Writes a `T` that has a stride over a slot of as many bytes.
        #[inline]
        pub(crate) fn write_plain<T>(item: &T, slot: &mut [u8]) {
            $(if size_of::<T>() == size_of::<$t>()
                && let Ok(number) = castaway::cast!(item, &$t)
            {
                return number.write(slot);
            })*
        }

        /// Reads a `T` that has a stride; `Ok(None)` if it has none.
        #[inline]
        fn read_plain<T>(bytes: &[u8]) -> Result<Option<T>, Box<Why>> {
            let mut item: Option<T> = None;
            $(if size_of::<T>() == size_of::<$t>()
                && let Ok(slot) = castaway::cast!(&mut item, &mut Option<$t>)
            {
                *slot = Some(<$t>::read(bytes)?);
                return Ok(item);
            })*
            Ok(item)
        }
    };
}

plain! {
    u8 as u8, identity, Ok;
    u16 as u16, identity, Ok;
    u32 as u32, identity, Ok;
    u64 as u64, identity, Ok;
    u128 as u128, identity, Ok;
    i8 as i8, identity, Ok;
    i16 as i16, identity, Ok;
    i32 as i32, identity, Ok;
    i64 as i64, identity, Ok;
    i128 as i128, identity, Ok;
    f32 as f32, identity, Ok;
    f64 as f64, identity, Ok;
    usize as u64, |n| n as u64, |n| usize::try_from(n).map_err(too_wide);
    isize as i64, |n| n as i64, |n| isize::try_from(n).map_err(too_wide);
    char as u32, u32::from, |n| char::from_u32(n).ok_or(postcard::Error::DeserializeBadChar);
    bool as u8, u8::from, |n| match n {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(postcard::Error::DeserializeBadBool),
    };
}

/// A `usize` from a 64-bit machine on a smaller one.
fn too_wide(_: TryFromIntError) -> postcard::Error {
    postcard::Error::DeserializeBadEncoding
}

/// Appends one item: its bytes alone where T has a stride, else a u32 little-endian length and the
/// bytes. On an error `out` is as it was.
#[inline]
pub(crate) fn put<T: Serialize + DeserializeOwned>(item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    put_within(u32::MAX, item, out)
}

/// Whether these bytes, which [`put`] has written for a `T`, are an `Err`.
#[cold]
pub(crate) fn is_err<T>(bytes: &[u8]) -> bool {
    // Its variants are numbered by serde: `Ok` is 0.
    type_name::<T>().starts_with("core::result::Result<") && bytes.get(LENGTH) == Some(&1)
}

#[inline]
pub(super) fn put_within<T: Serialize + DeserializeOwned>(
    limit: u32,
    item: &T,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    if append_plain(item, out) {
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    let end_of_length = out.len();
    let why = match append(item, out) {
        Ok(()) => {
            let bytes = out.len() - end_of_length;
            match u32::try_from(bytes) {
                Ok(length) if length <= limit => {
                    out[start..end_of_length].copy_from_slice(&length.to_le_bytes());
                    return Ok(());
                }
                _ => Why::TooLong { bytes, limit },
            }
        }
        Err(why) => *why,
    };
    out.truncate(start);
    Err(CodecError::new::<T>("write an item", why))
}

/// Reads one item from exactly its bytes (without the length): everything must be consumed,
/// trailing bytes are an error.
#[inline]
pub(crate) fn get<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    match read_plain(bytes) {
        Ok(None) => read(bytes),
        Ok(Some(item)) => Ok(item),
        Err(why) => Err(why),
    }
    .map_err(|why| CodecError::new::<T>("read an item", *why))
}

/// A whole value with neither stride nor length (contexts): any size, also above 4 GiB.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<Context, CodecError> {
    stream(value).map_err(|why| CodecError::new::<T>("write a value", *why))
}

fn stream<T: Serialize + DeserializeOwned>(value: &T) -> Result<Context, Box<Why>> {
    let mut writer = Context::writer();
    let no_memory = |error| Box::new(Why::NoMemory(error));
    if let Some(written) = stream_plain_vector(value, &mut writer) {
        written.map_err(no_memory)?;
    } else {
        let mut error = None;
        let mut shapes = Shapes::new::<T>();
        let output = Stream { writer: &mut writer, error: &mut error, shapes: &mut shapes };
        let written = value.serialize(Strict::new::<T>(&mut postcard::Serializer { output }));
        error.map_or(written, |error| Err(no_memory(error)))?;
        if shapes.is_new() {
            check(value, shapes)?;
        }
    }
    writer.finish().map_err(no_memory)
}

/// Reads what [`encode`] wrote: all of it, trailing bytes are an error.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    read(bytes).map_err(|why| CodecError::new::<T>("read a value", *why))
}

#[inline]
fn append<T: Serialize + DeserializeOwned>(value: &T, out: &mut Vec<u8>) -> Result<(), Box<Why>> {
    if append_plain_vector(value, out) {
        return Ok(());
    }
    let mut shapes = Shapes::new::<T>();
    let output = Append { out, shapes: &mut shapes };
    value.serialize(Strict::new::<T>(&mut postcard::Serializer { output }))?;
    if shapes.is_new() { check(value, shapes) } else { Ok(()) }
}

/// A claimed length reserves 1 MiB at the most in serde's own collections, and soon runs out of
/// bytes. Not bounded are claims of elements that take memory but no bytes (every field
/// `#[serde(skip)]`), and nesting: a megabyte of nested boxes was seen to overflow the stack.
#[inline]
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Box<Why>> {
    if let Some(value) = read_plain_vector(bytes)? {
        return Ok(value);
    }
    let mut reader = postcard::Deserializer::from_bytes(bytes);
    let value = T::deserialize(&mut reader).map_err(|failed| words::<T>(bytes, failed))?;
    match reader.finalize() {
        Ok([]) => Ok(value),
        Ok(rest) => Err(Box::new(Why::Trailing(rest.len()))),
        Err(source) => Err(Why::reading(source)),
    }
}
