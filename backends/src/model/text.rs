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

/// Numbers of a process and of its first threads.
const THREADS: u32 = 64;

/// A number that lines of two processes have in common where they differ in addresses and in the numbers of process and
/// threads alone.
pub(crate) fn look_of(line: &[u8], process: u32) -> u64 {
    let mut hasher = DefaultHasher::new();
    for word in line.chunk_by(|one, other| one.is_ascii_alphanumeric() == other.is_ascii_alphanumeric()) {
        let number = str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok());
        let own = number.and_then(|number| number.checked_sub(process)).is_some_and(|rest| rest < THREADS);
        let word = if own || word.starts_with(b"0x") { b"0" } else { word };
        word.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_alike_that_differ_in_addresses_and_numbers_of_the_process() {
        let one = look_of(b"thread 'f' (4001) panicked at 0x7fA0: no module", 4000);
        assert_eq!(one, look_of(b"thread 'f' (5003) panicked at 0x81: no module", 5000));
        assert_ne!(one, look_of(b"thread 'f' (5003) panicked at 0x81: no license", 5000));
        assert_ne!(look_of(b"item 7 is about to fail", 4000), look_of(b"item 8 is about to fail", 5000));
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters_and_says_so() {
        assert_eq!(cut("short".to_owned(), 5), "short");
        assert_eq!(cut("éé".to_owned(), 3), "é… (2 bytes left out)");
        let long = cut("x".repeat(60 << 20), MESSAGE);
        assert!(long.len() < MESSAGE + 40 && long.capacity() <= 4 * MESSAGE, "{}", long.capacity());
    }
}
