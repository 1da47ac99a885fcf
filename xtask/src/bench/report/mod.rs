//! The report of a benchmark: for the terminal, for the repository, for a browser. All three say the same and are
//! made from [`Results`] alone: `cargo xtask bench report` makes them again from the file.
//!
//! Nothing here measures.

mod cast;
#[cfg(test)]
mod example;
mod facts;
mod family;
mod headline;
mod html;
#[cfg(test)]
mod in_a_browser;
mod markdown;
mod markup;
mod memory;
mod number;
mod plot;
mod table;
mod terminal;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::results::Results;
use crate::terminal::Colours;

pub use number::{amount, times};

#[derive(clap::Args)]
pub struct Args {
    /// A results.json, or its directory: report.md and report.html are written beside it
    results: PathBuf,
}

/// `cargo xtask bench report`: shows results that were taken before.
pub fn run(args: &Args) -> Result<()> {
    let results = Results::read(&args.results)?;
    let dir = if args.results.is_dir() { Some(args.results.as_path()) } else { args.results.parent() };
    print(&results);
    write_pages(&results, dir.unwrap_or(Path::new("")))
}

/// The tables, on standard output.
pub fn print(results: &Results) {
    println!("{}", terminal::text(results, Colours::of(&io::stdout())));
}

/// Writes `results.json`, `report.md` and `report.html` into a directory, which is made.
pub fn write(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    results.write(dir)?;
    write_pages(results, dir)
}

fn write_pages(results: &Results, dir: &Path) -> Result<()> {
    for (name, text) in [("report.md", markdown::text(results)), ("report.html", html::page(results))] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
