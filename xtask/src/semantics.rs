//! The check that `docs/semantics.md` tells the truth: a promise names the tests that prove it, and those tests name
//! the promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where tests are.
const SOURCES: [&str; 4] = ["agent/src", "agent/tests", "tests/src", "tests/tests"];
const PAGE: &str = "docs/semantics.md";

/// Tests by the promise that they prove.
type Proofs = BTreeMap<String, BTreeSet<String>>;

/// Compares the page with the sources; an error names every difference.
pub fn check(workspace: &Path) -> Result<Option<String>> {
    let page = fs::read_to_string(workspace.join(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
    let told = told(&page);
    let mut proven = Proofs::new();
    for dir in SOURCES {
        read_dir(&workspace.join(dir), &mut proven)?;
    }
    let differences = differences(&told, &proven);
    ensure!(differences.is_empty(), "{PAGE} and the tests differ:\n{}", differences.join("\n"));
    let tests = proven.values().flatten().collect::<BTreeSet<_>>().len();
    Ok(Some(format!("{} promises, {} of them proven by {tests} tests", told.len(), proven.len())))
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

fn read_dir(dir: &Path, proven: &mut Proofs) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_dir(&path, proven)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read_source(&fs::read_to_string(&path)?, proven);
        }
    }
    Ok(())
}

/// `// proves: ID, ID (remark)` stands before the test's attributes.
fn read_source(source: &str, proven: &mut Proofs) {
    let mut ids = Vec::new();
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("// proves:") {
            let words = comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            ids = words.filter(|word| is_id(word)).map(str::to_owned).collect();
        } else if let Some((_, function)) = line.split_once("fn ") {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            for id in ids.drain(..) {
                proven.entry(id).or_default().insert(name.to_owned());
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
        let mut proven = Proofs::new();
        read_source("// proves: CAP-1, ID-2 (a part)\n#[test]\nfn a() {}\nfn helper() {}\n", &mut proven);
        assert_eq!(proven, proofs(&[("CAP-1", &["a"]), ("ID-2", &["a"])]));
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
