use super::*;
use crate::manifest::objects::Object;
use crate::mesh::{Action, Condition, Policy, TrustDomains};
use serde_json::{Value, json};
use std::sync::Arc;

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

/// The field that is wrong, and what is wrong with it.
fn refused(spec: Value) -> (String, String) {
    match Object::read(&object(spec.clone())) {
        Ok(Some(Object::RefusedPolicy(refused))) => (refused.field.clone(), refused.message.clone()),
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

// proves: POL-1, SEC-2
#[test]
fn what_cannot_mean_anything_is_refused_with_the_field() {
    let source = "spec.rules[0].from[0].source";
    let operation = "spec.rules[0].to[0].operation";
    let condition = "spec.rules[0].when[0]";
    for (spec, field, message) in [
        (json!({"rulez": []}), "spec.rulez", "unknown field `rulez`"),
        (json!({"action": "deny"}), "spec.action", "unknown variant `deny`"),
        (json!({"rules": [{"form": []}]}), "spec.rules[0].form", "unknown field `form`"),
        (json!({"rules": [null]}), "spec.rules[0]", "null"),
        (json!({"rules": [{"from": []}]}), "spec.rules[0].from", "leave it out to mean any"),
        (json!({"rules": [{"from": [{}]}]}), "spec.rules[0].from[0]", "missing field `source`"),
        (from(json!({})), source, "leave `from` out to mean any source"),
        (from(json!({"principals": []})), source, "leave `from` out to mean any source"),
        (from(json!({"principal": ["a"]})), &format!("{source}.principal"), "unknown field `principal`"),
        (
            from(json!({"principals": [""]})),
            &format!("{source}.principals[0]"),
            "an empty text matches nothing",
        ),
        (
            from(json!({"principals": ["a", "b*c"]})),
            &format!("{source}.principals[1]"),
            "has a * that is neither",
        ),
        (from(json!({"principals": ["*a*"]})), &format!("{source}.principals[0]"), "has a * that is neither"),
        (from(json!({"namespaces": "shop"})), &format!("{source}.namespaces"), "expected a sequence"),
        (
            from(json!({"ipBlocks": ["10.0.0.0/33"]})),
            &format!("{source}.ipBlocks[0]"),
            "is no address and no network",
        ),
        (from(json!({"ipBlocks": ["*"]})), &format!("{source}.ipBlocks[0]"), "is no address and no network"),
        (
            from(json!({"serviceAccounts": ["a/*"]})),
            &format!("{source}.serviceAccounts[0]"),
            "is no service account",
        ),
        (
            from(json!({"serviceAccounts": ["a/b/c"]})),
            &format!("{source}.serviceAccounts[0]"),
            "is no service account",
        ),
        (from(json!({"serviceAccounts": ["a"], "namespaces": ["b"]})), source, "Istio takes one way only"),
        (from(json!({"serviceAccounts": vec!["a"; 17]})), source, "more than 16 service accounts"),
        (to(json!({})), operation, "leave `to` out to mean any operation"),
        (to(json!({"ports": [80]})), &format!("{operation}.ports[0]"), "expected a string"),
        (to(json!({"ports": ["0"]})), &format!("{operation}.ports[0]"), "is no port"),
        (to(json!({"ports": ["http"]})), &format!("{operation}.ports[0]"), "is no port"),
        (to(json!({"paths": [""]})), &format!("{operation}.paths[0]"), "an empty text"),
        (when(json!({"key": "source.ip"})), condition, "neither values nor notValues"),
        (when(json!({"key": "source.ips", "values": ["a"]})), condition, "is no key"),
        (when(json!({"key": "source.ip", "values": ["a"]})), condition, "key source.ip: \"a\" is no address"),
        (when(json!({"key": "request.headers[]", "values": ["a"]})), condition, "is no key"),
        (json!({"selector": {"matchLabels": {"app": "*"}}}), "spec.selector.matchLabels", "no *"),
        (json!({"action": "CUSTOM", "rules": [{}]}), "", "names no provider.name to ask"),
        (json!({"provider": {"name": "opa"}}), "", "which only action CUSTOM asks"),
        (json!({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{}]}), "", "not for both"),
    ] {
        let (found, said) = refused(spec.clone());
        assert_eq!(found, field, "{spec}: {said}");
        assert!(said.contains(message), "{spec}: {said}");
    }
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
