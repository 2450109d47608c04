//! The prose of Rust sources: the documentation of public items, and the texts that users see.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Item, Lit, LitStr, Meta, Visibility};

use crate::files::{files, root};
use crate::markdown::prose;
use crate::rules::{Word, split};
use crate::syntax::{attributes, is_for_tests};

/// What is read of a source.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// The documentation of modules and of public items.
    Documentation,
    /// String literals, except the reasons of `expect`, which state what the code relies on. The documentation of the
    /// command line is a text for users, too.
    Texts,
}

/// The words of each text, by file.
pub(crate) fn read(folder: &str, part: Part) -> Vec<(PathBuf, Vec<Vec<Word>>)> {
    let sources = files(&root().join(folder), "rs");
    assert!(sources.len() > 5, "{folder}: {sources:?}");
    let sources: Vec<(PathBuf, syn::File)> = sources
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, syntax)
        })
        .collect();
    let tests: BTreeSet<PathBuf> =
        sources.iter().flat_map(|(path, syntax)| modules_for_tests(path, syntax)).collect();
    sources
        .into_iter()
        .filter(|(path, _)| !path.ancestors().any(|part| tests.contains(part)))
        .map(|(path, syntax)| {
            let mut reader = Reader { part, is_documented: true, blocks: Vec::new() };
            reader.visit_file(&syntax);
            (path, reader.blocks)
        })
        .collect()
}

/// Files and folders of the modules that a file declares for tests.
fn modules_for_tests(path: &Path, syntax: &syn::File) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap();
    let is_root = ["lib", "main", "mod"].iter().any(|name| stem == *name);
    let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    let mut found = Vec::new();
    for item in &syntax.items {
        if let Item::Mod(module) = item
            && module.content.is_none()
            && is_for_tests(&module.attrs)
        {
            let below = folder.join(module.ident.to_string());
            found.extend([below.with_extension("rs"), below]);
            let named = module.attrs.iter().find_map(|attribute| match &attribute.meta {
                Meta::NameValue(meta) if meta.path.is_ident("path") => text_of(&meta.value),
                _ => None,
            });
            found.extend(named.map(|name| path.with_file_name(name.value())));
        }
    }
    found
}

fn text_of(value: &Expr) -> Option<&LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text),
        _ => None,
    }
}

struct Reader {
    part: Part,
    /// The item that is read is public, or its documentation is shown by the command line.
    is_documented: bool,
    blocks: Vec<Vec<Word>>,
}

impl Reader {
    /// Reads the documentation among attributes.
    fn read_documentation(&mut self, attributes: &[Attribute]) {
        let mut first = None;
        let mut text = String::new();
        for attribute in attributes {
            if let Meta::NameValue(meta) = &attribute.meta
                && meta.path.is_ident("doc")
                && let Some(line) = text_of(&meta.value)
            {
                first.get_or_insert(line.span().start().line);
                text += &line.value();
                text.push('\n');
            }
        }
        for mut block in prose(&text) {
            for word in &mut block {
                word.line += first.unwrap_or(1) - 1;
            }
            self.blocks.push(block);
        }
    }

    fn read_text(&mut self, text: &LitStr) {
        // One word is a name, not a sentence.
        if self.part != Part::Texts || !text.value().contains(' ') {
            return;
        }
        let mut words = Vec::new();
        split(&text.value(), text.span().start().line, &mut words);
        // Names of variables are not part of the sentence.
        let mut is_variable = false;
        words.retain(|word| {
            let is_kept = !is_variable || word.text == "}";
            is_variable = (is_variable || word.text == "{") && word.text != "}";
            is_kept
        });
        self.blocks.push(words);
    }

