//! LIF-1 and LIF-5: a crash lets nothing out, and an end leaves nothing behind.

use anyhow::{Result, ensure};
use pillion_tests::Pod;
use pillion_tests::pcap::SYN;

use super::check::{Check, Saw};
use super::clients::fetch;
use super::stage::Stage;

pub const CRASH: Check = Check {
    id: "LIF-1",
    what: "without its agent a captured pod's connections are refused, not plain",
    look: crash,
};

pub const UNINSTALL: Check =
    Check { id: "LIF-5", what: "pillion uninstall leaves nothing in the kernel", look: uninstall };

fn crash(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    stage.join(&[alice, web])?;
    stage.north.kill()?;
    let recording = alice.record("tcp")?;
    let url = format!("http://{}/hello", web.ip4());
    let output = alice.command("curl").args(["-sS", "-m", "15", &url]).output()?;
    let packets = recording.stop()?;
    ensure!(!output.status.success(), "curl got an answer: {:?}", output.stdout());
    let said = output.stderr.trim().trim_start_matches("curl: ").to_owned();
    let syns = packets
        .tcp()
        .filter(|tcp| tcp.flags & SYN != 0 && alice.addresses().contains(&tcp.from.ip()))
        .count();
    ensure!(syns == 0, "{syns} SYNs left the pod");
    stage.north.restart()?;
    stage.join(&[alice])?;
    let answer = fetch(alice, web.ip4().into(), "/hello")?.body;
    ensure!(answer == "hello", "nginx said {answer:?}");
    Ok(vec![
        format!(
            "kill -9: curl in alice says {said:?}, after {:.0} ms; no SYN left the pod",
            output.took.as_secs_f64() * 1e3
        ),
        "agent started again: nginx says \"hello\"".to_owned(),
    ])
}

fn uninstall(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    stage.join(&[alice, web])?;
    let mut lines = Vec::new();
    for agent in stage.agents() {
        let status = agent.stop()?;
        ensure!(status.success(), "SIGTERM ended the agent with {status}");
        let removed: Vec<String> = agent
            .node()
            .uninstall()?
            .lines()
            .filter_map(|line| line.strip_prefix("removed ").map(str::to_owned))
            .collect();
        lines.push(format!("{}: removed {}", agent.node().name(), removed.join(", ")));
    }
    let pins = stage.bed.bpffs().join("pillion");
    ensure!(!pins.exists(), "{} is left", pins.display());
    for pod in stage.pods() {
        let ports = mesh_ports(pod)?;
        ensure!(ports.is_empty(), "{} still listens: {ports}", pod.name());
    }
    // The label is still there; what captured by it is gone.
    let answer = fetch(alice, web.ip4().into(), "/hello")?.body;
    ensure!(answer == "hello", "nginx said {answer:?}");
    lines.push(
        "no pin, no listener of the mesh in any pod; alice's next connection is plain and works".to_owned(),
    );
    Ok(lines)
}

/// What listens in the pod on the mesh's ports.
fn mesh_ports(pod: &Pod) -> Result<String> {
    pod.command("ss").args(["-Htln", "sport = 15001 or sport = 15008"]).run()
}
