//! How the bare re-exec writes the items and results of a chunk: one after the other by serde, or all at once by hand.

use std::any::Any;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A way to write.
pub(crate) trait Format: 'static {
    /// What the contestant is called that writes so.
    const NAME: &'static str;
    fn encode<T: Wire + Serialize + 'static>(items: Vec<T>) -> Vec<u8>;
    /// `count` is how many items the message holds.
    fn decode<T: Wire + DeserializeOwned + 'static>(message: Vec<u8>, count: usize) -> Vec<T>;
}

/// As whatever takes any type must: by serde, in postcard's format, as fastmap does. Byte strings are copied as
/// blocks, which fastmap does, too: postcard alone would write them byte by byte.
pub(crate) struct BySerde;

impl Format for BySerde {
    const NAME: &'static str = "raw";

    fn encode<T: Wire + Serialize + 'static>(items: Vec<T>) -> Vec<u8> {
        if let Some(strings) = (&items as &dyn Any).downcast_ref::<Vec<Vec<u8>>>() {
            return write_strings(strings);
        }
        let empty = Vec::with_capacity(items.len() * size_of::<T>());
        items
            .iter()
            .try_fold(empty, |message, item| postcard::to_extend(item, message))
            .expect("what workloads map can be written")
    }

    fn decode<T: Wire + DeserializeOwned + 'static>(message: Vec<u8>, count: usize) -> Vec<T> {
        if (&Vec::<T>::new() as &dyn Any).is::<Vec<Vec<u8>>>() {
            // The same type, which the compiler can't know: one that moves.
            let mut items = Some(read_strings(&message, count));
            let items = (&mut items as &mut dyn Any).downcast_mut::<Option<Vec<T>>>().and_then(Option::take);
            return items.expect("it was looked at");
        }
        let mut left = message.as_slice();
        let mut item = |_| {
            let (item, rest) = postcard::take_from_bytes(left).expect("the other side is this program");
            left = rest;
            item
        };
        (0..count).map(&mut item).collect()
    }
}

/// Fixed for the types of the workloads: numbers by their bytes, byte strings after their lengths; one byte string
/// alone is its own message, so that nothing is copied.
pub(crate) struct ByHand;

impl Format for ByHand {
    const NAME: &'static str = "raw, by hand";

    fn encode<T: Wire + Serialize + 'static>(items: Vec<T>) -> Vec<u8> {
        T::encode(items)
    }

    fn decode<T: Wire + DeserializeOwned + 'static>(message: Vec<u8>, count: usize) -> Vec<T> {
        T::decode(message, count)
    }
}

/// What can be written by hand.
pub(crate) trait Wire: Sized {
    fn encode(items: Vec<Self>) -> Vec<u8>;
    /// `count` is how many items the message holds.
    fn decode(message: Vec<u8>, count: usize) -> Vec<Self>;
}

const WORD: usize = size_of::<u64>();

/// The words that a message begins with.
fn words(message: &[u8]) -> impl Iterator<Item = u64> {
    message.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word))
}

impl Wire for u64 {
    fn encode(items: Vec<Self>) -> Vec<u8> {
        items.iter().flat_map(|item| item.to_le_bytes()).collect()
    }

    fn decode(message: Vec<u8>, count: usize) -> Vec<Self> {
        words(&message).take(count).collect()
    }
}

impl Wire for f64 {
    fn encode(items: Vec<Self>) -> Vec<u8> {
        items.iter().flat_map(|item| item.to_le_bytes()).collect()
    }

    fn decode(message: Vec<u8>, count: usize) -> Vec<Self> {
        words(&message).take(count).map(f64::from_bits).collect()
    }
}

impl Wire for Vec<u8> {
    fn encode(mut items: Vec<Self>) -> Vec<u8> {
        match items.len() {
            1 => items.swap_remove(0),
            _ => write_strings(&items),
        }
    }

    fn decode(message: Vec<u8>, count: usize) -> Vec<Self> {
        match count {
            1 => vec![message],
            _ => read_strings(&message, count),
        }
    }
}

/// The lengths, then the strings.
fn write_strings(items: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Vec::with_capacity(items.iter().map(|item| WORD + item.len()).sum());
    message.extend(items.iter().flat_map(|item| (item.len() as u64).to_le_bytes()));
    for item in items {
        message.extend_from_slice(item);
    }
    message
}

fn read_strings(message: &[u8], count: usize) -> Vec<Vec<u8>> {
    let mut from = count * WORD;
    let mut item = |length: u64| {
        let bytes = message[from..from + length as usize].to_vec();
        from += bytes.len();
        bytes
    };
    words(message).take(count).map(&mut item).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn comes_back<F: Format, T>(items: &[T])
    where
        T: Wire + Serialize + DeserializeOwned + Clone + PartialEq + Debug + 'static,
    {
        let message = F::encode(items.to_vec());
        assert_eq!(F::decode::<T>(message, items.len()), items, "{}", F::NAME);
    }

    #[test]
    fn whatever_the_workloads_map_comes_back_in_both_formats() {
        let strings = [vec![1_u8, 2, 3], Vec::new(), vec![7; 1000]];
        for items in 0..=3 {
            comes_back::<BySerde, _>(&strings[..items]);
            comes_back::<ByHand, _>(&strings[..items]);
            comes_back::<BySerde, _>(&[1_u64, u64::MAX, 300][..items]);
            comes_back::<ByHand, _>(&[1_u64, u64::MAX, 300][..items]);
            comes_back::<BySerde, _>(&[1.5_f64, -0.0, f64::MAX][..items]);
            comes_back::<ByHand, _>(&[1.5_f64, -0.0, f64::MAX][..items]);
        }
    }
}
