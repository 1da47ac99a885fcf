//! CAP-3: what the hooks cost a connect(). Shown, not judged: a shared machine is no scale.

use std::path::Path;
use std::process;

use anyhow::{Context, Result, ensure};
use pillion_load::Report;
use pillion_tests::Pod;

use super::check::{Check, Saw};
use super::stage::Stage;
use crate::load;

pub const CHECK: Check = Check { id: "CAP-3", what: "the hooks cost a connect() little", look };

const ROUNDS: usize = 7;
/// What measures itself in a pod.
const PROBE: [&str; 5] = ["connect", "--seconds", "0.04", "--warm-up", "0.01"];

/// Every measured connect() is a whole handshake over the loopback device, to a listener of the probe or to the
/// worker's: what differs is what the hooks do.
fn look(stage: &Stage) -> Saw {
    let (alice, bob, web) = (&stage.alice, &stage.bob, &stage.web);
    stage.leave(&[bob])?;
    stage.join(&[alice, web])?;
    let program = load::binary()?;
    let to = format!("{}:80", web.ip4());
    let in_pod = |pod: &Pod, args: &[&str]| {
        median(&pod.command(&program.display().to_string()).args(PROBE).args(args).run()?)
    };
    let mut rounds: [Vec<f64>; 3] = Default::default();
    // In turns: what else the machine does hits all of them.
    for _ in 0..ROUNDS {
        let saw = [alice.visit(|| outside(&program))?, in_pod(bob, &[])?, in_pod(alice, &["--to", &to])?];
        rounds.iter_mut().zip(saw).for_each(|(round, saw)| round.push(saw));
    }
    let [without, passed, captured] = rounds.map(middle);
    let more = |cost: f64| cost - without;
    Ok(vec![
        format!("without hooks  {without:>7.0} ns"),
        format!("not captured   {passed:>7.0} ns   {:+.0} ns", more(passed)),
        format!("captured       {captured:>7.0} ns   {:+.0} ns", more(captured)),
        format!(
            "medians of {ROUNDS} × 40 ms of handshakes on loopback, in turns; a captured one also wakes the worker"
        ),
    ])
}

/// In the network of the thread's pod, but in a cgroup that no hook is attached to.
fn outside(program: &Path) -> Result<f64> {
    let output = process::Command::new(program).args(PROBE).output()?;
    ensure!(output.status.success(), "the probe failed: {}", String::from_utf8_lossy(&output.stderr));
    median(&String::from_utf8(output.stdout)?)
}

/// The median that the probe has seen, in ns.
fn median(said: &str) -> Result<f64> {
    let report: Report = serde_json::from_str(said).with_context(|| format!("the probe said {said:?}"))?;
    Ok(report.latency.context("the probe saw no connection")?.p50 * 1000.0)
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
