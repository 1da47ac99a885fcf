//! `pillion authz`, as people call it.

use pillion_tests::{Output, SameNode, agent};

use crate::apply;

const POLICY: &str = "{ selector: { matchLabels: { app: server } }, \
                      rules: [{ from: [{ source: { serviceAccounts: [client] } }], to: [{ operation: { ports: ['80'] } }] }] }";

fn authz(same_node: &SameNode, args: &[&str]) -> (Option<i32>, String) {
    let program = agent::binary().unwrap().display().to_string();
    let asked = same_node.node().command(&program).arg("authz").args(args).output().unwrap();
    let Output { status, stdout, stderr, .. } = asked;
    (status.code(), String::from_utf8(stdout).unwrap() + &stderr)
}

// proves: POL-1
#[test]
fn people_are_told_the_verdict_and_the_rule_that_made_it() {
    let same_node = SameNode::new("authz").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    let policy = apply(bed, &[agent], Some(POLICY));
    let (code, said) = authz(&same_node, &["default/client", "default/server", "80"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        said,
        format!(
            "default/client → default/server:80: allowed\n\
             \x20 {} → {}:80, as {identity}, allowed by rule 0 of ALLOW policy {policy}\n\
             \x20 {} → [{}]:80, as {identity}, allowed by rule 0 of ALLOW policy {policy}\n",
            client.ip4(),
            server.ip4(),
            client.ip6(),
            server.ip6(),
            identity = client.identity()
        )
    );
    let (code, said) = authz(&same_node, &["default/client", "default/server", "81"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("denied: ALLOW policies concern the pod, and none of them matches"), "{said}");
    // Whoever has proven nothing is told by the address.
    let (code, said) = authz(&same_node, &["192.0.2.1", "default/server", "80"]);
    assert_eq!((code, said.contains("in plain, denied: ALLOW policies concern")), (Some(1), true), "{said}");
    // Manifests answer without an agent.
    let manifests = bed.manifest_dir().display().to_string();
    let (code, said) =
        authz(&same_node, &["--manifests", &manifests, "default/client", "default/server", "80"]);
    assert_eq!((code, said.contains(&policy)), (Some(0), true), "{said}");
}

// proves: OPS-4
#[test]
fn people_are_told_what_of_the_destinations_policies_can_never_match() {
    let same_node = SameNode::new("authz-never").unwrap();
    let SameNode { agent, bed, .. } = &same_node;
    let deny = "{ action: DENY, rules: [{ from: [{ source: { principals: ['spiffe://cluster.local/ns/default/sa/client'] } }] }] }";
    let policy = apply(bed, &[agent], Some(deny));
    let manifests = bed.manifest_dir().display().to_string();
    let question = ["default/client", "default/server", "80"];
    for asked in [vec![], vec!["--manifests", manifests.as_str()]] {
        let (code, said) = authz(&same_node, &[asked, question.to_vec()].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!(
                "warning: DENY policy {policy}, spec.rules[0].from[0].source.principals[0]: "
            )),
            "{said}"
        );
        assert!(said.contains("so the policy denies nothing"), "{said}");
    }
    let dump = agent.config_dump().unwrap();
    let warnings = dump["manifests"]["warnings"][0]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains("spiffe://")), "{dump}");
}

// proves: SEC-2
#[test]
fn a_question_that_cannot_be_answered_says_why() {
    let same_node = SameNode::new("authz-bad").unwrap();
    for (args, expected) in [
        (&["default/nobody", "default/server", "80"][..], "pillion: there is no pod default/nobody\n"),
        (&["client", "default/server", "80"], "pillion: \"client\" names no pod: write namespace/name\n"),
        (&["default/client", "default/server", "0"], "0 is not in 1..=65535"),
        (&["default/client", "default/server"], "<PORT>"),
        (
            &["--admin-addr", "127.0.0.1:9", "default/client", "default/server", "80"],
            "no agent at 127.0.0.1:9",
        ),
        (&["--manifests", "/nowhere", "default/client", "default/server", "80"], "/nowhere: cannot be read"),
    ] {
        let (code, said) = authz(&same_node, args);
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}
