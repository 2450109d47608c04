//! How [`Raw`](super::Raw) writes the items and results of a chunk: numbers by their bytes, byte strings after their
//! lengths; one byte string alone is its own message, so that nothing is copied.

/// What a message can be made of.
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
        if items.len() == 1 {
            return items.swap_remove(0);
        }
        let lengths = items.iter().flat_map(|item| (item.len() as u64).to_le_bytes());
        lengths.chain(items.iter().flatten().copied()).collect()
    }

    fn decode(message: Vec<u8>, count: usize) -> Vec<Self> {
        if count == 1 {
            return vec![message];
        }
        let mut from = count * WORD;
        let mut item = |length: u64| {
            let bytes = message[from..from + length as usize].to_vec();
            from += bytes.len();
            bytes
        };
        words(&message).take(count).map(&mut item).collect()
    }
}
