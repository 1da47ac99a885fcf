//! `cargo xtask fuzz`: random bytes for everything that bytes from outside reach (`pillion_agent::fuzz`).

use crate::workspace::{self, cargo, root};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// What libFuzzer learns by: which branches an input takes. These are what `cargo fuzz` gives the compiler, but for its sanitizers, which
/// a stable compiler does not have.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Coverflow-checks=on --cfg fuzzing";

/// Each target in a test run: first what is in its corpus, then random bytes.
const SECONDS_IN_TESTS: u64 = 10;

/// An input that takes longer than this has found something.
const SECONDS_FOR_ONE: u64 = 20;

#[derive(clap::Args)]
pub struct Args {
    /// Which targets (directories of fuzz/corpus); without any, all of them
    targets: Vec<String>,
    /// How long each is fed, in seconds; 0 is for ever
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many inputs each is fed at the most; without it there is no limit
    #[arg(long)]
    inputs: Option<u64>,
    /// Keeps the inputs that reach something new in fuzz/corpus
    #[arg(long)]
    keep: bool,
}

/// With a program that learns: it is built apart, with all that it is made of.
pub fn run(args: &Args) -> Result<()> {
    let (target, machine) = (root().join("target/fuzz"), this_machine()?);
    workspace::run(
        cargo()
            .args(["build", "--release", "--package", "pillion-fuzz"])
            .arg("--target-dir")
            .arg(&target)
            // Named, so that build scripts and macros are built as ever.
            .args(["--target", &machine])
            .env("RUSTFLAGS", COVERAGE),
    )?;
    let program = target.join(&machine).join("release/pillion-fuzz");
    let targets = if args.targets.is_empty() { targets()? } else { args.targets.clone() };
    for name in targets {
        println!("── {name}");
        let found = target.join("corpus").join(&name);
        fs::create_dir_all(&found)?;
        let mut command = fuzzer(&program, &name, args.seconds);
        command
            .arg(format!("-runs={}", args.inputs.map_or(-1, |inputs| i64::try_from(inputs).unwrap_or(-1))));
        command.args([&found, &corpus(&name)]);
        ensure!(command.status()?.success(), "{name}: something was found, see target/fuzz/found");
        if args.keep {
            let mut merge = fuzzer(&program, &name, 0);
            merge.arg("-merge=1").args([&corpus(&name), &found]);
            ensure!(merge.status()?.success(), "{name}: its corpus could not be merged");
        }
    }
    Ok(())
}

/// With the everyday build: it does not learn, and nothing is compiled for it twice. Two targets at a time.
pub fn briefly() -> Result<Option<String>> {
    workspace::run(cargo().args(["build", "--package", "pillion-fuzz"]))?;
    let program = root().join("target/debug/pillion-fuzz");
    let all = targets()?;
    let feed = |names: &[String]| -> Result<()> {
        for name in names {
            let mut command = fuzzer(&program, name, SECONDS_IN_TESTS);
            command.env("PILLION_FUZZ_SEEDS", corpus(name)).args(["-max_len=8192"]).arg(corpus(name));
            let output = command.output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "fuzz target {name} has found something:\n{said}");
        }
        Ok(())
    };
    let (one, other) = all.split_at(all.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| feed(other));
        feed(one).and(other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    Ok(Some(format!("{} targets, {SECONDS_IN_TESTS} s each", all.len())))
}

/// As Rust calls it.
fn this_machine() -> Result<String> {
    let said = Command::new("rustc").arg("-vV").current_dir(root()).output()?.stdout;
    let said = String::from_utf8(said)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` does not say which machine this is")
}

fn fuzzer(program: &Path, name: &str, seconds: u64) -> Command {
    let found = root().join("target/fuzz/found");
    // Where it cannot be made, the fuzzer says so.
    let _ = fs::create_dir_all(&found);
    let mut command = Command::new(program);
    command
        .env("PILLION_FUZZ", name)
        .env("RUST_LOG", "off")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SECONDS_FOR_ONE}"))
        .arg(format!("-artifact_prefix={}/{name}-", found.display()))
        .args(["-rss_limit_mb=4096", "-print_final_stats=1"]);
    command
}

fn corpus(name: &str) -> PathBuf {
    root().join("fuzz/corpus").join(name)
}

/// Each target has a corpus; a test of the agent's sees to that.
fn targets() -> Result<Vec<String>> {
    let dir = root().join("fuzz/corpus");
    let entries = fs::read_dir(&dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    let names: std::io::Result<Vec<String>> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.sort();
    Ok(names)
}
