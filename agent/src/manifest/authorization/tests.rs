use super::*;
use crate::manifest::objects::Object;
use crate::mesh::{Action, Condition, Policy, TrustDomains};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn object(spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
}

fn policy(spec: Value) -> Arc<Policy> {
    match Object::read(&object(spec.clone())) {
        Ok(Some(Object::AuthorizationPolicy(read))) => read.policy.clone(),
        other => panic!("{spec}: {other:?}"),
    }
}

fn from(source: Value) -> Value {
    json!({"rules": [{"from": [{"source": source}]}]})
}

fn to(operation: Value) -> Value {
    json!({"rules": [{"to": [{"operation": operation}]}]})
}

fn when(condition: Value) -> Value {
    json!({"rules": [{"when": [condition]}]})
}

#[test]
fn what_is_empty_or_null_says_nothing() {
    let empty = policy(json!({"action": null, "selector": null, "targetRefs": null, "rules": null}));
    assert_eq!((empty.action, empty.rules.len()), (Action::Allow, 0));
    let rule = policy(json!({"rules": [{"from": null, "to": null, "when": null}]}));
    assert!(rule.rules[0].from.is_empty() && rule.rules[0].to.is_empty() && rule.rules[0].when.is_empty());
    let source = policy(from(json!({"principals": ["a"], "namespaces": null, "ipBlocks": []})));
    assert_eq!(source.rules[0].from[0].len(), 1);
}

#[test]
fn a_rule_of_an_allow_policy_that_speaks_of_http_is_not_in_force() {
    let rules = json!([
        {"from": [{"source": {"namespaces": ["a"]}}, {"source": {"requestPrincipals": ["*"]}}]},
        {"to": [{"operation": {"ports": ["80"]}}]},
        {"to": [{"operation": {"ports": ["80"], "notHosts": ["x"], "paths": ["/{*}"]}}], "when": [
            {"key": "connection.sni", "values": ["x"]}, {"key": "source.namespace", "notValues": ["b"]},
            {"key": "request.auth.claims[a][b]", "values": ["x"]}]},
    ]);
    let fields = [
        "spec.rules[0].from[1].source.requestPrincipals",
        "spec.rules[2].to[0].operation.notHosts",
        "spec.rules[2].to[0].operation.paths",
        "spec.rules[2].when[0]",
        "spec.rules[2].when[2]",
    ];
    let in_force = |policy: &Policy| policy.rules.iter().map(|rule| rule.index).collect::<Vec<_>>();
    let allow = policy(json!({"rules": rules}));
    assert_eq!((in_force(&allow), &allow.http_fields[..]), (vec![1], &fields.map(str::to_owned)[..]));
    for action in ["DENY", "AUDIT"] {
        let policy = policy(json!({"action": action, "rules": rules}));
        assert_eq!((in_force(&policy), policy.http_fields.len()), (vec![0, 1, 2], 5));
        // A source of which nothing is known at layer 4 is any.
        assert!(policy.rules[0].from[1].is_empty());
        assert!(matches!(policy.rules[2].when[..], [Condition::SourceNamespace(_)]));
    }
}

#[test]
fn ten_thousand_policies_for_others_are_not_even_asked() {
    let read = |namespace: &str, name: usize, selector: Value| -> AuthorizationPolicy {
        let mut object =
            object(json!({"selector": {"matchLabels": selector}, "action": "DENY", "rules": [{}]}));
        object["metadata"] = json!({"name": format!("p{name}"), "namespace": namespace});
        serde_json::from_value(object).unwrap()
    };
    let mut policies: Vec<_> =
        (0..10_000).map(|i| read("shop", i, json!({"app": format!("a{i}")}))).collect();
    policies.push(read("shop", 10_000, json!({"app": "a7", "tier": "web"})));
    policies.push(read("bank", 0, json!({})));
    policies.push(read("istio-system", 0, json!({"tier": "web"})));
    let scopes = Scopes::new("istio-system", &TrustDomains::default(), &policies);
    let concern = |namespace: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let authorization = scopes.authorization(namespace, &labels);
        authorization.policies().iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(concern("shop", &[("app", "a7")]), ["shop/p7"]);
    assert_eq!(
        concern("shop", &[("app", "a7"), ("tier", "web")]),
        ["istio-system/p0", "shop/p10000", "shop/p7"]
    );
    assert_eq!(concern("bank", &[("app", "a7")]), ["bank/p0"]);
    assert!(concern("other", &[("app", "a7")]).is_empty());
    // Pods that the same policies concern share one answer.
    let labels = [("app".to_owned(), "a7".to_owned())].into();
    assert!(Arc::ptr_eq(&scopes.authorization("shop", &labels), &scopes.authorization("shop", &labels)));
}

