//! The check that modules of a crate do not use each other in circles.
//!
//! Sibling modules are compared: A uses B when anything in or below A names anything in or below B, directly or
//! through a re-export. A parent may use its children and they its own items; that is one house.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use syn::visit::{self, Visit};

/// Where the workspace's crates begin.
const ROOTS: [&str; 9] = [
    "agent/src/lib.rs",
    "agent/src/main.rs",
    "ebpf/src/main.rs",
    "ebpf-common/src/lib.rs",
    "tests/src/lib.rs",
    "xtask/src/main.rs",
    "xtask/load/src/lib.rs",
    "xtask/load/src/main.rs",
    "xtask/oci/src/lib.rs",
];

/// A module's path from the crate's root, which is empty.
type ModulePath = Vec<String>;

/// A crate's modules.
type Modules = BTreeMap<ModulePath, Module>;

/// What a module says of others.
#[derive(Default)]
struct Module {
    /// What it names, from the crate's root.
    named: BTreeSet<Vec<String>>,
    /// What `use` brings in, under the name it has here: others may name it here.
    imported: BTreeMap<String, Vec<String>>,
}

/// Checks every crate of the workspace; an error shows each circle.
pub fn check(workspace: &Path) -> Result<Option<String>> {
    let (mut circles, mut count) = (Vec::new(), 0);
    for root in ROOTS {
        let mut modules = Modules::new();
        read(&workspace.join(root), &mut modules)?;
        count += modules.len();
        circles.extend(
            find_circles(&modules).into_iter().map(|circle| format!("{root}: {}", circle.join(" → "))),
        );
    }
    ensure!(circles.is_empty(), "modules use each other in circles:\n{}", circles.join("\n"));
    Ok(Some(format!("{count} modules")))
}

/// Reads a crate from its root file.
fn read(root: &Path, modules: &mut Modules) -> Result<()> {
    let dir = root.parent().context("a source file is in a directory")?;
    read_file(root, dir, Vec::new(), modules)
}

/// Reads a module's file; `dir` is where its children's files are.
fn read_file(file: &Path, dir: &Path, path: ModulePath, modules: &mut Modules) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let syntax = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    let mut children = Vec::new();
    add_module(&path, &syntax.items, modules, &mut children);
    for child in children {
        let place = child[path.len()..].iter().fold(dir.to_owned(), |place, part| place.join(part));
        let (own, in_dir) = (place.with_extension("rs"), place.join("mod.rs"));
        let file: PathBuf = if own.exists() { own } else { in_dir };
        read_file(&file, &place, child, modules)?;
    }
    Ok(())
}

/// Adds a module and those inside it; gives the paths of those that have files of their own.
fn add_module(path: &ModulePath, items: &[syn::Item], modules: &mut Modules, files: &mut Vec<ModulePath>) {
    let mut reader = Reader { path, module: Module::default() };
    // Its children first: paths that begin with a child's name are the crate's own.
    for item in items {
        if let syn::Item::Mod(child) = item
            && !is_test(&child.attrs)
        {
            let child_path = [path.as_slice(), &[child.ident.to_string()]].concat();
            reader.module.imported.insert(child.ident.to_string(), child_path.clone());
            match &child.content {
                Some((_, items)) => add_module(&child_path, items, modules, files),
                None => files.push(child_path),
            }
        }
    }
    items.iter().filter(|item| !matches!(item, syn::Item::Mod(_))).for_each(|item| reader.visit_item(item));
    modules.insert(path.clone(), reader.module);
}

/// Collects what one module names.
struct Reader<'a> {
    path: &'a ModulePath,
    module: Module,
}

impl Reader<'_> {
    fn name(&mut self, parts: Vec<String>) -> Option<Vec<String>> {
        let full = self.full(&parts)?;
        self.module.named.insert(full.clone());
        Some(full)
    }

    /// The path from the crate's root; `None` for what is of another crate.
    fn full(&self, parts: &[String]) -> Option<Vec<String>> {
        let (first, rest) = parts.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.path.clone(),
            "super" => self.path[..self.path.len().checked_sub(1)?].to_vec(),
            child => self.module.imported.get(child)?.clone(),
        };
        let ups = rest.iter().take_while(|part| *part == "super").count();
        base.truncate(base.len().checked_sub(ups)?);
        base.extend_from_slice(&rest[ups..]);
        Some(base)
    }

    fn import(&mut self, tree: &syn::UseTree, mut parts: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                parts.push(path.ident.to_string());
                self.import(&path.tree, parts);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, parts.clone()));
            }
            syn::UseTree::Glob(_) => drop(self.name(parts)),
            syn::UseTree::Name(name) => self.bind(&name.ident, &name.ident, parts),
            syn::UseTree::Rename(rename) => self.bind(&rename.ident, &rename.rename, parts),
        }
    }

    fn bind(&mut self, name: &syn::Ident, here: &syn::Ident, mut parts: Vec<String>) {
        // `use a::{self}` binds a.
        let here = if name == "self" { parts.last().cloned() } else { Some(here.to_string()) };
        if name != "self" {
            parts.push(name.to_string());
        }
        if let (Some(full), Some(here)) = (self.name(parts), here) {
            self.module.imported.insert(here, full);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }
}

