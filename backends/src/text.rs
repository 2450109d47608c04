//! Bounds for texts that another process has written. Called where such a text enters this process, and by
//! the process that writes it. And when two such texts are alike.

use std::hash::{DefaultHasher, Hash, Hasher};

/// Bytes of a message that a function fails with.
pub(crate) const MESSAGE: usize = 4096;
/// Bytes of a message as a host takes it from a worker that is trusted with nothing: [`MESSAGE`], and what
/// the worker adds.
pub(crate) const TAKEN: usize = 2 * MESSAGE;

/// Cuts a text that is longer than `most` bytes, at the boundary of a character; what follows says how much
/// is left out.
pub(crate) fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes left out)", &text[..end], text.len() - end)
}

/// A number that lines have in common that differ in numbers and addresses alone.
pub(crate) fn look_of(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in line.chunk_by(|one, other| one.is_ascii_alphanumeric() == other.is_ascii_alphanumeric()) {
        let word: &[u8] = if word.iter().any(u8::is_ascii_digit) { b"0" } else { word };
        word.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_alike_that_differ_in_numbers_and_addresses() {
        assert_eq!(look_of(b"thread 7 at 0x7fA0"), look_of(b"thread 12 at 0x81"));
        assert_ne!(look_of(b"thread 7 at 0x7fA0"), look_of(b"process 7 at 0x7fA0"));
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_says_so() {
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("éé".to_owned(), 3), "é… (2 bytes left out)");
        let long = cut("x".repeat(60 << 20), MESSAGE);
        assert!(long.len() < MESSAGE + 40 && long.capacity() <= 4 * MESSAGE, "{}", long.capacity());
    }
}
