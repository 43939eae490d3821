//! What a reader relies on and no compiler checks: the length of comments, the direction of imports, and that every
//! test target and fuzz target can be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use syn::visit::Visit;

/// The columns that rustfmt gives to code.
const COLUMNS: usize = 120;

/// The crates without circles of files. `node` joins when its last circles are gone.
const WITHOUT_CIRCLES: [&str; 5] = ["protocol", "client", "client/cli", "bench", "tests"];

/// Folders whose comments and pages are not all wrapped.
const UNWRAPPED: [&str; 2] = ["client/tests/vectors", "node"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The files below `folder` whose names end in `.extension`, built and hidden ones aside.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "corpus", "artifacts"].contains(&name.as_str()) {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of `text` that `is_prose` picks and that are too long, unless a single word (a link) is as long.
fn too_long(path: &Path, text: &str, is_prose: impl Fn(&str) -> bool) -> Vec<String> {
    let long = |line: &str| {
        let word = line.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
        line.chars().count() > COLUMNS && word < COLUMNS - 20
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_prose(line) && long(line));
    let name = path.strip_prefix(root()).unwrap_or(path).display();
    lines.map(|(number, line)| format!("{name}:{}: {} columns", number + 1, line.chars().count())).collect()
}

#[test]
fn comments_and_prose_fit_the_columns_of_the_code() {
    let mut long = Vec::new();
    let wrapped = |path: &PathBuf| !UNWRAPPED.iter().any(|folder| path.starts_with(root().join(folder)));
    for path in files(root(), "rs").into_iter().filter(wrapped) {
        // A table in a comment cannot be wrapped.
        let is_comment = |line: &str| {
            let line = line.trim_start();
            line.starts_with("//") && !line.trim_start_matches(['/', '!', ' ']).starts_with('|')
        };
        long.extend(too_long(&path, &read(&path), is_comment));
    }
    for path in files(root(), "md").into_iter().filter(wrapped) {
        let text = read(&path);
        // Neither can a table, nor what stands in a block of code.
        let mut is_code = false;
        let prose = text.lines().map(|line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            if is_code || is_fence || line.starts_with("    ") || line.trim_start().starts_with('|') {
                ""
            } else {
                line
            }
        });
        let prose: Vec<&str> = prose.collect();
        long.extend(too_long(&path, &prose.join("\n"), |_| true));
    }
    assert!(long.is_empty(), "lines over {COLUMNS} columns:\n{}", long.join("\n"));
}

/// A path within a crate, from its root: names of modules, then perhaps one of an item.
type Names = Vec<String>;

/// One file of a crate, as far as imports go.
#[derive(Default)]
struct Source {
    /// Items defined at its top level.
    items: BTreeSet<String>,
    /// Imports by the name they have here.
    imports: BTreeMap<String, Names>,
    /// Modules whose items are imported with a `*`.
    globs: Vec<Names>,
    /// Everything of this crate that the file names, except what it only passes on (`pub use`).
    uses: BTreeSet<Names>,
}

/// The modules of a crate by their paths.
struct Modules {
    sources: BTreeMap<Names, Source>,
}

/// Collects what one file names. Paths inside macros are not seen.
struct Collector<'a> {
    module: &'a Names,
    modules: &'a BTreeSet<Names>,
    source: Source,
}

impl Collector<'_> {
    /// The path from the crate's root, where `names` lie in this crate.
    fn absolute(&self, names: &[String]) -> Option<Names> {
        let mut base = self.module.clone();
        let mut rest = names;
        match names.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &names[1..];
            }
            "self" => rest = &names[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child if !self.modules.contains(&[&base[..], &[child.to_owned()]].concat()) => return None,
            _ => {}
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    fn import(&mut self, tree: &syn::UseTree, before: &[String], passes_on: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.import(&path.tree, &with(&path.ident), passes_on),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, before, passes_on));
            }
            syn::UseTree::Glob(_) => {
                let Some(module) = self.absolute(before) else { return };
                self.source.globs.push(module);
            }
            syn::UseTree::Name(name) => self.import_as(&with(&name.ident), &name.ident, passes_on),
            syn::UseTree::Rename(rename) => self.import_as(&with(&rename.ident), &rename.rename, passes_on),
        }
    }

    fn import_as(&mut self, names: &[String], name: &syn::Ident, passes_on: bool) {
        let (names, name) = match names {
            [before @ .., last] if last == "self" => (before, before.last().cloned().unwrap_or_default()),
            names => (names, name.to_string()),
        };
        let Some(path) = self.absolute(names) else { return };
        if !passes_on {
            self.source.uses.insert(path.clone());
        }
        self.source.imports.insert(name, path);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let is_test = |list: &syn::MetaList| list.tokens.to_string().split([' ', '(', ')', ',']).any(|word| word == "test");
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(is_test))
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let passes_on = !matches!(item.vis, syn::Visibility::Inherited);
        if !is_for_tests(&item.attrs) {
            self.import(&item.tree, &[], passes_on);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1
            && let Some(path) = self.absolute(&names)
        {
            self.source.uses.insert(path);
        }
        syn::visit::visit_path(self, path);
    }

    // A visibility (`pub(super)`) is not a use.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    // Neither is the path of an attribute.
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
}

