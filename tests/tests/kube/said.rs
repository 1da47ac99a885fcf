//! What agents write back: on policies that are wrong, and on pods that they cannot capture.

use std::time::{Duration, Instant};

use crate::{Standing, write};
use anyhow::Result;
use pillion_tests::{AgentOptions, ApiServer, wait};
use serde_json::{Value, json};

/// How soon a policy says of itself what is wrong with it.
const SOON: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(15);
const STATUS: &str = "pillion.dev/Accepted";
const BAD: &str = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies/bad";

fn put(api: &ApiServer, name: &str, spec: &Value) {
    write::policy(api, "AuthorizationPolicy", "authorizationpolicies", name, spec).unwrap();
}

/// The condition of ours once it is as expected; `{}` before there is one.
fn condition(api: &ApiServer, policy: &str, is_expected: impl Fn(&Value) -> bool) -> Result<Value> {
    typed(api, policy, STATUS, is_expected)
}

fn typed(api: &ApiServer, policy: &str, name: &str, is_expected: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(&format!("the condition {name} of {policy}"), WITHIN, || {
        let object = api.get(policy)?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let own = conditions.into_iter().find(|condition| condition["type"] == name);
        Ok(own.filter(&is_expected))
    })
}

// proves: SEC-2
#[test]
fn a_policy_says_within_two_seconds_what_is_wrong_with_it() {
    // As the agent is without flags.
    let Standing { api, agent, _bed } = Standing::new("status-soon", &[]).unwrap();
    api.add_policy_kinds().unwrap();
    put(&api, "good", &json!({}));
    let has_good = |dump: &Value| dump["authorization_policies"][0]["name"] == "default/good";
    agent.wait_config("that the kinds are known", has_good).unwrap();
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let name = format!("bad{number}");
        let begun = Instant::now();
        put(&api, &name, &json!({"rulez": []}));
        condition(&api, &BAD.replace("bad", &name), |own| own["status"] == "False").unwrap();
        slowest = slowest.max(begun.elapsed());
        println!("a condition on {name} {:?} after it was made", begun.elapsed());
    }
    assert!(slowest < SOON, "{slowest:?}");
}

// proves: OPS-4
#[test]
fn a_policy_that_can_never_match_is_in_force_and_says_so() {
    const EFFECTIVE: &str = "pillion.dev/Effective";
    let Standing { api, agent, _bed } = Standing::new("status-never", &[]).unwrap();
    api.add_policy_kinds().unwrap();
    let principal = "cluster.local/ns/default/sa/web";
    let deny = |principal: &str| json!({"action": "DENY", "rules": [{"from": [{"source": {"principals": [principal]}}]}]});
    put(&api, "bad", &deny(&format!("spiffe://{principal}")));
    let said = typed(&api, BAD, EFFECTIVE, |own| own["status"] == "False").unwrap();
    assert_eq!(said["reason"], "NeverMatches");
    let message = said["message"].as_str().unwrap();
    for part in
        ["spec.rules[0].from[0].source.principals[0]: ", "without spiffe://", "the policy denies nothing"]
    {
        assert!(message.contains(part), "{part}: {message}");
    }
    let dump = agent.config_dump().unwrap();
    let warnings = &dump["manifests"]["warnings"][0];
    assert_eq!((&warnings["kind"], &warnings["name"]), (&json!("AuthorizationPolicy"), &json!("bad")));
    assert_eq!(
        warnings["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("; "),
        message
    );
    assert_eq!(dump["authorization_policies"][0]["name"], "default/bad");
    assert_eq!(agent.log().matches("means less than it seems to").count(), 1);

    put(&api, "bad", &deny(principal));
    typed(&api, BAD, EFFECTIVE, |own| own["status"] == "True").unwrap();
    // Both conditions stand beside each other.
    put(&api, "bad", &json!({"rulez": []}));
    condition(&api, BAD, |own| own["status"] == "False").unwrap();
    typed(&api, BAD, EFFECTIVE, |own| own["status"] == "True").unwrap();
}

#[test]
fn a_policy_that_is_wrong_says_so_on_its_object_once_until_it_is_mended() {
    let options = AgentOptions::default().arg("--status-delay=0s");
    let Standing { api, agent, _bed } = Standing::with("status", &[], options).unwrap();
    api.add_policy_kinds().unwrap();
    put(&api, "good", &json!({}));
    put(&api, "bad", &json!({"rulez": []}));
    let said = condition(&api, BAD, |own| own["status"] == "False").unwrap();
    assert_eq!((&said["reason"], &said["observedGeneration"]), (&json!("Invalid"), &json!(1)));
    assert!(said["message"].as_str().unwrap().contains("rulez"), "{said}");

    // An agent that has not written it finds it said; a condition of somebody else's stays.
    let others = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "bad"}, "status": {"conditions": [{"type": "Reconciled", "status": "True"}]}});
    api.apply(&format!("{BAD}/status"), &others).unwrap();
    let written = api.get(BAD).unwrap()["metadata"]["resourceVersion"].clone();
    agent.restart().unwrap();
    put(&api, "late", &json!({"rulez": []}));
    condition(&api, &BAD.replace("bad", "late"), |own| own["status"] == "False").unwrap();
    assert_eq!(api.get(BAD).unwrap()["metadata"]["resourceVersion"], written);

    put(&api, "bad", &json!({}));
    let mended = condition(&api, BAD, |own| own["status"] == "True").unwrap();
    assert_eq!((&mended["reason"], &mended["observedGeneration"]), (&json!("Accepted"), &json!(2)));
    let object = api.get(BAD).unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "Reconciled"), "{object}");

    let http = json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]});
    put(&api, "bad", &http);
    let said = condition(&api, BAD, |own| own["reason"] == "HttpFieldsNotEnforced").unwrap();
    assert!(said["message"].as_str().unwrap().contains("methods"), "{said}");
    let good = api.get(&BAD.replace("bad", "good")).unwrap();
    assert!(good["status"].is_null(), "nothing is written on a good one: {good}");
}

#[test]
fn a_pod_that_cannot_be_captured_gets_one_event() {
    let options = AgentOptions::default().arg("--log=debug");
    let Standing { api, agent, _bed } = Standing::with("events", &[], options).unwrap();
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"pillion.dev/capture": "enabled"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "app"}]}});
    api.apply("/api/v1/namespaces/default/pods/web", &pod).unwrap();
    let events = || {
        let list = api.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        anyhow::Ok(events.into_iter().filter(|event| event["regarding"]["name"] == "web").collect::<Vec<_>>())
    };
    let found = wait::until("an event", WITHIN, || Ok(events()?.into_iter().next())).unwrap();
    assert_eq!((&found["reason"], &found["type"]), (&json!("CaptureFailed"), &json!("Warning")));
    let note = found["note"].as_str().unwrap();
    assert!(note.contains("--nri-socket") && note.contains("--cri-socket"), "{note}");
    assert!(!note.contains("pillion.dev/netns"), "{note}");
    // It is tried again and again.
    agent
        .process()
        .wait_for("two more tries", WITHIN, || {
            Ok((agent.log().matches("still not captured").count() >= 2).then_some(()))
        })
        .unwrap();
    assert_eq!(events().unwrap().len(), 1);
    assert_eq!(agent.metrics().unwrap().sum("pillion_pod_events_dropped_total", &[]), 0.0);
}
