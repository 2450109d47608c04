//! The documents hold: links lead somewhere, the page of options and variables says what the code reads, and each public
//! item has an example. Programs in the documents are compiled as doctests (see `src/lib.rs`).
//!
//! `markdown` reads documents, `items` the public items of a crate.
#![allow(clippy::unwrap_used)]

#[path = "../common/files.rs"]
mod files;
mod items;
mod markdown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use files::{files, root};
use items::{Item, public_items};
use markdown::Document;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn each_link_of_a_document_leads_to_a_file_and_to_a_heading_in_it() {
    let documents: BTreeMap<PathBuf, Document> = files(root(), "md")
        .into_iter()
        .map(|path| (path.clone(), Document::read(&fs::read_to_string(&path).unwrap())))
        .collect();
    assert!(documents.len() > 10, "{documents:?}");
    let mut broken = Vec::new();
    for (path, document) in &documents {
        for link in document.links.iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let Ok(target) = target.canonicalize() else {
                broken.push(format!("{}: there is no {file}", path.display()));
                continue;
            };
            if !heading.is_empty() && !documents.get(&target).is_some_and(|it| it.anchors.contains(heading)) {
                broken.push(format!("{}: there is no heading #{heading} in {file}", path.display()));
            }
        }
        broken.extend(document.faults.iter().map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn each_source_that_a_document_names_exists() {
    let sources: Vec<PathBuf> = files(root(), "rs");
    let mut missing = Vec::new();
    for path in files(root(), "md") {
        for name in Document::read(&fs::read_to_string(&path).unwrap()).names {
            // Relative to the document, to its crate or to the repository: the end of a path is what all have in common.
            let end = name.trim_start_matches("../");
            if Path::new(end).extension().is_some_and(|kind| kind == "rs")
                && !end.contains(' ')
                && !sources.iter().any(|it| it.ends_with(end))
            {
                missing.push(format!("{}: there is no {name}", path.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn the_readme_leads_to_each_document() {
    let readme = Document::read(&read("README.md"));
    for path in files(&root().join("docs"), "md") {
        let link = format!("docs/{}", path.file_name().unwrap().to_string_lossy());
        assert!(readme.links.contains(&link), "the README has no link to {link}");
    }
}

/// Names like `FASTMAP_SECRET` in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("FASTMAP_") {
        let name: String =
            text[at..].chars().take_while(|char| char.is_ascii_uppercase() || *char == '_').collect();
        found.insert(name.trim_end_matches('_').to_owned());
    }
    found.remove("FASTMAP");
    found
}

#[test]
fn the_page_of_variables_has_those_that_are_read_and_no_others() {
    let mut read_somewhere = BTreeSet::new();
    for folder in ["src", "backends/src", "sandbox/src", "service/src"] {
        for path in files(&root().join(folder), "rs") {
            read_somewhere.extend(variables(&fs::read_to_string(path).unwrap()));
        }
    }
    assert!(read_somewhere.contains("FASTMAP_EXEC_POLICY"), "{read_somewhere:?}");
    let mut page = variables(&read("docs/environment.md"));
    // Of tests, which say so themselves.
    assert!(page.remove("FASTMAP_TEST") && page.remove("FASTMAP_PICTURES"));
    for variables in [&mut page, &mut read_somewhere] {
        variables.retain(|name| !name.starts_with("FASTMAP_TEST_"));
    }
    assert_eq!(page, read_somewhere);
}

/// The public methods of a type.
fn methods(of: &str) -> BTreeSet<String> {
    let prefix = format!("{of}::");
    let items = public_items(&root().join("src"));
    let names = items.iter().filter_map(|item| item.name.strip_prefix(&prefix));
    names.map(str::to_owned).collect()
}

#[test]
fn the_page_of_options_has_each_method_and_no_others() {
    let page = read("docs/environment.md");
    let rows = |heading: &str| -> BTreeSet<String> {
        let section = page.split(heading).nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split('(').next()).map(str::to_owned).collect()
    };
    let mut options = methods("Options");
    assert!(options.remove("new") && options.len() > 10, "{options:?}");
    assert_eq!(rows("## Options\n"), options);
    assert_eq!(rows("## Of one map\n"), methods("Fastmap"));
}

#[test]
fn each_option_stands_with_its_variable_in_the_page_and_in_the_methods_own_document() {
    let (page, code) = (read("docs/environment.md"), read("src/options.rs"));
    let mut options = methods("Options");
    options.remove("new");
    for option in options.iter().filter(|option| *option != "backend") {
        let variable = format!("FASTMAP_{}", option.to_uppercase());
        let row = page.lines().find(|line| line.starts_with(&format!("| `{option}("))).unwrap();
        assert!(row.contains(&format!("`{variable}`")), "{variable}: {row}");
        let row = code.lines().find(|line| line.starts_with(&format!("/// | [`{option}`]"))).unwrap_or("");
        assert!(row.contains(&format!("`{variable}`")), "{variable} is missing in the table of Options");
    }
}

/// An example of these traits implements all of their methods.
const TRAITS: [&str; 2] = ["Backend", "Run"];

/// The type or the trait of a method, or the item itself.
fn owner(item: &Item) -> &str {
    item.name.split("::").next().unwrap()
}

#[test]
fn each_public_item_has_an_example() {
    let mut items = public_items(&root().join("src"));
    assert!(items.len() > 50, "{}", items.len());
    let backends = public_items(&root().join("backends/src"));
    items.extend(backends.into_iter().filter(|item| TRAITS.contains(&&*item.name)));
    assert_eq!(items.iter().filter(|item| TRAITS.contains(&owner(item))).count(), TRAITS.len());
    let without: Vec<_> = items
        .iter()
        .filter(|item| !item.has_example)
        .map(|item| format!("{} ({})", item.name, item.file.display()))
        .collect();
    assert!(without.is_empty(), "without an example:\n{}", without.join("\n"));
}
