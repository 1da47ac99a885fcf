//! Directories that are made once and then kept, below cargo's `target`.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// The directory `target/<shelf>/<name>`, filled by `make` when it is not there yet. It appears whole or not at all;
/// of several processes that want it, one makes it and the others wait.
pub fn directory(
    shelf: &str,
    name: &str,
    what: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let shelf = target().join(shelf);
    let (dir, draft) = (shelf.join(name), shelf.join(format!(".{name}.draft")));
    if dir.exists() {
        return Ok(dir);
    }
    fs::create_dir_all(&shelf).with_context(|| format!("cannot make {}", shelf.display()))?;
    let lock = shelf.join(format!(".{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", shelf.display()))?;
    if dir.exists() {
        return Ok(dir);
    }
    say(&format!("{what} into {} (once)", dir.display()));
    let begun = Instant::now();
    if draft.exists() {
        fs::remove_dir_all(&draft)?;
    }
    fs::create_dir_all(&draft)?;
    make(&draft)?;
    fs::rename(&draft, &dir)?;
    say(&format!("{what}: done in {:.0} s", begun.elapsed().as_secs_f64()));
    Ok(dir)
}

/// Runs a program to its end. What it prints is for whoever waits, and goes to standard error.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let status = command.stdout(std::io::stderr()).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "`{program} {}` ended with {status}", args.join(" "));
    Ok(())
}

/// Said to whoever waits, also where a test's own output is kept back.
fn say(text: &str) {
    // Nobody to say it to is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}
