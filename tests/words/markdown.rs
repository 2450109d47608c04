//! The prose of a document in Markdown: its text without code, with the lines where it stands.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::rules::{Word, split};

/// The words of each block of prose: a paragraph, a heading, an item of a list, a cell of a table.
pub(crate) fn prose(text: &str) -> Vec<Vec<Word>> {
    let mut blocks = vec![Vec::new()];
    let mut is_code = false;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        let line = text[..range.start].matches('\n').count() + 1;
        let words = blocks.last_mut().expect("one block is there from the start");
        match event {
            Event::Start(Tag::CodeBlock(_)) => is_code = true,
            Event::End(TagEnd::CodeBlock) => is_code = false,
            Event::Text(text) if !is_code => split(&text, line, words),
            // A name in a sentence, whose own words are the code's.
            Event::Code(_) => words.push(Word { text: "`".to_owned(), line }),
            Event::Start(
                Tag::Paragraph | Tag::Heading { .. } | Tag::Item | Tag::TableCell | Tag::BlockQuote(_),
            )
            | Event::End(TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::Item | TagEnd::TableCell) => {
                blocks.push(Vec::new());
            }
            _ => {}
        }
    }
    blocks
}

#[test]
fn prose_has_no_code_and_its_blocks_are_apart() {
    let text = "# A heading\n\nText `code` *and*\nmore.\n\n```sh\ntold\n```\n\n- item\n\n| a | b |\n|---|---|\n| c | d |\n";
    let blocks: Vec<Vec<_>> = prose(text)
        .into_iter()
        .filter(|block| !block.is_empty())
        .map(|block| block.into_iter().map(|word| (word.text, word.line)).collect())
        .collect();
    let expected: [&[(&str, usize)]; 7] = [
        &[("a", 1), ("heading", 1)],
        &[("text", 3), ("`", 3), ("and", 3), ("more", 4), (".", 4)],
        &[("item", 10)],
        &[("a", 12)],
        &[("b", 12)],
        &[("c", 14)],
        &[("d", 14)],
    ];
    let expected: Vec<Vec<_>> = expected
        .iter()
        .map(|block| block.iter().map(|(text, line)| ((*text).to_owned(), *line)).collect())
        .collect();
    assert_eq!(blocks, expected);
}
