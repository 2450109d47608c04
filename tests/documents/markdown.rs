//! A document in Markdown: where its links go, what its headings are called, and what is wrong with its code.

use std::collections::{BTreeSet, HashMap};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Languages of code that a document may show; each block names its own.
const LANGUAGES: [&str; 8] = ["http", "json", "python", "rust", "sh", "sql", "text", "toml"];

#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) links: Vec<String>,
    /// Names of headings as links have them.
    pub(crate) anchors: BTreeSet<String>,
    /// Code inside of sentences.
    pub(crate) names: Vec<String>,
    pub(crate) faults: Vec<String>,
}

impl Document {
    pub(crate) fn read(text: &str) -> Document {
        let mut document = Document::default();
        let mut heading: Option<String> = None;
        let mut seen: HashMap<String, u32> = HashMap::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    document.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let times = seen.entry(anchor.clone()).or_default();
                    let numbered = if *times == 0 { anchor } else { format!("{anchor}-{times}") };
                    *times += 1;
                    document.anchors.insert(numbered);
                }
                Event::Text(ref text) | Event::Code(ref text) => {
                    if let Event::Code(name) = &event {
                        document.names.push(name.to_string());
                    }
                    if let Some(heading) = &mut heading {
                        heading.push_str(text);
                    }
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    let language = language.split(',').next().unwrap_or_default();
                    if !LANGUAGES.contains(&language) {
                        document.faults.push(format!("a block of code in the language {language:?}"));
                    }
                }
                _ => {}
            }
        }
        // A fence that is not closed makes the rest of the document code.
        let fences = text.lines().filter(|line| line.trim_start().starts_with("```")).count();
        if fences % 2 != 0 {
            document.faults.push(format!("{fences} fences of code: one is not closed"));
        }
        document
    }
}

/// The name of a heading in a link, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
    kept.flat_map(char::to_lowercase).map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[test]
fn headings_are_found_as_links_name_them() {
    let document =
        Document::read("# A map, *here*: `x_y` & more\n\n## Twice\n\n## Twice\n[a](b.md#c) ![d](e.png)");
    assert_eq!(document.names, ["x_y"]);
    let anchors: Vec<_> = document.anchors.iter().map(String::as_str).collect();
    assert_eq!(anchors, ["a-map-here-x_y--more", "twice", "twice-1"]);
    assert_eq!(document.links, ["b.md#c", "e.png"]);
    assert_eq!(Document::read("```rust\nfn f() {}\n").faults.len(), 1);
    assert_eq!(Document::read("```\nfn f() {}\n```\n").faults.len(), 1);
}
