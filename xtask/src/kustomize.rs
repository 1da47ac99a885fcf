//! `cargo xtask kustomize`: writes what of `deploy/kustomize` is made of the Helm chart. A test compares.

use std::fs;

use anyhow::{Context, Result};
use pillion_tests::chart::Chart;
use pillion_tests::cluster::Programs;

pub fn run() -> Result<()> {
    for file in Chart::new(&Programs::build()?)?.kustomization()? {
        let path = file.path.display();
        fs::write(&file.path, &file.text).with_context(|| format!("cannot write {path}"))?;
        println!("wrote {path}");
    }
    Ok(())
}
