//! What an idle pod costs in memory: the agent's proportional set size with none and with many.

use super::Args;
use super::metric::Metric;
use super::results::Results;
use anyhow::{Context, Result};
use pillion_tests::{Agent, AgentOptions, Bed};
use std::fs;

pub fn measure(args: &Args, results: &mut Results) -> Result<()> {
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
    for (pods, kib) in [(0, before), (args.pods, after)] {
        results.add("pillion", &format!("pods-{pods}"), Metric::MeshMemory, kib);
    }
    Ok(())
}

/// Proportional set size in KiB: shared pages count by their share (proc(5), smaps_rollup).
fn pss(agent: &Agent) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.pid()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
