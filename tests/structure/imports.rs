//! The files of a crate and what each imports from the others, as its source says.
//!
//! A name that a file re-exports leads on to the file that defines it, so `lib.rs` and `mod.rs` are part of an import
//! only where they define something themselves. Test modules are left out: they may look at everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Meta, UseTree};

use crate::syntax::{attributes, is_for_tests};

/// A module of a crate: a file, or a block inside one.
#[derive(Debug, Default)]
struct Module {
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// Index into `Crate::files`.
    file: usize,
    defined: BTreeSet<String>,
    /// Names that a `use` brings in, with the path that it names.
    imported: BTreeMap<String, Vec<String>>,
    /// Paths of `use …::*`.
    globs: Vec<Vec<String>>,
}

/// A file of a crate with the names of the items that it defines outside tests.
#[derive(Debug)]
pub(crate) struct File {
    /// Relative to the crate's source folder.
    pub(crate) path: PathBuf,
    pub(crate) defined: BTreeSet<String>,
    syntax: syn::File,
    module: usize,
}

/// A crate's source, read from its root file.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    modules: Vec<Module>,
    pub(crate) files: Vec<File>,
}

impl Crate {
    /// Reads the file `root` in the folder `source`, and all modules below it.
    pub(crate) fn read(source: &Path, root: &str) -> Self {
        let mut this = Crate::default();
        this.read_file(source, Path::new(root), source, None);
        this
    }

    /// Reads one file: `folder` is where files of its child modules are.
    fn read_file(&mut self, source: &Path, path: &Path, folder: &Path, parent: Option<usize>) -> usize {
        let text = fs::read_to_string(source.join(path))
            .unwrap_or_else(|error| panic!("{}: {error}", source.join(path).display()));
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", source.join(path).display()));
        let (file, module) = (self.files.len(), self.modules.len());
        self.modules.push(Module { parent, file, ..Module::default() });
        // Its place among the files, which those of its child modules follow.
        let empty = syn::File { shebang: None, attrs: Vec::new(), items: Vec::new() };
        self.files.push(File { path: path.to_owned(), defined: BTreeSet::new(), syntax: empty, module });
        self.read_items(source, &syntax.items, module, folder);
        let defined = self.modules[module].defined.clone();
        self.files[file] = File { path: path.to_owned(), defined, syntax, module };
        module
    }

    fn read_items(&mut self, source: &Path, items: &[Item], module: usize, folder: &Path) {
        for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
            match item {
                Item::Mod(child) => self.read_child(source, child, module, folder),
                Item::Use(import) => self.read_use(&import.tree, &mut Vec::new(), module),
                other => {
                    self.modules[module].defined.extend(name(other));
                }
            }
        }
    }

    fn read_child(&mut self, source: &Path, child: &ItemMod, module: usize, folder: &Path) {
        let name = child.ident.to_string();
        let below = folder.join(&name);
        let index = if let Some((_, items)) = &child.content {
            let index = self.modules.len();
            let file = self.modules[module].file;
            self.modules.push(Module { parent: Some(module), file, ..Module::default() });
            self.read_items(source, items, index, &below);
            index
        } else {
            let found = named_file(&child.attrs)
                .map(|file| folder.join(file))
                .into_iter()
                .chain([folder.join(format!("{name}.rs")), below.join("mod.rs")])
                .find(|path| path.is_file())
                .unwrap_or_else(|| panic!("no file of the module {name} in {}", folder.display()));
            let path = found.strip_prefix(source).expect("a module lies below its crate").to_owned();
            self.read_file(source, &path, &below, Some(module))
        };
        self.modules[module].children.insert(name, index);
    }

    fn read_use(&mut self, tree: &UseTree, path: &mut Vec<String>, module: usize) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.read_use(&step.tree, path, module);
                path.pop();
            }
            UseTree::Name(last) => {
                self.import(path, &last.ident.to_string(), &last.ident.to_string(), module);
            }
            UseTree::Rename(last) => {
                self.import(path, &last.ident.to_string(), &last.rename.to_string(), module);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.read_use(tree, path, module));
            }
            UseTree::Glob(_) => self.modules[module].globs.push(path.clone()),
        }
    }

    fn import(&mut self, path: &[String], last: &str, known_as: &str, module: usize) {
        let mut whole = path.to_vec();
        let known_as = match (last, path.last()) {
            // `use a::b::{self}` is `use a::b`.
            ("self", Some(parent)) if known_as == "self" => parent.as_str(),
            ("self", _) => known_as,
            _ => {
                whole.push(last.to_owned());
                known_as
            }
        };
        self.modules[module].imported.insert(known_as.to_owned(), whole);
    }

    /// The file that defines what `path` names where it stands in `module`; `None`: it is outside the crate, a module,
    /// or not a path of items.
    fn defining_file(&self, path: &[String], module: usize, depth: usize) -> Option<usize> {
        // A name may be imported in a circle of re-exports.
        if depth > 16 {
            return None;
        }
        let first = path.first()?;
        let (mut at, rest) = match first.as_str() {
            "crate" => (0, &path[1..]),
            "self" => (module, &path[1..]),
            "super" => (self.modules[module].parent?, &path[1..]),
            _ => (module, path),
        };
        for (step, name) in rest.iter().enumerate() {
            let here = &self.modules[at];
            if name == "super" {
                at = here.parent?;
            } else if let Some(child) = here.children.get(name) {
                at = *child;
            } else if here.defined.contains(name) {
                return Some(here.file);
            } else if let Some(imported) = here.imported.get(name) {
                // A path that begins with its own name is of another crate: `use log; log::warn!`.
                if imported.first() == Some(name) && !here.children.contains_key(name) {
                    return None;
                }
                let whole: Vec<String> = imported.iter().chain(&rest[step + 1..]).cloned().collect();
                return self.defining_file(&whole, at, depth + 1);
            } else {
                return here.globs.iter().find_map(|glob| {
                    let whole: Vec<String> = glob.iter().chain(&rest[step..]).cloned().collect();
                    self.defining_file(&whole, at, depth + 1)
                });
            }
        }
        None
    }

    /// Which files each file imports from, by index; never itself.
    pub(crate) fn imports(&self) -> Vec<BTreeSet<usize>> {
        self.files
            .iter()
            .enumerate()
            .map(|(index, file)| {
                let declares =
                    self.modules[file.module].children.values().any(|it| self.modules[*it].file != index);
                let mut reader = Reader { of: self, module: file.module, declares, found: BTreeSet::new() };
                reader.visit_file(&file.syntax);
                reader.found.remove(&index);
                reader.found
            })
            .collect()
    }

    /// Groups of files that import each other in a circle, each with its imports inside the group.
    pub(crate) fn circles(&self) -> Vec<Vec<(PathBuf, PathBuf)>> {
        let imports = self.imports();
        let reached: Vec<BTreeSet<usize>> =
            (0..self.files.len()).map(|from| reachable(&imports, from)).collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for file in 0..self.files.len() {
            let group: BTreeSet<usize> =
                reached[file].iter().copied().filter(|other| reached[*other].contains(&file)).collect();
            if group.is_empty() || !seen.insert(group.clone()) {
                continue;
            }
            let inside = |from: &usize| {
                let from = *from;
                let group = &group;
                imports[from]
                    .iter()
                    .filter(move |to| group.contains(to))
                    .map(move |to| (self.files[from].path.clone(), self.files[*to].path.clone()))
            };
            circles.push(group.iter().flat_map(inside).collect());
        }
        circles
    }
}