/// The warnings of a policy in a mesh with these trust domains.
fn warnings(spec: Value, trust_domains: &TrustDomains) -> Vec<String> {
    policy(spec).warnings(trust_domains).map(ToString::to_string).collect()
}

// proves: OPS-4
#[test]
fn what_can_never_match_is_a_warning_that_names_the_field() {
    let source = "spec.rules[0].from[0].source";
    let none =
        "spec.rules: none can ever match, so the policy lets nobody in, and closes the pods that it selects";
    let leaves_out = |field: &str, value: &str, not: &str| {
        vec![
            none.to_owned(),
            format!("{source}.{field}[0]: {value:?} matches nobody: {not} leaves out all of it"),
        ]
    };
    for (spec, expected) in [
        (
            from(json!({"principals": ["spiffe://cluster.local/ns/shop/sa/web"]})),
            vec![
                none.to_owned(),
                format!(
                    "{source}.principals[0]: \"spiffe://cluster.local/ns/shop/sa/web\" matches nobody: principals are written \
                     without spiffe://: write \"cluster.local/ns/shop/sa/web\""
                ),
            ],
        ),
        (
            from(json!({"principals": ["cluster.local/ns/shop/sa/web", "web"]})),
            vec![format!(
                "{source}.principals[1]: \"web\" matches nobody: a principal is <trust domain>/ns/<namespace>/sa/<service account>"
            )],
        ),
        (
            from(json!({"notPrincipals": ["spiffe://cluster.local/ns/shop/sa/web"]})),
            vec![format!(
                "{source}.notPrincipals[0]: \"spiffe://cluster.local/ns/shop/sa/web\" excludes nobody: principals are written \
                 without spiffe://: write \"cluster.local/ns/shop/sa/web\""
            )],
        ),
        (
            from(json!({"ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.0.0.0/9", "10.128.0.0/9"]})),
            leaves_out("ipBlocks", "10.0.0.0/8", "notIpBlocks"),
        ),
        (
            from(json!({"namespaces": ["shop"], "notNamespaces": ["sh*"]})),
            leaves_out("namespaces", "shop", "notNamespaces"),
        ),
        (
            from(json!({"serviceAccounts": ["web"], "notServiceAccounts": ["shop/web"]})),
            leaves_out("serviceAccounts", "web", "notServiceAccounts"),
        ),
    ] {
        assert_eq!(warnings(spec.clone(), &TrustDomains::default()), expected, "{spec}");
    }
    for (spec, field) in [
        (from(json!({"namespaces": ["shop/web"]})), "from[0].source.namespaces[0]"),
        (from(json!({"namespaces": ["Shop"]})), "from[0].source.namespaces[0]"),
        (from(json!({"serviceAccounts": ["Web"]})), "from[0].source.serviceAccounts[0]"),
        (from(json!({"trustDomains": ["Cluster.Local"]})), "from[0].source.trustDomains[0]"),
        (from(json!({"trustDomains": ["other.org"]})), "from[0].source.trustDomains[0]"),
        (from(json!({"principals": ["other.org/ns/shop/sa/web"]})), "from[0].source.principals[0]"),
        (from(json!({"ipBlocks": ["127.0.0.1"]})), "from[0].source.ipBlocks[0]"),
        (from(json!({"ipBlocks": ["10.0.0.0/8"], "remoteIpBlocks": ["10.0.0.0/16", "192.0.2.1"]})), "-"),
        (from(json!({"ipBlocks": ["10.0.0.0/8"], "remoteIpBlocks": ["192.0.2.1"]})), "from[0].source"),
        (from(json!({"namespaces": ["bank"], "principals": ["*/ns/shop/sa/web"]})), "from[0].source"),
        (from(json!({"namespaces": ["sh*"], "principals": ["*/ns/shop/sa/web"]})), "-"),
        (to(json!({"ports": ["80", "81"], "notPorts": ["80", "81"]})), "to[0].operation.ports[0]"),
        (when(json!({"key": "source.principal", "values": ["web"]})), "when[0].values[0]"),
        (
            when(json!({"key": "source.ip", "values": ["10.0.0.1"], "notValues": ["10.0.0.0/8"]})),
            "when[0].values[0]",
        ),
        (
            json!({"rules": [{"to": [{"operation": {"ports": ["80"]}}],
                "when": [{"key": "destination.port", "values": ["81"]}]}]}),
            "to[0].operation",
        ),
        (
            json!({"rules": [{"when": [{"key": "source.namespace", "values": ["a*"]},
                {"key": "source.namespace", "values": ["b*"]}]}]}),
            "-rules[0]",
        ),
    ] {
        let found = warnings(spec.clone(), &TrustDomains::default());
        match field {
            "-" => assert!(found.is_empty(), "{spec}: {found:?}"),
            "-rules[0]" => assert!(found[1].starts_with("spec.rules[0]: "), "{spec}: {found:?}"),
            field => {
                assert_eq!(found[0], none, "{spec}: {found:?}");
                assert!(found[1].starts_with(&format!("spec.rules[0].{field}: ")), "{spec}: {found:?}");
            }
        }
    }
    let selector = json!({"selector": {"matchLabels": {"app": "cart db"}}, "rules": [{}]});
    let found = warnings(selector, &TrustDomains::default());
    assert!(found[0].starts_with("spec.selector.matchLabels.app: selects no pod"), "{found:?}");
}

