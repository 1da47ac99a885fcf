//! The kinds of policies, for clusters that lack them.

use serde_json::{Value, json};

use crate::Standing;

fn policy(kind: &str, version: &str, name: &str, spec: Value) -> String {
    let api_version = format!("security.istio.io/{version}");
    let metadata = json!({"name": name, "namespace": "default"});
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}).to_string()
}

#[test]
fn our_kinds_take_what_istios_take_and_refuse_wrong_types() {
    let Standing { api, chart, bed: _bed } = Standing::new("deploy-kinds").unwrap();
    let dir = chart.path().join("crds").display().to_string();
    api.kubectl(&["apply", "--filename", &dir], "").unwrap();
    let kinds = ["crd/peerauthentications.security.istio.io", "crd/authorizationpolicies.security.istio.io"];
    for kind in kinds {
        api.kubectl(&["wait", "--for=condition=Established", kind, "--timeout=30s"], "").unwrap();
    }
    let apply = |object: &str| api.kubectl(&["apply", "--filename=-"], object);

    for version in ["v1", "v1beta1"] {
        let full = json!({
            "selector": {"matchLabels": {"app": "cart"}}, "action": "DENY",
            "rules": [{
                "from": [{"source": {"principals": ["*"], "notNamespaces": ["bank"], "ipBlocks": ["10.0.0.0/8"]}}],
                "to": [{"operation": {"ports": ["80"], "notMethods": ["GET"]}}],
                "when": [{"key": "source.ip", "values": ["10.0.0.1"], "notValues": null}],
            }, {}],
        });
        apply(&policy("AuthorizationPolicy", version, "full", full)).unwrap();
        apply(&policy("AuthorizationPolicy", version, "empty", json!({}))).unwrap();
        let custom = json!({"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}],
            "targetRefs": [{"group": "", "kind": "Service", "name": "web"}]});
        apply(&policy("AuthorizationPolicy", version, "custom", custom)).unwrap();
        let mtls = json!({"selector": {"matchLabels": {"app": "cart"}}, "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"8080": {"mode": "DISABLE"}}});
        apply(&policy("PeerAuthentication", version, "some", mtls)).unwrap();
    }

    for (kind, spec, named) in [
        ("AuthorizationPolicy", json!({"action": "DENIE"}), "spec.action"),
        ("AuthorizationPolicy", json!({"rules": {}}), "spec.rules"),
        ("AuthorizationPolicy", json!({"rules": [{"to": [{"operation": {"ports": [80]}}]}]}), "ports"),
        ("AuthorizationPolicy", json!({"rules": [{"when": [{"values": ["a"]}]}]}), "when[0].key"),
        ("PeerAuthentication", json!({"mtls": {"mode": "STRICKT"}}), "spec.mtls.mode"),
        ("PeerAuthentication", json!({"mtls": "STRICT"}), "spec.mtls"),
    ] {
        let said = format!("{:#}", apply(&policy(kind, "v1", "wrong", spec)).unwrap_err());
        assert!(said.contains(named), "{named}: {said}");
    }

    // Dropped, it would leave a rule that lets everybody in; kept, the agent refuses the policy by its name.
    apply(&policy("AuthorizationPolicy", "v1", "typo", json!({"rules": [{"frm": []}]}))).unwrap();
    let kept = "--output=jsonpath={.spec.rules[0]}";
    assert_eq!(api.kubectl(&["get", "ap/typo", kept], "").unwrap(), r#"{"frm":[]}"#);

    let condition = json!({"type": "Accepted", "status": "False", "reason": "Refused", "message": "frm",
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let istio = json!({"observedGeneration": "1", "validationMessages": [], "conditions": [condition]});
    let status = json!({"status": istio}).to_string();
    let patch = ["patch", "ap/typo", "--subresource=status", "--type=merge", "--patch", &status];
    api.kubectl(&patch, "").unwrap();
    let listed = api.kubectl(&["get", "authorizationpolicies,pa"], "").unwrap();
    assert!(listed.contains("ACTION") && listed.contains("MODE"), "{listed}");
}