/// `#[cfg(test)]` and the like: tests may know everything.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_cfg = |attribute: &syn::Attribute| attribute.path().is_ident("cfg");
    attributes
        .iter()
        .any(|a| is_cfg(a) && a.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test"))
}

/// Every circle among siblings, each once, as the names that it passes (the first again at the end).
fn find_circles(modules: &Modules) -> Vec<Vec<String>> {
    let mut siblings: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let resolved: Vec<(&ModulePath, ModulePath)> = modules
        .iter()
        .flat_map(|(path, module)| module.named.iter().map(move |name| (path, resolve(modules, name))))
        .collect();
    for (from, to) in &resolved {
        let common = from.iter().zip(to.iter()).take_while(|(a, b)| a == b).count();
        if let (Some(a), Some(b)) = (from.get(common), to.get(common)) {
            siblings.entry(&from[..common]).or_default().entry(a).or_default().insert(b);
        }
    }
    siblings.values().filter_map(first_circle).collect()
}

/// The module in which the named thing is: through re-exports, as far as they are this crate's.
fn resolve(modules: &Modules, name: &[String]) -> ModulePath {
    let mut name = name.to_vec();
    // A chain of re-exports is short; a bound ends one that bites its tail.
    for _ in 0..16 {
        let depth = (0..=name.len()).rev().find(|depth| modules.contains_key(&name[..*depth])).unwrap_or(0);
        let imported = name.get(depth).and_then(|part| modules.get(&name[..depth])?.imported.get(part));
        match imported {
            Some(target) => name = [target.as_slice(), &name[depth + 1..]].concat(),
            None => return name[..depth].to_vec(),
        }
    }
    name
}

/// The first circle of a graph, by depth-first search.
fn first_circle(graph: &BTreeMap<&str, BTreeSet<&str>>) -> Option<Vec<String>> {
    fn walk<'a>(
        at: &'a str,
        graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        trail: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = trail.iter().position(|name| *name == at) {
            return Some(trail[begin..].iter().chain([&at]).map(|name| name.to_string()).collect());
        }
        if !done.insert(at) {
            return None;
        }
        trail.push(at);
        let circle = graph.get(at).into_iter().flatten().find_map(|next| walk(next, graph, trail, done));
        trail.pop();
        circle
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(start, graph, &mut Vec::new(), &mut done))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(source: &str) -> Vec<String> {
        let mut modules = Modules::new();
        add_module(&Vec::new(), &syn::parse_file(source).unwrap().items, &mut modules, &mut Vec::new());
        find_circles(&modules).iter().map(|circle| circle.join(" ")).collect()
    }

    #[test]
    fn one_way_is_no_circle() {
        let source = "pub use a::A; mod a { use std::fmt; pub struct A; } mod b { use crate::{a, A}; mod c { use super::D; } }
                      mod e { fn f() { crate::b::g() } #[cfg(test)] mod tests { use super::*; } }";
        assert_eq!(circles(source), [] as [&str; 0]);
    }

    #[test]
    fn siblings_that_use_each_other_are_found() {
        assert_eq!(circles("mod a { use crate::b::B; } mod b { fn f(_: super::a::A) {} }"), ["a b a"]);
    }

    #[test]
    fn a_circle_through_a_re_export_is_found() {
        assert_eq!(circles("pub use b::B; mod a { use crate::B; } mod b { use crate::a; }"), ["a b a"]);
    }

    #[test]
    fn longer_circles_and_deeper_ones_are_found() {
        let three =
            "mod a { use crate::b; } mod b { use crate::c::x::C; } mod c { mod x { use crate::a::A; } }";
        assert_eq!(circles(three), ["a b c a"]);
        let deep = "mod m { mod a { use super::b; } mod b { use crate::m::a; } }";
        assert_eq!(circles(deep), ["a b a"]);
    }

    #[test]
    fn tests_may_know_everything() {
        let source = "mod a { use crate::b; } mod b { #[cfg(test)] mod tests { use crate::a; } }";
        assert_eq!(circles(source), [] as [&str; 0]);
    }
}