// proves: OPS-4
#[test]
fn a_policy_that_can_never_match_says_what_follows_from_it() {
    let dead = json!({"from": [{"source": {"principals": ["web"]}}]});
    for (action, consequence) in [
        ("DENY", "the policy denies nothing"),
        ("ALLOW", "the policy lets nobody in, and closes the pods that it selects"),
        ("AUDIT", "the policy marks nothing"),
    ] {
        let said = |rules: Value| {
            let found = warnings(json!({"action": action, "rules": rules}), &TrustDomains::default());
            let conclusion = found.iter().find(|said| said.starts_with("spec.rules: "));
            conclusion.or(found.last()).cloned().unwrap_or_default()
        };
        assert_eq!(said(json!([dead, dead])), format!("spec.rules: none can ever match, so {consequence}"));
        assert_eq!(said(json!([{}, dead])), "spec.rules[1]: the rule can never match");
        let one_lives =
            json!([{"from": [{"source": {"principals": ["web"]}}, {"source": {"namespaces": ["a"]}}]}]);
        assert!(said(one_lives).contains("principals[0]: "), "{action}");
        let none = if action == "ALLOW" {
            String::new()
        } else {
            format!("spec.rules: there are none, so {consequence}")
        };
        assert_eq!(said(json!([])), none);
        assert_eq!(said(json!([{}])), "");
    }
}

// proves: OPS-4
#[test]
fn another_trust_domain_is_a_warning_where_it_is_not_the_meshs() {
    let domain = |name: &str| name.parse().unwrap();
    let ours = TrustDomains::new(domain("new.org"), [domain("old.org")]);
    for (principal, is_warned_of) in [
        ("new.org/ns/shop/sa/web", false),
        ("old.org/ns/shop/sa/web", false),
        ("cluster.local/ns/shop/sa/web", false),
        ("cluster.local/*", true),
        ("old.org/*", false),
        ("other.org/ns/shop/sa/web", true),
    ] {
        let deny = json!({"action": "DENY", "rules": [{"from": [{"source": {"principals": [principal]}}]}]});
        let found = warnings(deny, &ours);
        assert_eq!(!found.is_empty(), is_warned_of, "{principal}: {found:?}");
        assert_eq!(
            found.iter().any(|said| said.ends_with("the policy denies nothing")),
            is_warned_of,
            "{principal}"
        );
    }
}

#[test]
fn a_policy_as_large_as_can_be_does_not_keep_the_agent_busy() {
    let texts = |stem: &str| (0..20_000).map(|i| format!("{stem}{i}")).collect::<Vec<_>>();
    let networks = (0..20_000).map(|i| format!("10.{}.{}.0/24", i / 256, i % 256)).collect::<Vec<_>>();
    let conditions: Vec<_> =
        (0..5_000).map(|i| json!({"key": "source.namespace", "values": [format!("n{i}")]})).collect();
    let sources: Vec<_> = (0..5_000).map(|i| json!({"source": {"namespaces": [format!("s{i}")]}})).collect();
    for spec in [
        from(json!({"namespaces": texts("a"), "notNamespaces": texts("b")})),
        from(json!({"ipBlocks": networks, "notIpBlocks": networks})),
        json!({"rules": [{"from": sources, "when": conditions}]}),
    ] {
        let begun = Instant::now();
        let policy = policy(spec);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(policy.warnings.len() <= 101, "{}", policy.warnings.len());
    }
}
