//! What an idle pod costs in memory: the agent's proportional set size with none and with many.

use super::Args;
use super::report::{Report, Sample};
use anyhow::{Context, Result};
use pillion_tests::{Agent, AgentOptions, Bed};
use std::fs;

pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let bed = Bed::new("memory")?;
    let node = bed.node("n1")?;
    let agent = node.start_agent(&AgentOptions::default())?;
    let before = pss(&agent)?;
    let mut pods = vec![];
    for i in 0..args.pods {
        eprint!("\rmemory: pod {}/{}", i + 1, args.pods);
        pods.push(node.pod(&format!("idle-{i}")).captured().create()?);
    }
    eprintln!();
    for pod in &pods {
        agent.wait_serving(pod)?;
    }
    let after = pss(&agent)?;
    let mut add = |metric, value| report.add(Sample { contestant: "pillion", case: "memory", metric, value });
    add("mesh_memory_empty KiB", before);
    add("mesh_memory_full KiB", after);
    add("mesh_memory_per_pod KiB", (after - before) / args.pods as f64);
    Ok(())
}

/// Proportional set size in KiB: shared pages count by their share (proc(5), smaps_rollup).
fn pss(agent: &Agent) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
