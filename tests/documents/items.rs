//! The public items of a crate, as its source has them: what its root makes public, and the public methods of those types.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, ImplItem, Item as Syntax, Lit, Meta, TraitItem, Type, UseTree, Visibility};

#[derive(Debug)]
pub(crate) struct Item {
    /// `Type`, `function`, or `Type::method`.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    pub(crate) has_example: bool,
}

/// All of them, for the crate whose root is `lib.rs` in that folder.
pub(crate) fn public_items(source: &Path) -> Vec<Item> {
    let root = parse(&source.join("lib.rs"));
    let mut names = BTreeSet::new();
    for item in &root.items {
        match item {
            Syntax::Use(item) if is_public(&item.vis) => exported(&item.tree, &mut names),
            other => names.extend(name_of(other)),
        }
    }
    let mut items = Vec::new();
    for path in super::files::files(source, "rs") {
        for item in parse(&path).items {
            gather(&item, &names, &path, &mut items);
        }
    }
    items
}

fn parse(path: &Path) -> syn::File {
    let text = fs::read_to_string(path).unwrap();
    syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names that a `pub use` gives.
fn exported(tree: &UseTree, names: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => exported(&path.tree, names),
        UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| exported(tree, names)),
        // Another name for a crate, which is that crate's to document.
        UseTree::Rename(_) => {}
        UseTree::Glob(_) => panic!("what a glob gives is not found here"),
    }
}

/// The name of an item that is public by itself.
fn name_of(item: &Syntax) -> Option<String> {
    let (visibility, name) = match item {
        Syntax::Fn(item) => (&item.vis, &item.sig.ident),
        Syntax::Struct(item) => (&item.vis, &item.ident),
        Syntax::Enum(item) => (&item.vis, &item.ident),
        Syntax::Trait(item) => (&item.vis, &item.ident),
        Syntax::Type(item) => (&item.vis, &item.ident),
        Syntax::Const(item) => (&item.vis, &item.ident),
        Syntax::Macro(item) if item.attrs.iter().any(|it| it.path().is_ident("macro_export")) => {
            return item.ident.as_ref().map(ToString::to_string);
        }
        _ => return None,
    };
    is_public(visibility).then(|| name.to_string())
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn gather(item: &Syntax, names: &BTreeSet<String>, path: &Path, items: &mut Vec<Item>) {
    let mut add = |name: String, attributes: &[Attribute]| {
        items.push(Item { name, file: path.to_owned(), has_example: has_example(attributes) });
    };
    if let Some(name) = name_of(item).filter(|name| names.contains(name)) {
        let attributes = match item {
            Syntax::Fn(item) => &item.attrs,
            Syntax::Struct(item) => &item.attrs,
            Syntax::Enum(item) => &item.attrs,
            Syntax::Trait(item) => &item.attrs,
            Syntax::Type(item) => &item.attrs,
            Syntax::Const(item) => &item.attrs,
            Syntax::Macro(item) => &item.attrs,
            _ => unreachable!("it has a name"),
        };
        add(name.clone(), attributes);
        if let Syntax::Trait(item) = item {
            for method in &item.items {
                if let TraitItem::Fn(method) = method {
                    add(format!("{name}::{}", method.sig.ident), &method.attrs);
                }
            }
        }
    }
    // Methods of the type itself; those of a trait are documented there.
    if let Syntax::Impl(block) = item
        && block.trait_.is_none()
        && let Type::Path(of) = &*block.self_ty
        && let Some(of) = of.path.segments.last().map(|segment| segment.ident.to_string())
        && names.contains(&of)
    {
        for method in &block.items {
            if let ImplItem::Fn(method) = method
                && is_public(&method.vis)
            {
                add(format!("{of}::{}", method.sig.ident), &method.attrs);
            }
        }
    }
}

/// Whether the documentation shows code.
fn has_example(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if let Meta::NameValue(doc) = &attribute.meta
            && doc.path.is_ident("doc")
            && let Expr::Lit(text) = &doc.value
            && let Lit::Str(text) = &text.lit
        {
            return text.value().trim_start().starts_with("```");
        }
        false
    })
}
