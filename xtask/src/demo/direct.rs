//! ID-1 and ID-3 within a node: who the kernel vouches for, and whom it refuses.

use anyhow::ensure;
use pillion_tests::Pod;
use serde_json::Value;

use super::check::{Check, Saw};
use super::clients::fetch;
use super::identity::access_line;
use super::stage::{Stage, text};

pub const CHECK: Check =
    Check { id: "ID-1", what: "pods of one node talk directly, and the kernel says who they are", look };

pub const STRICT: Check = Check {
    id: "ID-3",
    what: "under STRICT, plaintext that nobody vouches for is refused at once",
    look: strict,
};

fn look(stage: &Stage) -> Saw {
    let (bob, web) = (&stage.bob, &stage.web);
    stage.join(&[bob, web])?;
    let mut lines = Vec::new();
    // The first connection asks the worker, which goes by mutual TLS; what it has decided the kernel remembers.
    for (connection, security) in [("first", "mutual_tls"), ("second", "kernel_attested")] {
        let fetched = fetch(bob, web.ip4().into(), "/hello")?;
        let source = format!("{}:{}", bob.ip4(), fetched.port);
        for (reporter, pod) in [("source", bob), ("destination", web)] {
            let line = access_line(stage, pod, reporter, &source)?;
            let (from, to) = (text(&line, "source_principal")?, text(&line, "destination_principal")?);
            ensure!(from == bob.identity() && to == web.identity(), "{reporter} saw {from} and {to}");
            let was = text(&line, "connection_security_policy")?;
            ensure!(was == security, "the {connection} connection was {was} to the {reporter}");
        }
        lines.push(format!("{connection}: {} → {} by {security}, as both ends say", bob.name(), web.name()));
    }
    Ok(lines)
}

fn strict(stage: &Stage) -> Saw {
    const POLICY: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict}, \
                          spec: {mtls: {mode: STRICT}}}\n";
    const FILE: &str = "strict.yaml";
    let (alice, bob, web) = (&stage.alice, &stage.bob, &stage.web);
    stage.join(&[bob, web])?;
    stage.leave(&[alice])?;
    stage.bed.write_manifest(FILE, POLICY)?;
    stage.south.wait_config("STRICT in force", |dump| is_strict(dump, web))?;
    let url = format!("http://{}/hello", web.ip4());
    let output = alice.command("curl").args(["-sS", "-m", "15", &url]).output()?;
    ensure!(!output.status.success(), "curl got an answer: {:?}", output.stdout());
    let took = output.took.as_secs_f64() * 1e3;
    let answer = fetch(bob, web.ip4().into(), "/hello")?.body;
    ensure!(answer == "hello", "nginx said {answer:?} to a pod of the mesh");
    stage.bed.remove_manifest(FILE)?;
    stage.south.wait_config("STRICT taken back", |dump| !is_strict(dump, web))?;
    Ok(vec![
        format!("alice, outside the mesh: {:?}, after {took:.0} ms", output.stderr.trim()),
        "bob, in the mesh: nginx says \"hello\"".to_owned(),
    ])
}

/// What an agent's dump says of a pod.
fn is_strict(dump: &Value, pod: &Pod) -> bool {
    let mut workloads = dump["workloads"].as_array().into_iter().flatten();
    workloads
        .any(|workload| workload["name"]["name"] == pod.name() && workload["mtls"]["default"] == "STRICT")
}
