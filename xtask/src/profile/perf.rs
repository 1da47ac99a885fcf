//! Linux's perf: records samples, and tells them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Samples a second and CPU; not a round number, so that it does not fall in step with what the agents do.
pub const FREQUENCY: u64 = 1997;

/// What to sample by: the CPU's cycles, or, where a virtual machine has no counters, the clock of the CPU time.
pub fn event() -> Result<&'static str> {
    let counts = |event: &str| {
        let output = Command::new("perf").args(["stat", "-x", ",", "-e", event, "true"]).output();
        let output = output.context("cannot run perf: Debian has it in the package linux-perf")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok::<_, anyhow::Error>((output.status.success() && !said.contains("<not"), said))
    };
    if counts("cycles")?.0 {
        return Ok("cycles");
    }
    let (works, said) = counts("cpu-clock")?;
    ensure!(
        works,
        "perf counts neither cycles nor cpu-clock here; kernel.perf_event_paranoid must allow it: {said}"
    );
    eprintln!("this machine has no hardware counters: samples are by CPU time (cpu-clock)");
    Ok("cpu-clock")
}

/// Samples all threads of the processes for that long.
pub fn record(pids: &[u32], event: &str, time: Duration, to: &Path) -> Result<()> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    perf(
        Command::new("perf")
            .args([
                "record",
                "--quiet",
                "-F",
                &FREQUENCY.to_string(),
                "-e",
                event,
                "--call-graph",
                "fp",
                "-p",
            ])
            .arg(pids.join(","))
            .arg("-o")
            .arg(to)
            .args(["--", "sleep", &time.as_secs().to_string()]),
    )
    .map(drop)
}

/// The samples as text: a line for the thread, a line for each frame from the innermost on, an empty line.
pub fn script(of: &Path) -> Result<String> {
    perf(Command::new("perf").args(["script", "-F", "comm,tid,ip,sym,dso", "-i"]).arg(of))
}

fn perf(command: &mut Command) -> Result<String> {
    let output = command.output().context("cannot run perf")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