/// All files that can be reached by imports from `from`.
fn reachable(imports: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut next: Vec<usize> = imports[from].iter().copied().collect();
    while let Some(file) = next.pop() {
        if found.insert(file) {
            next.extend(&imports[file]);
        }
    }
    found
}

/// Gathers the files that one file's paths lead to.
struct Reader<'a> {
    of: &'a Crate,
    module: usize,
    /// The file declares modules: its own `use` items only re-export.
    declares: bool,
    found: BTreeSet<usize>,
}

impl Reader<'_> {
    fn add(&mut self, path: &[String]) {
        self.found.extend(self.of.defining_file(path, self.module, 0));
    }

    fn add_use(&mut self, tree: &UseTree, path: &mut Vec<String>) {
        match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                self.add_use(&step.tree, path);
                path.pop();
            }
            UseTree::Name(last) => self.add(&[path.as_slice(), &[last.ident.to_string()]].concat()),
            UseTree::Rename(last) => self.add(&[path.as_slice(), &[last.ident.to_string()]].concat()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, path)),
            UseTree::Glob(_) => {}
        }
    }

    /// Paths inside the tokens of a macro's call: `name :: name :: …`.
    fn add_tokens(&mut self, tokens: &str) {
        for word in
            tokens.replace(" :: ", "::").split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        {
            let path: Vec<String> = word.split("::").map(str::to_owned).collect();
            if path.len() > 1 && !path.iter().any(String::is_empty) {
                self.add(&path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, child: &'ast ItemMod) {
        if child.content.is_some() {
            let outer = self.module;
            self.module = self.of.modules[outer].children[&child.ident.to_string()];
            visit::visit_item_mod(self, child);
            self.module = outer;
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Fn(item) => item.attrs.as_slice(),
            syn::ImplItem::Const(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        if !self.declares {
            self.add_use(&import.tree, &mut Vec::new());
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.add_tokens(&call.tokens.to_string());
        visit::visit_macro(self, call);
    }
}

/// The file of `#[path = "…"]`.
fn named_file(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(value) if value.path.is_ident("path") => match &value.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// The name that an item defines, if it has one.
fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(it) => &it.ident,
        Item::Enum(it) => &it.ident,
        Item::Fn(it) => &it.sig.ident,
        Item::Static(it) => &it.ident,
        Item::Struct(it) => &it.ident,
        Item::Trait(it) => &it.ident,
        Item::TraitAlias(it) => &it.ident,
        Item::Type(it) => &it.ident,
        Item::Union(it) => &it.ident,
        Item::Impl(it) => return Some(format!("impl {}", type_name(&it.self_ty))),
        _ => return None,
    };
    Some(name.to_string())
}

fn type_name(of: &syn::Type) -> String {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map(|it| it.ident.to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}
