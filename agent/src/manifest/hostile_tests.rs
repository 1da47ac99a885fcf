//! Objects of every kind, with anything in the place of anything.

use super::{Settings, parse, snapshot};
use crate::mesh::Mesh;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// One object of each kind, with every field that is read.
fn objects() -> Value {
    let metadata = |name: &str| {
        json!({"name": name, "namespace": "shop", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "cart", "pillion.dev/capture": "enabled", "kubernetes.io/service-name": "cart"},
            "annotations": {"pillion.dev/netns": "/run/netns/cart", "pillion.dev/direct": "disabled",
                "pillion.dev/on-agent-loss": "open", "pillion.dev/exclude-outbound-cidrs": "10.0.0.0/8"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-1", "controller": true}]})
    };
    let action = json!({"port": "http", "host": ""});
    let probe = json!({"httpGet": action, "tcpSocket": {"port": 80}, "grpc": {"port": 81}});
    let container = json!({"ports": [{"name": "http", "containerPort": 8080}], "livenessProbe": probe,
        "lifecycle": {"preStop": {"httpGet": action}}});
    let mtls = json!({"mode": "STRICT"});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata("shop")},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata("cart"),
            "spec": {"nodeName": "n1", "serviceAccountName": "cart", "hostNetwork": false, "containers": [container],
                "initContainers": [container]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata("cart"),
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
                "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameNode"}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata("cart"),
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}}]},
        {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": metadata("cart"),
            "spec": {"selector": {"matchLabels": {"app": "cart"}}, "mtls": mtls, "portLevelMtls": {"8080": mtls}}},
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata("cart"),
            "spec": {"selector": {"matchLabels": {"app": "cart"}}, "action": "ALLOW", "rules": [{
                "from": [{"source": {"principals": ["*"], "notIpBlocks": ["10.0.0.0/8"]}}],
                "to": [{"operation": {"ports": ["80"], "notPaths": ["/a*"]}}],
                "when": [{"key": "source.serviceAccount", "values": ["shop/web"], "notValues": []}]}]}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata("cart"),
            "spec": {"podSelector": {"matchLabels": {"app": "cart"},
                "matchExpressions": [{"key": "app", "operator": "In", "values": ["cart"]}]}}},
    ]})
}

/// What nobody expects where it stands.
fn strangers() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(65536),
        json!(1e300),
        json!(""),
        json!("*"),
        json!("STRICT"),
        json!("../../etc"),
        json!("0001-01-01T00:00:00-23:59"),
        json!("a".repeat(10_000)),
        json!("\u{0}ä\u{202e}"),
        json!([]),
        json!([[], {}, null]),
        json!({}),
        json!({"0": {"mode": "UNSET"}, "65536": null, "x": []}),
    ]
}

/// Every value within a value that has none within itself.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    let is_leaf = |value: &Value| match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    };
    if is_leaf(value) {
        return vec![value];
    }
    match value {
        Value::Array(items) => items.iter_mut().flat_map(leaves).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(leaves).collect(),
        _ => Vec::new(),
    }
}

/// Changes something somewhere below: another value, a field less, a field more.
fn mutate(value: &mut Value, random: &mut StdRng, strangers: &[Value]) {
    let stranger = strangers[random.random_range(0..strangers.len())].clone();
    match value {
        Value::Object(fields) if !fields.is_empty() && random.random_ratio(9, 10) => {
            let name = fields.keys().nth(random.random_range(0..fields.len())).cloned().unwrap_or_default();
            match random.random_range(0..8) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(format!("{name}s"), stranger)),
                _ => mutate(&mut fields[&name], random, strangers),
            }
        }
        Value::Array(items) if !items.is_empty() && random.random_ratio(9, 10) => {
            let index = random.random_range(0..items.len());
            match random.random_range(0..8) {
                0 => items.push(items[index].clone()),
                _ => mutate(&mut items[index], random, strangers),
            }
        }
        place => *place = stranger,
    }
}

/// The mesh, unless something is wrong, of which it is said where.
fn read(objects: &Value) -> Option<Mesh> {
    let text = objects.to_string();
    let read = parse("x.json", text.as_bytes())
        .and_then(|objects| snapshot::build(&objects, &Settings::default(), &Mesh::default()));
    let errors = match read {
        Ok(mesh) => return Some(mesh),
        Err(errors) => errors,
    };
    assert!(!errors.is_empty());
    for error in &errors {
        assert_eq!((&*error.origin.to_string(), error.document), ("x.json", Some(1)), "{error}");
    }
    None
}

// proves: SEC-2
#[test]
fn mutated_objects_are_read_or_named() {
    let mesh = read(&objects()).unwrap();
    assert_eq!((mesh.workloads.len(), mesh.services.len()), (1, 1));
    let strangers = strangers();

    // A stranger in every single place.
    for leaf in 0..leaves(&mut objects()).len() {
        for stranger in &strangers {
            let mut objects = objects();
            *leaves(&mut objects)[leaf] = stranger.clone();
            read(&objects);
        }
    }

    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..3_000 {
        let mut objects = objects();
        for _ in 0..random.random_range(1..6) {
            mutate(&mut objects, &mut random, &strangers);
        }
        read(&objects);
    }
}
