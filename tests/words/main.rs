//! Sentences for users are plain: they do without the words of `rules`, which makes each process a person or a
//! fact a riddle.
//!
//! `markdown` reads documents, `source` the documentation and the texts of Rust sources.
#![allow(clippy::unwrap_used)]

#[path = "../common/files.rs"]
mod files;
mod markdown;
mod rules;
mod source;
#[path = "../common/syntax.rs"]
mod syntax;

use std::fs;
use std::path::Path;

use files::{files, root};
use source::Part;

/// A line for each unwanted word: file, line, word, what to write instead.
fn faults(path: &Path, blocks: &[Vec<rules::Word>]) -> Vec<String> {
    let path = path.strip_prefix(root()).unwrap().display();
    let found = blocks.iter().flat_map(|words| rules::unwanted(words));
    found.map(|(line, words, instead)| format!("{path}:{line}: {words:?}: {instead}")).collect()
}

#[test]
fn documents_use_plain_words() {
    let documents = files(root(), "md");
    assert!(documents.len() > 10, "{documents:?}");
    let found: Vec<String> = documents
        .iter()
        .flat_map(|path| faults(path, &markdown::prose(&fs::read_to_string(path).unwrap())))
        .collect();
    check(&found);
}

fn check(found: &[String]) {
    assert!(found.is_empty(), "{} unwanted words:\n{}", found.len(), found.join("\n"));
}

fn faults_of(folders: &[&str], part: Part) -> Vec<String> {
    let sources = folders.iter().flat_map(|folder| source::read(folder, part));
    sources.flat_map(|(path, blocks)| faults(&path, &blocks)).collect()
}

#[test]
fn documentation_of_public_items_uses_plain_words() {
    check(&faults_of(&["src", "backends/src", "sandbox/src"], Part::Documentation));
}

#[test]
fn texts_for_users_use_plain_words() {
    check(&faults_of(&["src", "backends/src", "sandbox/src", "service/src"], Part::Texts));
}
