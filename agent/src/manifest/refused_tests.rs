use super::*;
use crate::manifest::Object;

/// Policies that are wrong: kind, spec, the field that is wrong, and a part of what is said. The chart's tests hold what the API
/// server refuses against the same table.
const TABLE: &str = include_str!("refused_policies.json");

// proves: POL-1, SEC-2
#[test]
fn what_cannot_mean_anything_is_refused_with_the_field() {
    let cases: Vec<Value> = serde_json::from_str(TABLE).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let object = serde_json::json!({"apiVersion": "security.istio.io/v1", "kind": case["kind"],
            "metadata": {"name": "p", "namespace": "shop"}, "spec": case["spec"]});
        let refused = match Object::read(&object) {
            Ok(Some(Object::RefusedPolicy(refused))) => refused,
            other => panic!("{case}: {other:?}"),
        };
        assert_eq!(refused.field, case["field"].as_str().unwrap(), "{case}: {}", refused.message);
        assert!(refused.message.contains(case["message"].as_str().unwrap()), "{case}: {}", refused.message);
    }
}
