//! The check that the docs tell the truth of the tests: in `docs/semantics.md` a promise names the tests that prove it, and
//! those tests name the promise; `docs/security.md` names tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where tests are.
const SOURCES: [&str; 4] = ["agent/src", "agent/tests", "tests/src", "tests/tests"];
const PAGE: &str = "docs/semantics.md";
const SECURITY: &str = "docs/security.md";

/// Tests by the promise that they prove.
type Proofs = BTreeMap<String, BTreeSet<String>>;

/// What the sources have.
#[derive(Default)]
struct Tests {
    proofs: Proofs,
    functions: BTreeSet<String>,
}

/// Compares the pages with the sources; an error names every difference.
pub fn check(workspace: &Path) -> Result<Option<String>> {
    let page = |name| fs::read_to_string(workspace.join(name)).with_context(|| format!("cannot read {name}"));
    let told = told(&page(PAGE)?);
    let mut tests = Tests::default();
    for dir in SOURCES {
        tests.read_dir(&workspace.join(dir))?;
    }
    let differences = differences(&told, &tests.proofs);
    ensure!(differences.is_empty(), "{PAGE} and the tests differ:\n{}", differences.join("\n"));
    let page = page(SECURITY)?;
    let missing: Vec<&str> = named(&page).filter(|name| !tests.functions.contains(*name)).collect();
    ensure!(missing.is_empty(), "{SECURITY} names tests that there are not: {}", missing.join(", "));
    let proofs = tests.proofs.values().flatten().collect::<BTreeSet<_>>().len();
    Ok(Some(format!("{} promises, {} of them proven by {proofs} tests", told.len(), tests.proofs.len())))
}

/// The tests that a page names: in backquotes, in lower case, at least three words.
fn named(page: &str) -> impl Iterator<Item = &str> {
    let is_test = |word: &&str| {
        let words = word.split('_');
        words.clone().count() > 2
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    page.split('`').skip(1).step_by(2).filter(is_test)
}

/// The page's table: `| ID | … | `test`, `test` |`.
fn told(page: &str) -> Proofs {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let (id, tests) = (cells.first()?, cells.last()?);
        let names = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        is_id(id).then(|| ((*id).to_owned(), names))
    };
    page.lines().filter_map(row).collect()
}

impl Tests {
    fn read_dir(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                self.read_dir(&path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.read_source(&fs::read_to_string(&path)?);
            }
        }
        Ok(())
    }

    /// `// proves: ID, ID (remark)` stands before the test's attributes.
    fn read_source(&mut self, source: &str) {
        let mut ids = Vec::new();
        for line in source.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("// proves:") {
                let words = comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                ids = words.filter(|word| is_id(word)).map(str::to_owned).collect();
            } else if let Some((_, function)) = line.split_once("fn ") {
                let name = function.split(['(', '<']).next().unwrap_or_default();
                for id in ids.drain(..) {
                    self.proofs.entry(id).or_default().insert(name.to_owned());
                }
                self.functions.insert(name.to_owned());
            }
        }
    }
}

/// `CAP-1`, `L7-3`.
fn is_id(word: &str) -> bool {
    let Some((family, number)) = word.split_once('-') else { return false };
    let is_family = family.starts_with(|c: char| c.is_ascii_uppercase())
        && family.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    is_family && !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

fn differences(told: &Proofs, proven: &Proofs) -> Vec<String> {
    let none = BTreeSet::new();
    let ids: BTreeSet<&String> = told.keys().chain(proven.keys()).collect();
    let mut differences = Vec::new();
    for id in ids {
        let (page, tests) = (told.get(id).unwrap_or(&none), proven.get(id).unwrap_or(&none));
        let only_told =
            page.difference(tests).map(|test| format!("{id}: no test `{test}` says that it proves it"));
        let only_proven = tests.difference(page).map(|test| format!("{id}: the page does not name `{test}`"));
        differences.extend(only_told.chain(only_proven));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proofs(rows: &[(&str, &[&str])]) -> Proofs {
        rows.iter()
            .map(|(id, tests)| ((*id).into(), tests.iter().map(|&test| test.into()).collect()))
            .collect()
    }

    #[test]
    fn the_page_and_the_sources_are_read() {
        let page = "| id | tests |\n|---|---|\n| CAP-1 | yes | `a`, `b` |\n| L7-1 | not yet | |\n";
        assert_eq!(told(page), proofs(&[("CAP-1", &["a", "b"]), ("L7-1", &[])]));
        let mut tests = Tests::default();
        tests.read_source("// proves: CAP-1, ID-2 (a part)\n#[test]\nfn a() {}\nfn helper() {}\n");
        assert_eq!(tests.proofs, proofs(&[("CAP-1", &["a"]), ("ID-2", &["a"])]));
        assert!(tests.functions.iter().eq(["a", "helper"]));
    }

    #[test]
    fn a_page_names_tests_among_other_things() {
        let page =
            "`a_pod_is_safe`, `--direct off`, `tests/attack.rs`, `CAP_NET_RAW`, `snake_case`; `it_holds_too`";
        assert!(named(page).eq(["a_pod_is_safe", "it_holds_too"]));
    }

    #[test]
    fn a_difference_in_either_direction_is_told() {
        let told = proofs(&[("CAP-1", &["gone"]), ("L7-1", &[])]);
        let proven = proofs(&[("CAP-1", &["new"])]);
        let said = differences(&told, &proven);
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("gone") && said[1].contains("new"), "{said:?}");
    }
}
