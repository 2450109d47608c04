//! Words that a plain sentence does without, each with what to write instead, and the search for them.

/// Words in a row that are not used.
#[derive(Debug)]
struct Rule {
    /// One word after the other; `|` separates alternatives. `^` is the start of a sentence, `*` is any word.
    words: &'static [&'static str],
    /// The words are fine where one of these stands within [`NEAR`] words before them, in the same sentence.
    unless_after: &'static [&'static str],
    /// The words are fine where one of these stands within [`NEAR`] words after them, in the same sentence.
    unless_before: &'static [&'static str],
    instead: &'static str,
}

const NEAR: usize = 8;

const fn rule(words: &'static [&'static str], instead: &'static str) -> Rule {
    Rule { words, unless_after: &[], unless_before: &[], instead }
}

/// Words after which "no" belongs to a comparison: "is no longer".
const COMPARISONS: &[&str] = &[
    "longer",
    "more",
    "less",
    "fewer",
    "better",
    "worse",
    "larger",
    "smaller",
    "higher",
    "lower",
    "faster",
    "slower",
    "different",
    "other",
];

const RULES: [Rule; 11] = [
    Rule {
        words: &["told"],
        unless_after: &[],
        // "Told apart" is what tests of a format do.
        unless_before: &["apart"],
        instead: "reported, notified, printed",
    },
    rule(&["hear|hears|heard"], "receives, is notified of"),
    rule(&["whom|whomever|whoever"], "the name of the process, the caller, the client, anyone who"),
    rule(&["nobody"], "no process, no client, no caller"),
    rule(&["somebody"], "another process, a person, a client"),
    rule(&["he|him|his|himself|she|her|hers|herself"], "it of a process, they of people"),
    rule(&["^", "who"], "a sentence that begins with a noun"),
    Rule {
        words: &["is|are|was|were|be", "none"],
        unless_after: &["there"],
        unless_before: &[],
        instead: "invalid, absent, not found, not a",
    },
    Rule {
        words: &["is|are|was|were", "no", "*"],
        unless_after: &["there"],
        unless_before: &[],
        instead: "is not a",
    },
    Rule {
        words: &["so", "many|much|long|often|few|little"],
        unless_after: &[],
        unless_before: &["that", "as"],
        instead: "up to N, for this duration, at this rate",
    },
    rule(&["be|is|are|was|were", "had"], "available"),
];

/// A word with the number of its line. Marks between words are words, too.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Splits `text` into words in lower case and marks, and adds them to `words`. Line ends in `text` count on from `line`.
pub(crate) fn split(text: &str, mut line: usize, words: &mut Vec<Word>) {
    let mut word = String::new();
    // The mark after the text ends its last word.
    for char in text.chars().chain(['\0']) {
        if char.is_alphanumeric() || char == '_' || ['\'', '’'].contains(&char) && !word.is_empty() {
            word.extend(char.to_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push(Word { text: std::mem::take(&mut word), line });
        }
        line += usize::from(char == '\n');
        if !char.is_whitespace() && char != '\0' {
            words.push(Word { text: char.to_string(), line });
        }
    }
}

fn ends_sentence(word: &Word) -> bool {
    [".", "!", "?", ":", ";"].contains(&word.text.as_str())
}

fn is_word(word: &Word) -> bool {
    word.text.chars().all(|char| char.is_alphanumeric() || ['_', '\'', '’'].contains(&char))
}

/// The unwanted words in `words`, which begin with a sentence: the line, the words, what to write instead.
pub(crate) fn unwanted(words: &[Word]) -> Vec<(usize, String, &'static str)> {
    let mut found = Vec::new();
    for at in 0..words.len() {
        for rule in &RULES {
            if let Some(count) = matching(rule, words, at) {
                let text: Vec<&str> = words[at..at + count].iter().map(|word| word.text.as_str()).collect();
                found.push((words[at].line, text.join(" "), rule.instead));
            }
        }
    }
    found
}

/// How many of the words from `at` on are those of `rule`; `None`: others, or there they are fine.
fn matching(rule: &Rule, words: &[Word], at: usize) -> Option<usize> {
    let mut count = 0;
    for wanted in rule.words {
        if *wanted == "^" {
            if at > 0 && !ends_sentence(&words[at - 1]) {
                return None;
            }
            continue;
        }
        let word = words.get(at + count)?;
        let fits = match *wanted {
            "*" => is_word(word) && !COMPARISONS.contains(&word.text.as_str()),
            alternatives => alternatives.split('|').any(|one| one == word.text.trim_end_matches("'s")),
        };
        if !fits {
            return None;
        }
        count += 1;
    }
    let before = words[..at].iter().rev().take_while(|word| !ends_sentence(word)).take(NEAR);
    let after = words[at + count..].iter().take_while(|word| !ends_sentence(word)).take(NEAR);
    let is_fine = before.into_iter().any(|word| rule.unless_after.contains(&word.text.as_str()))
        || after.into_iter().any(|word| rule.unless_before.contains(&word.text.as_str()));
    (!is_fine).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::{split, unwanted};

    fn found(text: &str) -> Vec<(usize, String)> {
        let mut words = Vec::new();
        split(text, 1, &mut words);
        unwanted(&words).into_iter().map(|(line, words, _)| (line, words)).collect()
    }

    #[test]
    fn each_rule_finds_its_words_with_their_line() {
        for (text, words) in [
            ("The client is told.", "told"),
            ("The gateway\nhears of it.", "hears"),
            ("It is whoever's.", "whoever's"),
            ("Nobody waits.", "nobody"),
            ("Somebody's program.", "somebody's"),
            ("The worker kills himself.", "himself"),
            ("It ends. Who waits is woken.", "who"),
            ("Where: who waits.", "who"),
            ("An index that is none.", "is none"),
            ("What was sent is no packet.", "is no packet"),
            ("It waits so long.", "so long"),
            ("There are so many. That is all.", "so many"),
            ("Where it can't be had.", "be had"),
        ] {
            let line = text.to_lowercase().lines().position(|line| line.contains(words)).unwrap() + 1;
            assert_eq!(found(text), [(line, words.to_owned())], "{text}");
        }
    }

    #[test]
    fn plain_sentences_have_no_unwanted_words() {
        for text in [
            "Identical bodies are told apart by the type name.",
            "A client who signs is a client.",
            "The file is no longer there, and there is no other.",
            "Where there is none, the field is empty.",
            "None of the 120 runs was lower.",
            "It waits so long that the lease ends, and so often as the clock says.",
            "heartbeats, whose, then, the, knobody",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
