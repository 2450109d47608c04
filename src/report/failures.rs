//! What the items of one map fail with. Equal texts are given in full a few times and briefly from then on,
//! so that the errors of thousands of items stay readable and small. Called by the report for each error that
//! is given to the consumer; the closing line has the count.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use fastmap_backends::{ItemFailure, WorkerExit, counted};

use crate::error::Error;

/// Errors of one map with the same text that have all of it.
const IN_FULL: u64 = 3;
/// A text of so many bytes is never shortened.
const SHORT: usize = 200;
/// Bytes of a longer text that a shortened one begins with.
const BEGIN: usize = 150;
/// Texts of one map that are compared.
const TEXTS: usize = 64;

/// The texts that errors of one map had.
#[derive(Debug, Default)]
pub(super) struct Failures {
    messages: Texts,
    /// Frames of panics, which may be equal where the messages differ.
    frames: Texts,
}

#[derive(Debug, Default)]
struct Texts(HashMap<u64, Equal>);

/// Equal texts.
#[derive(Debug)]
struct Equal {
    text: Arc<str>,
    /// Index of the first item that had it.
    first: usize,
    times: u64,
}

impl Failures {
    /// The error as the consumer gets it: with a shorter text if several before it had the same.
    pub(super) fn meet(&mut self, error: Error) -> Error {
        let Some(index) = error.index() else { return error };
        let whole = error.message();
        let (message, frames) = whole.split_at(whole.find(ItemFailure::FRAMES).unwrap_or(whole.len()));
        let look = error.death().map_or_else(|| hash(message), WorkerExit::look);
        let equal = self.messages.meet(look, message, index);
        let framed = if frames.is_empty() { None } else { self.frames.meet(hash(frames), frames, index) };
        let long = equal.filter(|_| message.len() > SHORT);
        let shorter = match (long, framed) {
            (None, None) => return error,
            (None, Some(like)) => format!("{message}{} those of item {}", ItemFailure::FRAMES, like.first),
            (Some(like), Some(framed)) if framed.first != like.first => format!(
                "{}… (the same as item {}'s; its frames are item {}'s)",
                begin_of(message),
                like.first,
                framed.first
            ),
            // Frames that are none of an earlier item's stay.
            (Some(like), None) => {
                format!("{}… (the same as item {}'s){frames}", begin_of(message), like.first)
            }
            (Some(like), Some(_)) => format!("{}… (the same as item {}'s)", begin_of(message), like.first),
        };
        let whole = [share(equal, message), share(framed, frames)];
        error.shortened(shorter, whole)
    }

    /// What the closing line says of the text that most items had, if several had the same.
    pub(super) fn most(&self) -> Option<String> {
        let Texts(messages) = &self.messages;
        let most = messages.values().max_by_key(|equal| (equal.times, usize::MAX - equal.first))?;
        let Equal { text, first, times } = most;
        let cut = if text.len() > SHORT { "…" } else { "" };
        let text = if cut.is_empty() { first_line(text) } else { begin_of(text) };
        (*times > 1)
            .then(|| format!("{} failed alike: {text}{cut} (first: item {first})", counted(*times, "item")))
    }
}

impl Texts {
    /// Counts a text; gives what it is equal to, if that was given in full often enough.
    fn meet(&mut self, look: u64, text: &str, index: usize) -> Option<&Equal> {
        let Texts(texts) = self;
        if texts.len() >= TEXTS && !texts.contains_key(&look) {
            texts.retain(|_, equal| equal.times > 1);
            if texts.len() >= TEXTS {
                return None;
            }
        }
        let equal = texts.entry(look).or_insert_with(|| Equal { text: text.into(), first: index, times: 0 });
        equal.times += 1;
        (equal.times > IN_FULL).then_some(&*equal)
    }
}

/// The text, shared with those that are equal to it to the letter.
fn share(equal: Option<&Equal>, text: &str) -> Arc<str> {
    equal.filter(|equal| *equal.text == *text).map_or_else(|| text.into(), |equal| Arc::clone(&equal.text))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The begin of a text's first line, to the end of a word.
fn begin_of(text: &str) -> &str {
    let line = first_line(text);
    if line.len() <= BEGIN {
        return line;
    }
    let end = (0..=BEGIN).rev().find(|end| line.is_char_boundary(*end)).unwrap_or_default();
    let begin = &line[..end];
    begin.rsplit_once(' ').map_or(begin, |(words, _)| words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn failed(index: u64, message: &str) -> Error {
        Error::new(ErrorKind::Panic, message).at(index)
    }

    /// The texts of `errors` as they are given to the consumer.
    fn texts(failures: &mut Failures, errors: impl Iterator<Item = Error>) -> Vec<String> {
        errors.map(|error| failures.meet(error).to_string()).collect()
    }

    #[test]
    fn equal_long_texts_come_in_full_three_times_and_name_the_first_item_then() {
        let long = format!("cannot read an item of type a::B: {}; wrap it in Json", "why ".repeat(100));
        let mut failures = Failures::default();
        let texts = texts(&mut failures, (5..5000).map(|index| failed(index, &long)));
        assert!(texts[..3].iter().all(|text| text.ends_with("; wrap it in Json")), "{texts:?}");
        let begin = "item 4999: cannot read an item of type a::B: why why ";
        assert!(texts[4994].starts_with(begin), "{}", texts[4994]);
        assert!(texts[4994].ends_with("… (the same as item 5's)"), "{}", texts[4994]);
        assert!(texts[3..].iter().all(|text| text.len() < 2 * SHORT));
        let common = failures.most().expect("many are equal");
        assert!(
            common.starts_with("4995 items failed alike: cannot read an item of type a::B: why "),
            "{common}"
        );
        assert!(common.ends_with("… (first: item 5)"), "{common}");
    }

    #[test]
    fn short_texts_stay_and_texts_that_differ_are_not_counted_as_equal() {
        let mut failures = Failures::default();
        let different = texts(&mut failures, (0..1000).map(|index| failed(index, &format!("no {index}"))));
        assert_eq!(different[999], "item 999: no 999");
        assert_eq!(failures.most(), None);
        let equal = texts(&mut failures, (1000..2000).map(|index| failed(index, "no luck")));
        assert_eq!(equal[999], "item 1999: no luck");
        assert_eq!(failures.most().as_deref(), Some("1000 items failed alike: no luck (first: item 1000)"));
        assert!(failures.messages.0.len() <= TEXTS);
    }

    #[test]
    fn frames_of_panics_are_shortened_where_messages_differ() {
        let frames = format!("{}\n{}", ItemFailure::FRAMES, "   0: a::b at src/a.rs:7\n".repeat(20));
        let mut failures = Failures::default();
        let message = |index| format!("panicked at src/a.rs:7:9: bad value {index}");
        let texts =
            texts(&mut failures, (0..10).map(|index| failed(index, &format!("{}{frames}", message(index)))));
        assert!(texts[2].ends_with(&frames), "{texts:?}");
        assert_eq!(texts[9], format!("item 9: {}\nstack backtrace: those of item 0", message(9)));
    }

    #[test]
    fn the_whole_text_and_the_kind_stay_to_be_had() {
        let long = "x ".repeat(500);
        let mut failures = Failures::default();
        let last = (0..9).map(|index| failures.meet(failed(index, &long))).last().expect("nine");
        assert_eq!((last.kind(), last.index()), (ErrorKind::Panic, Some(8)));
        assert!(format!("{last:#?}").contains(&long), "{last:#?}");
        assert!(last.to_string().len() < 250, "{last}");
    }
}