fn name_of(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

impl Modules {
    /// Parses the library in `folder`; modules for tests alone are left out.
    fn parse(folder: &Path) -> Modules {
        let module_of = |path: &Path| -> Names {
            let path = path.strip_prefix(folder).expect("it lies within").with_extension("");
            let mut names: Names = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            if matches!(names.last().map(String::as_str), Some("mod" | "lib")) {
                names.pop();
            }
            names
        };
        let paths = files(folder, "rs").into_iter().filter(|path| *path != folder.join("main.rs"));
        let mut parsed: BTreeMap<Names, syn::File> = paths
            .map(|path| {
                let file = syn::parse_file(&read(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                (module_of(&path), file)
            })
            .collect();
        let for_tests: Vec<Names> = parsed
            .iter()
            .flat_map(|(module, file)| {
                file.items.iter().filter_map(move |item| match item {
                    syn::Item::Mod(item) if is_for_tests(&item.attrs) => {
                        Some([&module[..], &[item.ident.to_string()]].concat())
                    }
                    _ => None,
                })
            })
            .collect();
        parsed.retain(|module, _| !for_tests.iter().any(|test| module.starts_with(test)));
        let modules: BTreeSet<Names> = parsed.keys().cloned().collect();
        let sources = parsed.iter().map(|(module, file)| {
            let mut collector = Collector { module, modules: &modules, source: Source::default() };
            collector.visit_file(file);
            collector.source.items = file.items.iter().filter_map(name_of).collect();
            (module.clone(), collector.source)
        });
        Modules { sources: sources.collect() }
    }

    /// The module whose file defines what `path` names, through what modules on the way pass on.
    fn defines(&self, path: &[String], steps_left: usize) -> Option<&Names> {
        let depth = (0..=path.len()).rev().find(|&depth| self.sources.contains_key(&path[..depth]))?;
        let (module, source) = self.sources.get_key_value(&path[..depth])?;
        let Some(name) = path.get(depth) else { return Some(module) };
        if steps_left == 0 || source.items.contains(name) {
            return Some(module);
        }
        if let Some(import) = source.imports.get(name) {
            return self.defines(import, steps_left - 1);
        }
        let mut globs = source.globs.iter().filter(|glob| **glob != *module);
        let found = globs.find_map(|glob| {
            let found = self.defines(&[&glob[..], std::slice::from_ref(name)].concat(), steps_left - 1)?;
            self.sources[found].items.contains(name).then_some(found)
        });
        found.or(Some(module))
    }

    /// The circles of files: each the names of its modules, sorted.
    fn circles(&self) -> Vec<Vec<String>> {
        let numbers: BTreeMap<&Names, usize> = self.sources.keys().zip(0..).collect();
        let mut graph = DiGraphMap::<usize, ()>::new();
        for (module, source) in &self.sources {
            for defined in source.uses.iter().filter_map(|path| self.defines(path, 8)) {
                if defined != module {
                    graph.add_edge(numbers[module], numbers[defined], ());
                }
            }
        }
        let modules: Vec<&Names> = self.sources.keys().collect();
        let name = |number: usize| match modules[number].join("::") {
            root if root.is_empty() => "lib".to_owned(),
            name => name,
        };
        let mut circles: Vec<Vec<String>> = tarjan_scc(&graph)
            .into_iter()
            .filter(|circle| circle.len() > 1)
            .map(|circle| {
                let mut names: Vec<String> = circle.into_iter().map(name).collect();
                names.sort();
                names
            })
            .collect();
        circles.sort();
        circles
    }
}

#[test]
fn imports_of_a_crate_run_in_no_circle_of_files() {
    for name in WITHOUT_CIRCLES {
        let circles = Modules::parse(&root().join(name).join("src")).circles();
        assert!(circles.is_empty(), "circles of files in {name}: {circles:#?}");
    }
}

#[test]
fn a_circle_of_files_is_found_through_what_a_parent_passes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writes");
    write("lib.rs", "mod a; mod b; mod c; pub use b::B;");
    write("a.rs", "use crate::B; pub struct A(B);");
    write("b.rs", "pub struct B; impl B { fn b(&self) -> super::a::A { todo!() } }");
    write("c.rs", "use crate::a::A; #[cfg(test)] mod tests { use crate::b::B; }");
    assert_eq!(Modules::parse(folder.path()).circles(), [["a", "b"]]);
}

#[test]
fn every_fuzz_target_is_named_in_contributing() {
    let contributing = read(&root().join("CONTRIBUTING.md"));
    let folders = ["protocol", "bench", "node"].map(|name| root().join(name).join("fuzz/fuzz_targets"));
    for path in folders.iter().flat_map(|folder| files(folder, "rs")) {
        let name = path.file_stem().expect("it has a name").to_string_lossy();
        assert!(contributing.contains(&*name), "CONTRIBUTING.md does not name the fuzz target {name}");
    }
}

#[test]
fn every_file_of_tests_is_a_target() {
    let manifest = read(&root().join("tests/Cargo.toml"));
    for entry in std::fs::read_dir(root().join("tests")).expect("this folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if name.ends_with(".rs") {
            assert!(manifest.contains(&format!("path = \"{name}\"")), "tests/Cargo.toml has no [[test]] for {name}");
        }
    }
}
