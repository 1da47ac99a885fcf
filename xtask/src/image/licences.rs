//! The licences of what is in the program: each crate's own files, one text once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use pillion_oci::Architecture;
use serde_json::Value;

use super::compiler::Compiler;
use super::triple;
use crate::workspace;

/// What crates call such files, in lower case, at the front of the name.
const NAMES: [&str; 6] = ["copying", "copyright", "licence", "license", "notice", "unlicense"];

const ABOUT_RUST: &str = "The Rust standard library is in the program under the Apache License 2.0.\n";

/// All in one text. It is that of all architectures whatever the image is for: they share it.
pub fn third_party(root: &Path, compiler: &Compiler) -> Result<String> {
    let metadata = metadata(root)?;
    let mut by_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = BTreeSet::new();
    for package in in_the_program(&metadata)? {
        let text = |key: &str| package[key].as_str().unwrap_or("?").to_owned();
        let title = format!("{} {} ({})", text("name"), text("version"), text("license"));
        let texts = texts(Path::new(&text("manifest_path")).parent().unwrap_or(root))?;
        if texts.is_empty() {
            without.insert(title.clone());
        }
        for text in texts {
            by_text.entry(text).or_default().insert(title.clone());
        }
    }
    by_text.entry(compiler.licence_of_musl()?).or_default().insert("musl, the C library (MIT)".into());
    // By what it is of, which reads better than by its words.
    let by_text: BTreeSet<(BTreeSet<String>, String)> =
        by_text.into_iter().map(|(text, titles)| (titles, text)).collect();
    let line = "=".repeat(80);
    let list =
        |titles: &BTreeSet<String>| titles.iter().map(|title| format!("{title}\n")).collect::<String>();
    let mut all = format!("What is in Pillion's program besides Pillion.\n\n{ABOUT_RUST}\n");
    if !without.is_empty() {
        all += &format!("Without a licence file of their own:\n{}\n", list(&without));
    }
    for (titles, text) in by_text {
        all += &format!("{line}\n{}{line}\n\n{}\n\n", list(&titles), text.trim_end());
    }
    Ok(all)
}

fn metadata(root: &Path) -> Result<Value> {
    let mut cargo = workspace::cargo();
    cargo.current_dir(root).args(["metadata", "--format-version=1", "--locked"]);
    for architecture in [Architecture::X86_64, Architecture::Aarch64] {
        cargo.args(["--filter-platform", triple(architecture)]);
    }
    let output = cargo.stderr(std::process::Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "`cargo metadata` ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("`cargo metadata` wrote no JSON")
}

/// The packages that the agent is made of, others' alone: what only builds or tests it is not in it.
fn in_the_program(metadata: &Value) -> Result<Vec<&Value>> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let id = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let agent = packages.iter().find(|package| package["name"] == "pillion-agent");
    let mut waiting = vec![id(&agent.context("cargo metadata knows no pillion-agent")?["id"])];
    let mut there = BTreeSet::new();
    let needs: BTreeMap<String, Vec<String>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            // A kind of null is an ordinary dependency.
            let ordinary = |dependency: &&Value| {
                list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null())
            };
            let dependencies = list(&node["deps"]);
            (id(&node["id"]), dependencies.iter().filter(ordinary).map(|it| id(&it["pkg"])).collect())
        })
        .collect();
    while let Some(package) = waiting.pop() {
        if there.insert(package.clone()) {
            waiting.extend(needs.get(&package).cloned().unwrap_or_default());
        }
    }
    // What has no source is of this workspace.
    Ok(packages
        .iter()
        .filter(|package| there.contains(&id(&package["id"])) && !package["source"].is_null())
        .collect())
}

/// Those of a package, and of the sources of others that it has in directories of its own.
fn texts(package: &Path) -> Result<Vec<String>> {
    let list = |dir: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    let mut files = list(package)?;
    for dir in files.clone().iter().filter(|path| path.is_dir()) {
        files.extend(list(dir)?);
    }
    let is_licence = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        file.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".rs")
    };
    files
        .iter()
        .filter(|file| is_licence(file))
        .map(|file| {
            let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_is_made_of_is_listed_and_what_builds_or_tests_it_is_not() {
        let metadata = metadata(&workspace::root()).unwrap();
        let names: BTreeSet<&str> = in_the_program(&metadata)
            .unwrap()
            .iter()
            .filter_map(|package| package["name"].as_str())
            .collect();
        for there in ["aws-lc-sys", "rustls", "tokio", "aya"] {
            assert!(names.contains(there), "{there} is in the program");
        }
        for absent in ["aya-build", "cc", "criterion", "inferno", "pillion-agent", "pillion-ebpf-common"] {
            assert!(!names.contains(absent), "{absent} is not in the program");
        }
    }

    #[test]
    fn licences_are_read_of_a_crate_and_of_what_it_has_of_others() {
        let metadata = metadata(&workspace::root()).unwrap();
        let packages = in_the_program(&metadata).unwrap();
        // The second is jemalloc's own, beside that of the crate.
        for (name, owner) in [("tokio", "Tokio Contributors"), ("tikv-jemalloc-sys", "Jason Evans")] {
            let package = packages.iter().find(|package| package["name"] == name).unwrap();
            let manifest = Path::new(package["manifest_path"].as_str().unwrap());
            let texts = texts(manifest.parent().unwrap()).unwrap();
            assert!(texts.iter().any(|text| text.contains(owner)), "{name}: {texts:?}");
        }
    }
}
