//! POL-1 and POL-2: a policy decides who gets in, on new and on open connections, and both paths.

use anyhow::{Result, ensure};
use pillion_tests::Pod;
use pillion_tests::apps::{Conversation, converse, echo};
use pillion_tests::wait::now;
use serde_json::Value;

use super::check::{Check, Saw};
use super::clients::fetch;
use super::stage::{Stage, text};

pub const CHECK: Check =
    Check { id: "POL-1", what: "an AuthorizationPolicy decides who gets in, and says by which rule", look };

pub const OPEN: Check = Check {
    id: "POL-2",
    what: "a changed policy ends the open connections that it denies, and no other",
    look: open,
};

const FILE: &str = "policy.yaml";

/// Only alice, and only to port 80.
const ALICE: &str =
    "{rules: [{from: [{source: {serviceAccounts: [alice]}}], to: [{operation: {ports: ['80']}}]}]}";
/// All but bob.
const NOT_BOB: &str = "{action: DENY, rules: [{from: [{source: {serviceAccounts: [bob]}}]}]}";

fn look(stage: &Stage) -> Saw {
    let (alice, bob, web) = (&stage.alice, &stage.bob, &stage.web);
    stage.join(&[alice, bob, web])?;
    apply(stage, "web-for-alice", Some(ALICE))?;
    let answer = fetch(alice, web.ip4().into(), "/hello")?.body;
    ensure!(answer == "hello", "nginx said {answer:?} to alice");
    let url = format!("http://{}/hello", web.ip4());
    let denied = bob.command("curl").args(["-sS", "-m", "15", &url]).output()?;
    ensure!(!denied.status.success(), "curl got an answer for bob: {:?}", denied.stdout());
    let is_denial = |line: &Value| line["reporter"] == "destination" && line["response_flags"] == "DENY";
    let line = stage.south.wait_access("bob's denied connection", is_denial)?;
    let lines = vec![
        "alice: nginx says \"hello\"".to_owned(),
        format!("bob: {:?}, after {:.0} ms", denied.stderr.trim(), denied.took.as_secs_f64() * 1e3),
        format!("the access log of web: {}", text(&line, "error")?),
    ];
    apply(stage, "web-for-alice", None)?;
    Ok(lines)
}

fn open(stage: &Stage) -> Saw {
    const PORT: u16 = 7;
    let (alice, bob, web) = (&stage.alice, &stage.bob, &stage.web);
    stage.join(&[alice, bob, web])?;
    echo(web, PORT)?;
    let talk = |pod: &Pod, name: &str| -> Result<Conversation> {
        let talk = converse(pod, web.ip4().into(), PORT, name)?;
        talk.say("hello")?;
        Ok(talk)
    };
    // bob's second connection is direct: the first one has asked.
    let (first, bobs, alices) = (talk(bob, "bob-1")?, talk(bob, "bob-2")?, talk(alice, "alice")?);
    let begun = now();
    apply(stage, "not-bob", Some(NOT_BOB))?;
    let mut lines = Vec::new();
    for (path, talk) in [("by mutual TLS", &first), ("direct", &bobs)] {
        let end = talk.wait_end()?;
        let at: f64 = end.split(' ').nth(1).unwrap_or_default().parse()?;
        lines.push(format!("bob, {path}: cut {:.0} ms after the policy was written", (at - begun) * 1e3));
    }
    alices.say("still here")?;
    lines.push("alice: her connection goes on".to_owned());
    apply(stage, "not-bob", None)?;
    Ok(lines)
}

/// Puts a policy for web into force at both agents, or takes it back.
fn apply(stage: &Stage, name: &str, spec: Option<&str>) -> Result<()> {
    match spec {
        Some(spec) => {
            let text = format!(
                "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n"
            );
            stage.bed.write_manifest(FILE, &text)?;
        }
        None => stage.bed.remove_manifest(FILE)?,
    }
    let is_there = |dump: &Value| {
        let mut policies = dump["authorization_policies"].as_array().into_iter().flatten();
        policies.any(|policy| policy["name"] == format!("default/{name}")) == spec.is_some()
    };
    stage.agents().iter().try_for_each(|agent| agent.wait_config("the policy", is_there).map(drop))
}
