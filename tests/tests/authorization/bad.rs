//! Policies that cannot be read, and policies that are only tried.

use pillion_tests::{Pair, Pod, SameNode, apps};
use serde_json::Value;

use crate::{apply, connect, line_at_the_server, policy, wait_policies};

const DENY: &str = "{ action: DENY, rules: [{ from: [{ source: { serviceAccounts: [client] } }] }] }";
const BROKEN: &str = "{ action: DENY, rules: [{ form: [{ source: { serviceAccounts: [client] } }] }] }";

fn refusal(dump: &Value) -> &Value {
    &dump["manifests"]["refused"][0]
}

// proves: POL-1, SEC-2
#[test]
fn a_broken_policy_is_refused_alone_and_its_last_good_form_stays_in_force() {
    let same_node = SameNode::new("broken").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    apps::echo(server, 7).unwrap();
    let ask = || connect(client, server.ip4().into(), 7).unwrap().said;
    bed.write_manifest("policy.yaml", &policy("p", DENY)).unwrap();
    wait_policies(agent, &["default/p"]);
    assert_eq!(ask(), "ConnectionResetError");

    bed.write_manifest("policy.yaml", &policy("p", BROKEN)).unwrap();
    let dump = agent.wait_config("the refusal", |dump| refusal(dump)["name"] == "p").unwrap();
    let refusal = refusal(&dump);
    assert_eq!(
        (&refusal["kind"], &refusal["field"]),
        (&"AuthorizationPolicy".into(), &"spec.rules[0].form".into())
    );
    assert_eq!(refusal["in_force"], "last_good");
    assert_eq!(ask(), "ConnectionResetError");
    let labels = [("kind", "AuthorizationPolicy"), ("policy_namespace", "default"), ("policy", "p")];
    assert_eq!(agent.metrics().unwrap().sum("pillion_policies_refused", &labels), 1.0);
    // The rest of the mesh goes on meanwhile.
    let late = same_node.captured("late").unwrap();
    assert_eq!(connect(&late, server.ip4().into(), 7).unwrap().said, "word");

    // The same objects mean the same to the next agent.
    agent.restart().unwrap();
    same_node.settle().unwrap();
    agent.wait_serving(&late).unwrap();
    assert_eq!(ask(), "ConnectionResetError");
    assert_eq!(connect(&late, server.ip4().into(), 7).unwrap().said, "word");
    let dump = agent.config_dump().unwrap();
    assert_eq!(dump["manifests"]["refused"][0]["in_force"], "last_good");

    bed.write_manifest("policy.yaml", &policy("p", DENY.replace("[client]", "[nobody]").as_str())).unwrap();
    agent
        .wait_config("that nothing is refused", |dump| dump["manifests"]["refused"] == serde_json::json!([]))
        .unwrap();
    assert_eq!(ask(), "word");
    assert_eq!(agent.metrics().unwrap().sum("pillion_policies_refused", &labels), 0.0);
}

// proves: POL-1, SEC-3
#[test]
fn a_policy_that_is_new_and_broken_closes_what_it_selects_before_a_restart_and_after_it() {
    let same_node = SameNode::new("new-broken").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    let other = same_node.captured("other").unwrap();
    for pod in [server, &other] {
        apps::echo(pod, 7).unwrap();
    }
    let ask = |pod: &Pod| connect(client, pod.ip4().into(), 7).unwrap().said;
    assert_eq!((ask(server), ask(&other)), ("word".to_owned(), "word".to_owned()));

    let selects = format!("{{ selector: {{ matchLabels: {{ app: {} }} }}, rulez: [] }}", server.name());
    bed.write_manifest("policy.yaml", &policy("p", &selects)).unwrap();
    let stands_in = |dump: &Value| refusal(dump)["in_force"] == "stand_in";
    agent.wait_config("the stand-in", stands_in).unwrap();
    let check = |when: &str| {
        assert_eq!(ask(server), "ConnectionResetError", "{when}");
        assert_eq!(ask(&other), "word", "{when}: the policy does not select this pod");
    };
    check("while the agent runs");
    agent.restart().unwrap();
    same_node.settle().unwrap();
    agent.wait_serving(&other).unwrap();
    agent.wait_config("the stand-in", stands_in).unwrap();
    check("after a restart");
}

// proves: POL-1, TEL-2
#[test]
fn dry_runs_and_audits_are_told_on_both_paths_and_change_nothing() {
    let same_node = SameNode::new("dry-run").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    apps::echo(server, 7).unwrap();
    let tried = policy("tried", DENY)
        .replace("namespace: default", "namespace: default, annotations: { istio.io/dry-run: 'true' }");
    let audit = policy("watch", &DENY.replace("DENY", "AUDIT"));
    bed.write_manifest("policy.yaml", &format!("{tried}---\n{audit}")).unwrap();
    wait_policies(agent, &["default/tried", "default/watch"]);
    let mut paths = vec![];
    for _ in 0..2 {
        let outcome = connect(client, server.ip4().into(), 7).unwrap();
        assert_eq!(outcome.said, "word");
        let line = line_at_the_server(agent, outcome.local.unwrap());
        let said = &line["authorization"];
        assert_eq!(said["decision"], "ALLOW", "{line}");
        assert_eq!(
            said["dry_run"],
            serde_json::json!({"decision": "DENY", "policy": "default/tried", "rule": 0}),
            "{line}"
        );
        assert_eq!(said["audited_by"], serde_json::json!([{"policy": "default/watch", "rule": 0}]), "{line}");
        paths.push(line["connection_security_policy"].as_str().unwrap().to_owned());
    }
    assert_eq!(paths, ["mutual_tls", "kernel_attested"]);
    let metrics = agent.metrics().unwrap();
    let denied = [("result", "denied"), ("policy", "default/tried")];
    assert_eq!(metrics.sum("pillion_authorization_dry_run_total", &denied), 2.0);
    assert_eq!(metrics.sum("pillion_authorization_audited_total", &[("policy", "default/watch")]), 2.0);
    assert_eq!(metrics.sum("pillion_authorization_total", &[("result", "denied")]), 0.0);
}

// proves: POL-1
#[test]
fn a_custom_policy_without_its_authorizer_denies_what_it_matches() {
    let pair = Pair::new("custom").unwrap();
    apps::echo(&pair.server, 7).unwrap();
    apps::echo(&pair.server, 8).unwrap();
    let spec =
        "{ action: CUSTOM, provider: { name: opa }, rules: [{ to: [{ operation: { ports: ['7'] } }] }] }";
    apply(&pair.bed, &[&pair.far, &pair.near], Some(spec));
    let denied = connect(&pair.client, pair.server.ip4().into(), 7).unwrap();
    assert_eq!(denied.said, "ConnectionResetError");
    let line = line_at_the_server(&pair.far, denied.local.unwrap());
    assert!(line["error"].as_str().unwrap().contains("whose provider opa is not to be had here"), "{line}");
    assert_eq!(connect(&pair.client, pair.server.ip4().into(), 8).unwrap().said, "word");
}
