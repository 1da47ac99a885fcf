//! Policies are kinds that a cluster may get later.

use crate::{Standing, write};
use serde_json::json;

// proves: SEC-2, SEC-3
#[test]
fn policies_are_found_when_their_kinds_come_and_a_wrong_one_is_refused_alone() {
    let Standing { api, agent, _bed } = Standing::new("policies", &[]).unwrap();
    let dump = agent.config_dump().unwrap();
    assert_eq!(write::watch(&dump, "authorizationpolicies"), "absent");
    write::pod(&api, "web", "10.1.0.2", &json!({"app": "web"})).unwrap();

    api.add_policy_kinds().unwrap();
    let authorization = |name: &str, spec| {
        write::policy(&api, "AuthorizationPolicy", "authorizationpolicies", name, &spec).unwrap();
    };
    authorization("good", json!({"rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}));
    let mtls = |mode: &str| {
        let spec = json!({"mtls": {"mode": mode}});
        write::policy(&api, "PeerAuthentication", "peerauthentications", "all", &spec).unwrap();
    };
    mtls("STRICT");
    let is_strict = |dump: &serde_json::Value| write::workload(dump, "web")["mtls"]["default"] == "STRICT";
    let has = |dump: &serde_json::Value, name: &str| {
        dump["authorization_policies"].as_array().into_iter().flatten().any(|policy| policy["name"] == name)
    };
    agent.wait_config("both policies", |dump| is_strict(dump) && has(dump, "default/good")).unwrap();

    mtls("STRICKT");
    authorization("bad", json!({"rulez": []}));
    authorization("later", json!({}));
    let dump = agent.wait_config("the refusals", |dump| {
        dump["manifests"]["refused"].as_array().is_some_and(|refused| refused.len() == 2)
            && has(dump, "default/later")
    });
    let dump = dump.unwrap();
    assert!(is_strict(&dump), "the last good form stays: {dump}");
    let refused = dump["manifests"]["refused"].as_array().unwrap();
    let named: Vec<&str> = refused.iter().filter_map(|refusal| refusal["object"].as_str()).collect();
    assert_eq!(named, ["PeerAuthentication default/all", "AuthorizationPolicy default/bad"]);
    let in_force = |dump: &serde_json::Value| {
        let refused = dump["manifests"]["refused"].as_array().cloned().unwrap_or_default();
        refused
            .iter()
            .map(|refusal| refusal["in_force"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    // The one that was right before stays what it was; the one that never was closes what it may be for, at once.
    assert_eq!(in_force(&dump), ["last_good", "stand_in"]);
    assert!(has(&dump, "default/bad"), "{dump}");

    agent.restart().unwrap();
    let again = agent.wait_config("the refusals", |dump| in_force(dump).len() == 2).unwrap();
    assert_eq!(in_force(&again), ["last_good", "stand_in"], "the same objects mean the same");
    assert!(is_strict(&again) && has(&again, "default/bad"), "{again}");
}
