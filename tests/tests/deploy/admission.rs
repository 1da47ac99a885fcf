//! What the API server refuses of policies, and what it warns of: with the chart's own kinds, and with kinds that check nothing.

use std::time::Duration;

use anyhow::Result;
use pillion_tests::{ApiServer, wait};
use serde_json::{Value, json};

use crate::Standing;

/// What agents refuse: each with the kind and a part of the agent's sentence.
const REFUSED: &str = include_str!("../../../agent/src/manifest/refused_policies.json");

fn object(kind: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
        .to_string()
}

/// What kubectl says, also what it warns of.
fn apply(api: &ApiServer, object: &str) -> Result<String> {
    api.kubectl(&["apply", "--validate=ignore", "--dry-run=server", "--filename=-"], object)
}

/// The admission policies are in force a moment after they are made. Asked by fields that the chart's own kinds let through:
/// what those refuse never comes to an admission policy.
fn wait_in_force(api: &ApiServer) {
    for (kind, spec) in
        [("AuthorizationPolicy", json!({"rulez": []})), ("PeerAuthentication", json!({"mlts": {}}))]
    {
        let wrong = object(kind, "wrong", &spec);
        wait::until("the admission policies to be in force", Duration::from_secs(60), || {
            Ok(apply(api, &wrong)
                .is_err_and(|error| format!("{error:#}").contains("ValidatingAdmissionPolicy"))
                .then_some(()))
        })
        .unwrap();
    }
}

/// `types`: the kinds check types.
fn refuses_what_agents_refuse(api: &ApiServer, types: bool) {
    let cases: Vec<Value> = serde_json::from_str(REFUSED).unwrap();
    let mut taken = Vec::new();
    for case in cases.iter().filter(|case| types || case["is_a_type"] != true) {
        let wrong = object(case["kind"].as_str().unwrap(), "wrong", &case["spec"]);
        match apply(api, &wrong) {
            Ok(said) => taken.push(format!("{case}: {said}")),
            Err(error) => {
                println!("{}\n    {}", case["spec"], format!("{error:#}").lines().last().unwrap_or_default())
            }
        }
    }
    assert!(taken.is_empty(), "the API server takes what agents refuse:\n{}", taken.join("\n"));
}

