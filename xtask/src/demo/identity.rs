//! ID-1: who is who, in the certificates and on both ends of a connection.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use pillion_tests::Pod;
use serde_json::Value;

use super::check::{Check, Saw};
use super::clients::fetch;
use super::stage::{Stage, text};

pub const CERTIFICATES: Check =
    Check { id: "ID-1", what: "every pod has a certificate of its own service account", look: certificates };

pub const BOTH_ENDS: Check =
    Check { id: "ID-1", what: "both ends of a connection prove the same two identities", look: both_ends };

fn certificates(stage: &Stage) -> Saw {
    stage.join(&stage.pods())?;
    let (mut lines, mut serials) = (Vec::new(), BTreeSet::new());
    for pod in stage.pods() {
        let worker = stage.agent_of(pod).worker(pod)?.context("a pod has no worker")?;
        let certificate = &worker["certificate"];
        let identity = text(certificate, "identity")?;
        ensure!(identity == pod.identity(), "{}'s certificate is for {identity}", pod.name());
        serials.insert(text(certificate, "serial")?.to_owned());
        lines.push(format!("{:6} {identity}, until {}", pod.name(), minute(text(certificate, "not_after")?)));
    }
    ensure!(serials.len() == stage.pods().len(), "two pods share a certificate: {serials:?}");
    Ok(lines)
}

fn both_ends(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    stage.join(&[alice, web])?;
    let fetched = fetch(alice, web.ip4().into(), "/hello")?;
    let source = format!("{}:{}", alice.ip4(), fetched.port);
    let mut lines = Vec::new();
    for (reporter, pod) in [("source", alice), ("destination", web)] {
        let line = access_line(stage, pod, reporter, &source)?;
        let (from, to) = (text(&line, "source_principal")?, text(&line, "destination_principal")?);
        ensure!(from == alice.identity() && to == web.identity(), "{reporter} saw {from} and {to}");
        ensure!(line["connection_security_policy"] == "mutual_tls", "{reporter}: not mutual TLS: {line}");
        lines.push(format!("{:6} ({reporter}): {from} → {to}", pod.name()));
    }
    Ok(lines)
}

/// The access log's line of the pod's worker for the connection that came from `source`.
pub fn access_line(stage: &Stage, pod: &Pod, reporter: &str, source: &str) -> Result<Value> {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    stage.agent_of(pod).wait_access(&format!("{reporter}'s line for {source}"), |line| {
        line["reporter"] == reporter && line["source_address"] == source && line["pod"] == name.as_str()
    })
}

/// `2026-01-01T12:34` of a time as RFC 3339 has it.
fn minute(time: &str) -> &str {
    time.get(..16).unwrap_or(time)
}
