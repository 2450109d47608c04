//! The source's structure holds: no file imports itself through others, and `lib.rs` and `mod.rs` only declare modules
//! and re-export names, so that a reader finds each item in a file that is named after it. No file is long.
//!
//! `imports` reads which file of a crate imports which.
#![allow(clippy::unwrap_used)]

mod imports;
#[path = "../common/syntax.rs"]
mod syntax;

use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;

/// The crates, each by its source folder and its root file.
const CRATES: [(&str, &str); 8] = [
    ("src", "lib.rs"),
    ("backends/src", "lib.rs"),
    ("sandbox/src", "lib.rs"),
    ("simulator/src", "lib.rs"),
    ("simulator/src", "main.rs"),
    ("service/src", "lib.rs"),
    ("service/src", "main.rs"),
    ("benches/src", "main.rs"),
];

fn source(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

#[test]
fn no_file_imports_itself_through_others() {
    let mut found = Vec::new();
    for (folder, root) in CRATES {
        for circle in Crate::read(&source(folder), root).circles() {
            let arrows: Vec<String> =
                circle.iter().map(|(from, to)| format!("  {} -> {}", from.display(), to.display())).collect();
            found.push(format!("{folder}:\n{}", arrows.join("\n")));
        }
    }
    assert!(found.is_empty(), "files that import each other in a circle:\n{}", found.join("\n"));
}

#[test]
fn lib_and_mod_files_declare_and_define_nothing() {
    let mut found = Vec::new();
    for (folder, root) in CRATES {
        for file in Crate::read(&source(folder), root).files {
            let name = file.path.file_name().unwrap();
            if (name == "lib.rs" || name == "mod.rs") && !file.defined.is_empty() {
                found.push(format!("{folder}/{}: {:?}", file.path.display(), file.defined));
            }
        }
    }
    assert!(found.is_empty(), "definitions outside a file of their own:\n{}", found.join("\n"));
}

/// Lines of a source file at most. A longer one has more than one idea, and its name can't say all of them.
const MOST_LINES: usize = 450;

/// All files of Rust below a folder, with those of tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "target" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a_source_file_has_a_bounded_number_of_lines() {
    let mut files = Vec::new();
    for folder in ["src", "backends", "sandbox", "service", "simulator", "benches"] {
        let before = files.len();
        sources(&source(folder), &mut files);
        assert!(files.len() > before, "no files in {folder}");
    }
    let mut longer: Vec<(String, usize)> = files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap().lines().count())
        })
        .filter(|(_, lines)| *lines > MOST_LINES)
        .collect();
    longer.sort();
    assert!(longer.is_empty(), "files above {MOST_LINES} lines: {longer:?}");
}