    /// Reads the string literals among the tokens of a macro's call, as [`Visit`] finds them outside of macros.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut is_reason = false;
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    if !(is_reason && group.delimiter() == Delimiter::Parenthesis) {
                        self.read_tokens(group.stream());
                    }
                    is_reason = false;
                }
                TokenTree::Ident(name) => is_reason = name == "expect",
                TokenTree::Literal(literal) => {
                    if let Lit::Str(text) = Lit::new(literal) {
                        self.read_text(&text);
                    }
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    /// Reads what `read` reads of an item of that visibility, and its documentation if both it and what it is in have
    /// one that users see.
    fn within(&mut self, is_documented: bool, attributes: &[Attribute], read: impl FnOnce(&mut Self)) {
        let outer = self.is_documented;
        self.is_documented = outer && is_documented;
        if self.is_documented {
            self.read_documentation(attributes);
        }
        read(self);
        self.is_documented = outer;
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether clap makes a part of the command line of an item.
fn is_command(attributes: &[Attribute]) -> bool {
    const TRAITS: [&str; 4] = ["Parser", "Args", "Subcommand", "ValueEnum"];
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("derive") => {
            let derived = list.tokens.to_string();
            derived.split(|c: char| !c.is_alphanumeric()).any(|name| TRAITS.contains(&name))
        }
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast syn::File) {
        self.within(self.part == Part::Documentation, &file.attrs, |this| visit::visit_file(this, file));
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = attributes(item);
        if is_for_tests(attributes) {
            return;
        }
        if self.part == Part::Texts {
            let outer = self.is_documented;
            self.is_documented = true;
            self.within(is_command(attributes), attributes, |this| visit::visit_item(this, item));
            self.is_documented = outer;
            return;
        }
        let is_documented = match item {
            Item::Const(it) => is_public(&it.vis),
            Item::Enum(it) => is_public(&it.vis),
            Item::Fn(it) => is_public(&it.vis),
            Item::Mod(it) => is_public(&it.vis),
            Item::Static(it) => is_public(&it.vis),
            Item::Struct(it) => is_public(&it.vis),
            Item::Trait(it) => is_public(&it.vis),
            Item::Type(it) => is_public(&it.vis),
            Item::Macro(it) => it.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")),
            // Its methods have visibilities of their own, and those of a trait are documented there.
            Item::Impl(it) => it.trait_.is_none(),
            _ => false,
        };
        self.within(is_documented, attributes, |this| visit::visit_item(this, item));
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let (is_documented, attributes) = match item {
            syn::ImplItem::Fn(it) => (is_public(&it.vis), &it.attrs),
            syn::ImplItem::Const(it) => (is_public(&it.vis), &it.attrs),
            _ => return,
        };
        if !is_for_tests(attributes) {
            self.within(is_documented, attributes, |this| visit::visit_impl_item(this, item));
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.within(true, &item.attrs, |this| visit::visit_trait_item_fn(this, item));
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.within(true, &variant.attrs, |this| visit::visit_variant(this, variant));
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        // Fields of a variant have no visibility; those of a command are shown whatever theirs is.
        let is_documented = !matches!(field.vis, Visibility::Restricted(_)) || self.part == Part::Texts;
        self.within(is_documented, &field.attrs, |this| visit::visit_field(this, field));
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        match &attribute.meta {
            // Documentation is read with its item; names of lints and features are no texts.
            Meta::List(list)
                if ["error", "arg", "command", "clap"].iter().any(|name| list.path.is_ident(name)) =>
            {
                self.read_tokens(list.tokens.clone());
            }
            _ => {}
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "expect" {
            self.visit_expr(&call.receiver);
        } else {
            visit::visit_expr_method_call(self, call);
        }
    }

    fn visit_lit_str(&mut self, text: &'ast LitStr) {
        self.read_text(text);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let name = call.path.segments.last().map(|it| it.ident.to_string()).unwrap_or_default();
        // The messages of these state what the code relies on, as those of `expect` do.
        if !name.contains("assert") && name != "unreachable" {
            self.read_tokens(call.tokens.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Part, Reader};
    use syn::visit::Visit;

    const SOURCE: &str = r#"
//! A module.

/// Public.
pub struct A {
    /// A field.
    pub field: u8,
    /// Private field.
    pub(crate) hidden: u8,
}

/// Private.
struct B;

impl A {
    /// A method.
    pub fn method(&self) -> String {
        let reason = b.expect("a reason to panic");
        assert!(true, "another reason");
        format!("a text of {reason}", c.expect("a third reason"))
    }
}

/// A command.
#[derive(Debug, Parser)]
struct C {
    /// An option.
    option: bool,
}

#[derive(Debug, Error)]
enum E {
    #[error("a failure of {0}")]
    F(u8),
}

#[cfg(test)]
mod tests {
    /// A test.
    pub fn test() -> &'static str {
        "a text of a test"
    }
}
"#;

    fn found(part: Part) -> Vec<(usize, String)> {
        let mut reader = Reader { part, is_documented: true, blocks: Vec::new() };
        reader.visit_file(&syn::parse_file(SOURCE).unwrap());
        let blocks = reader.blocks.iter().filter(|block| !block.is_empty());
        blocks
            .map(|block| {
                let words: Vec<&str> = block.iter().map(|word| word.text.as_str()).collect();
                (block[0].line, words.join(" "))
            })
            .collect()
    }

    #[test]
    fn documentation_is_that_of_public_items() {
        let found = found(Part::Documentation);
        let expected = [(2, "a module ."), (4, "public ."), (6, "a field ."), (16, "a method .")]
            .map(|(l, t)| (l, t.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn texts_are_those_that_users_see() {
        let found = found(Part::Texts);
        let expected =
            [(20, "a text of { }"), (24, "a command ."), (27, "an option ."), (33, "a failure of { }")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }
}
