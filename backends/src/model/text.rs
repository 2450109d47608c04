//! Limits and comparison of texts from other processes. Called where such a text enters this process, and by
//! the process that writes it.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Maximum bytes of a function's failure message.
pub(crate) const MESSAGE: usize = 4096;
/// Maximum bytes of a failure message from an untrusted worker: [`MESSAGE`], and the worker's additions.
pub(crate) const TAKEN: usize = 2 * MESSAGE;

/// Cuts a text that is longer than `most` bytes at a character boundary, and appends the number of bytes left
/// out.
pub(crate) fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes left out)", &text[..end], text.len() - end)
}

/// Ids from the process id on that are taken for the process and its first threads.
const MAX_THREAD_OFFSET: u32 = 64;

/// Fingerprint of a line. Lines of two processes have the same one if they differ only in addresses and in
/// process and thread ids.
pub(crate) fn look_of(line: &[u8], process: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in line.chunk_by(|one, other| one.is_ascii_alphanumeric() == other.is_ascii_alphanumeric()) {
        let number = str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok());
        let own = number
            .and_then(|number| number.checked_sub(process))
            .is_some_and(|rest| rest < MAX_THREAD_OFFSET);
        let word = if own || word.starts_with(b"0x") { b"0" } else { word };
        word.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_ignore_addresses_and_process_ids() {
        let one = look_of(b"thread 'f' (4001) panicked at 0x7fA0: no module", 4000);
        assert_eq!(one, look_of(b"thread 'f' (5003) panicked at 0x81: no module", 5000));
        assert_ne!(one, look_of(b"thread 'f' (5003) panicked at 0x81: no license", 5000));
        assert_ne!(look_of(b"item 7 is about to fail", 4000), look_of(b"item 8 is about to fail", 5000));
    }

    #[test]
    fn long_texts_are_cut_at_a_character_boundary() {
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("éé".to_owned(), 3), "é… (2 bytes left out)");
        let long = cut("x".repeat(60 << 20), MESSAGE);
        assert!(long.len() < MESSAGE + 40 && long.capacity() <= 4 * MESSAGE, "{}", long.capacity());
    }
}