/// Policies with all fields, and with many values.
fn takes_what_agents_take(api: &ApiServer) {
    let networks: Vec<String> = (0..2_000).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect();
    let principals: Vec<String> = (0..1_000).map(|i| format!("cluster.local/ns/shop/sa/web-{i}")).collect();
    for (kind, spec) in [
        ("AuthorizationPolicy", json!({})),
        ("AuthorizationPolicy", json!({"rules": [{}]})),
        (
            "AuthorizationPolicy",
            json!({"action": "DENY", "rules": [{
            "from": [{"source": {"principals": ["*", "a*", "*a", "a/b"], "notNamespaces": ["bank"], "requestPrincipals": ["x"],
                "ipBlocks": ["10.0.0.77/8", "192.0.2.1", "fd00::/8", "::1", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104"]}},
                {"source": {"serviceAccounts": ["web", "shop/web"]}}, {"source": {"trustDomains": ["cluster.local"]}}],
            "to": [{"operation": {"ports": ["1", "65535"], "notMethods": ["GET"], "paths": ["/{*}"], "hosts": ["*.x"]}}],
            "when": [{"key": "source.ip", "values": ["10.0.0.1", "::ffff:10.0.0.1"], "notValues": ["10.0.0.0/8"]},
                {"key": "request.headers[x]", "values": ["y"]}, {"key": "request.auth.claims[a][b]", "values": ["y"]},
                {"key": "experimental.envoy.filters.network.mysql_proxy[db]", "values": ["a*b"]}]}]}),
        ),
        ("AuthorizationPolicy", json!({"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]})),
        (
            "AuthorizationPolicy",
            json!({"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{}]}),
        ),
        ("AuthorizationPolicy", json!({"selector": {"matchLabels": {"app": "cart"}}, "targetRefs": []})),
        ("AuthorizationPolicy", json!({"rules": [{"from": [{"source": {"ipBlocks": networks}}]}]})),
        ("AuthorizationPolicy", json!({"rules": [{"from": [{"source": {"principals": principals}}]}]})),
        ("PeerAuthentication", json!({})),
        ("PeerAuthentication", json!({"mtls": {"mode": "UNSET"}})),
        (
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {},
            "portLevelMtls": {"8080": {"mode": "DISABLE"}, "1": {}, "65535": {"mode": "STRICT"}}}),
        ),
    ] {
        let right = object(kind, "right", &spec);
        let said = apply(api, &right);
        let short: String = spec.to_string().chars().take(200).collect();
        assert!(said.is_ok(), "{kind} {short}: {:#}", said.unwrap_err());
    }
}

// proves: SEC-2
#[test]
fn the_api_server_refuses_what_agents_would_refuse_and_takes_the_rest() {
    let standing = Standing::installed("deploy-admission", &[]).unwrap();
    wait_kinds(&standing.api);
    wait_in_force(&standing.api);
    takes_what_agents_take(&standing.api);
    refuses_what_agents_refuse(&standing.api, true);
}

// proves: SEC-2
#[test]
fn a_policy_that_is_too_large_is_refused_by_its_size_and_costs_the_api_server_no_time() {
    let standing = Standing::new("deploy-admission-sizes").unwrap();
    standing.api.add_policy_kinds().unwrap();
    standing.install(&["--skip-crds"], &[]).unwrap();
    wait_in_force(&standing.api);
    let labels: Value =
        (0..65).map(|i| (format!("k{i}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let ports: serde_json::Map<_, _> = (1..1026).map(|port| (port.to_string(), json!({}))).collect();
    let sources: Value =
        (0..10_000).map(|i| json!({"source": {"principals": [format!("a/ns/b/sa/c{i}")]}})).collect();
    let blocks: Value = (0..2049).map(|i| json!(format!("10.0.{}.{}", i / 256, i % 256))).collect();
    // `apply` keeps all of an object in an annotation, which has room for less.
    let create = ["create", "--validate=ignore", "--dry-run=server", "--filename=-"];
    for (kind, spec, part) in [
        (
            "AuthorizationPolicy",
            json!({"rules": vec![json!({}); 257]}),
            "spec.rules: has more than 256 rules",
        ),
        ("AuthorizationPolicy", json!({"rules": [{"from": sources}]}), "more than 256 entries"),
        (
            "AuthorizationPolicy",
            json!({"rules": [{"from": [{"source": {"ipBlocks": blocks}}]}]}),
            "spec.rules: has more than 2048 values",
        ),
        (
            "AuthorizationPolicy",
            json!({"selector": {"matchLabels": labels}}),
            "spec.selector.matchLabels: has more than 64 labels",
        ),
        (
            "PeerAuthentication",
            json!({"selector": {"matchLabels": labels}}),
            "spec.selector.matchLabels: has more than 64 labels",
        ),
        (
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"app": "cart"}}, "portLevelMtls": ports}),
            "spec.portLevelMtls: has more than 1024 ports",
        ),
    ] {
        let begun = std::time::Instant::now();
        let refused = standing.api.kubectl(&create, &object(kind, "large", &spec)).unwrap_err();
        let said = format!("{refused:#}");
        assert!(said.contains(part), "{part}: {}", said.chars().take(500).collect::<String>());
        println!("{part}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5), "{part}: {:?}", begun.elapsed());
    }
}

// proves: SEC-2
#[test]
fn it_does_so_where_the_kinds_check_nothing() {
    let standing = Standing::new("deploy-admission-lax").unwrap();
    standing.api.add_policy_kinds().unwrap();
    standing.install(&["--skip-crds"], &[]).unwrap();
    wait_in_force(&standing.api);
    takes_what_agents_take(&standing.api);
    refuses_what_agents_refuse(&standing.api, false);
}

#[test]
fn a_policy_that_was_stored_before_can_be_labelled_and_deleted_but_not_changed_to_another_wrong_one() {
    let standing = Standing::new("deploy-admission-before").unwrap();
    let api = &standing.api;
    api.add_policy_kinds().unwrap();
    let wrong = object("AuthorizationPolicy", "before", &json!({"rulez": []}));
    api.kubectl(&["apply", "--filename=-"], &wrong).unwrap();
    standing.install(&["--skip-crds"], &[]).unwrap();
    wait_in_force(api);
    api.kubectl(&["label", "authorizationpolicy/before", "a=b"], "").unwrap();
    let patch =
        ["patch", "authorizationpolicy/before", "--type=merge", "--patch", r#"{"spec": {"rulezz": []}}"#];
    let said = format!("{:#}", api.kubectl(&patch, "").unwrap_err());
    assert!(said.contains("unknown field"), "{said}");
    api.kubectl(&["delete", "authorizationpolicy/before"], "").unwrap();
}

// proves: OPS-4
#[test]
fn kubectl_is_warned_of_what_can_never_match_and_the_policy_is_stored() {
    let standing = Standing::installed(
        "deploy-warnings",
        &["mesh.trustDomain=new.org", "mesh.trustDomainAliases={old.org}"],
    )
    .unwrap();
    let api = &standing.api;
    wait_kinds(api);
    wait_in_force(api);
    let source = |source: Value| json!({"action": "DENY", "rules": [{"from": [{"source": source}]}]});
    let warned = |kind: &str, namespace: &str, spec: &Value| {
        let object = object(kind, "p", spec).replace("\"default\"", &format!("{namespace:?}"));
        api.kubectl_warned(&["apply", "--dry-run=server", "--filename=-"], &object).unwrap()
    };
    api.kubectl(&["create", "namespace", "istio-system"], "").unwrap();
    let principal = source(json!({"principals": ["spiffe://cluster.local/ns/shop/sa/web"]}));
    wait::until("the warnings to be in force", Duration::from_secs(60), || {
        Ok(warned("AuthorizationPolicy", "default", &principal).contains("Warning").then_some(()))
    })
    .unwrap();
    for (spec, part) in [
        (principal, "without spiffe://"),
        (
            source(json!({"principals": ["web"]})),
            "a principal is <trust domain>/ns/<namespace>/sa/<service account>",
        ),
        (source(json!({"principals": ["other.org/ns/shop/sa/web"]})), "another trust domain"),
        (source(json!({"namespaces": ["shop/web"]})), "a namespace has lower-case letters"),
        (source(json!({"namespaces": ["Shop"]})), "a namespace has lower-case letters"),
        (source(json!({"serviceAccounts": ["Web"]})), "a service account has lower-case letters"),
        (
            source(json!({"trustDomains": ["other.org"]})),
            "a trust domain is not the mesh's (new.org, old.org)",
        ),
        (source(json!({"ipBlocks": ["10.1.0.0/16"], "notIpBlocks": ["10.0.0.0/8"]})), "leaves out"),
        (source(json!({"ipBlocks": ["10.1.0.1"], "notIpBlocks": ["10.0.0.0/8"]})), "leaves out"),
        (source(json!({"namespaces": ["a"], "notNamespaces": ["a"]})), "leaves out"),
        (
            json!({"action": "DENY", "rules": [{"when": [{"key": "source.principal", "values": ["spiffe://a"]}]}]}),
            "without spiffe://",
        ),
        (json!({"action": "DENY"}), "the policy has no rules"),
    ] {
        let said = warned("AuthorizationPolicy", "default", &spec);
        assert!(said.contains(part) && said.contains("a DENY policy denies nothing by it"), "{spec}: {said}");
    }
    for (spec, part) in [
        (
            json!({"selector": {"matchLabels": {"app": "cart db"}}}),
            "Kubernetes lets no pod have such a label",
        ),
        (
            json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}),
            "fields of HTTP are not enforced yet",
        ),
        (json!({"rules": [{"when": [{"key": "request.headers[x]", "values": ["y"]}]}]}), "fields of HTTP"),
    ] {
        let said = warned("AuthorizationPolicy", "default", &spec);
        assert!(said.contains(part), "{spec}: {said}");
    }
    let selects = json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {"mode": "STRICT"}});
    let said = warned("PeerAuthentication", "istio-system", &selects);
    assert!(said.contains("with a selector is for no pod"), "{said}");
    for spec in [
        source(
            json!({"principals": ["cluster.local/ns/shop/sa/web", "new.org/ns/shop/sa/*", "*/sa/web", "*"]}),
        ),
        source(
            json!({"namespaces": ["shop", "sh*", "*"], "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16"]}),
        ),
        json!({}),
        json!({"selector": {"matchLabels": {"app.kubernetes.io/name": "Cart_1.2", "empty": ""}}, "rules": [{}]}),
    ] {
        let said = warned("AuthorizationPolicy", "default", &spec);
        assert!(!said.contains("Warning"), "{spec}: {said}");
    }
    assert!(!warned("PeerAuthentication", "default", &selects).contains("Warning"));
}

fn wait_kinds(api: &ApiServer) {
    for kind in ["crd/peerauthentications.security.istio.io", "crd/authorizationpolicies.security.istio.io"] {
        api.kubectl(&["wait", "--for=condition=Established", kind, "--timeout=30s"], "").unwrap();
    }
}
