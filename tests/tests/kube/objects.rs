//! What is written to the API server is in the mesh.

use crate::{Standing, write};
use serde_json::json;

#[test]
fn objects_that_are_made_changed_and_deleted_show_up() {
    let Standing { api, agent, _bed } = Standing::new("objects", &[]).unwrap();
    write::pod(&api, "web", "10.1.0.2", &json!({"app": "web"})).unwrap();
    let known =
        agent.wait_config("the pod", |dump| write::workload(dump, "web")["addresses"] == json!(["10.1.0.2"]));
    assert_eq!(write::workload(&known.unwrap(), "web")["captured"], false);

    let namespace = |labels| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default", "labels": labels}});
    api.apply("/api/v1/namespaces/default", &namespace(json!({"pillion.dev/capture": "enabled"}))).unwrap();
    agent
        .wait_config("the namespace's label", |dump| write::workload(dump, "web")["captured"] == true)
        .unwrap();

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    api.apply("/api/v1/namespaces/default/services/web", &service).unwrap();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.1.0.2"]}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1";
    api.apply(slices, &slice).unwrap();
    let endpoint = |dump: &serde_json::Value| {
        let mut services = dump["services"].as_array().into_iter().flatten();
        let service = services.find(|service| service["name"] == "web")?;
        let address = service["slices"][0][0]["address"].as_str()?;
        Some(format!("{address}:{}", service["ports"][0]["backends"][0]["port"]))
    };
    agent.wait_config("the endpoint", |dump| endpoint(dump).as_deref() == Some("10.1.0.2:8080")).unwrap();

    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}}});
    api.apply("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/web", &policy).unwrap();
    agent
        .wait_config("the network policy", |dump| write::workload(dump, "web")["network_policy"] == "web")
        .unwrap();

    api.delete(slices).unwrap();
    agent.wait_config("no endpoint", |dump| endpoint(dump).is_none()).unwrap();
    // Finished pods are not even sent.
    write::status(&api, "web", "Succeeded", "10.1.0.2").unwrap();
    agent.wait_config("no pod", |dump| write::pods(dump).is_empty()).unwrap();
}

// proves: SEC-2
#[test]
fn a_pod_that_is_wrong_is_wrong_alone() {
    let Standing { api, agent, _bed } = Standing::new("wrong", &[]).unwrap();
    write::pod(&api, "bad", "10.1.0.2", &json!({"pillion.dev/capture": "maybe"})).unwrap();
    write::pod(&api, "good", "10.1.0.3", &json!({"pillion.dev/capture": "enabled"})).unwrap();
    let dump = agent.wait_config("both pods", |dump| write::pods(dump) == ["bad", "good"]).unwrap();
    assert_eq!(write::workload(&dump, "bad")["captured"], true);
    let error = agent.wait_config("the error", |dump| dump["manifests"]["errors"][0].is_object()).unwrap();
    assert_eq!(error["manifests"]["errors"][0]["object"], "Pod default/bad");
    assert_eq!(error["manifests"]["errors"][0]["field"], "metadata.labels");
}

#[test]
fn an_api_server_that_gives_lists_in_pages_only_is_heard_the_same() {
    let old = ["--feature-gates=WatchList=false"];
    let Standing { api, agent, _bed } = Standing::new("pages", &old).unwrap();
    write::pod(&api, "web", "10.1.0.2", &json!({})).unwrap();
    agent.wait_config("the pod", |dump| write::pods(dump) == ["web"]).unwrap();
    agent.restart().unwrap();
    assert_eq!(write::pods(&agent.config_dump().unwrap()), ["web"]);
}

// proves: SEC-2, OPS-3
#[test]
fn an_object_that_is_nested_deep_is_in_nobodys_way() {
    let Standing { api, agent, _bed } = Standing::new("deep", &[]).unwrap();
    api.add_policy_kinds().unwrap();
    let deep = |name: &str| (0..200).fold(json!({}), |inner, _| json!({ name: inner }));
    // Whoever makes an object may say what its fields' owners are.
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "deep", "managedFields": [{"manager": "somebody", "operation": "Update",
            "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": deep("f:a")}]},
        "spec": {"nodeName": "far", "containers": [{"name": "app", "image": "app"}]}});
    let create = ["create", "--filename=-", "--raw=/api/v1/namespaces/default/pods"];
    let made = api.kubectl(&create, &pod.to_string()).unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&made).is_err(), "the API server keeps it: {made}");
    let policy = |name: &str, spec: serde_json::Value| {
        write::policy(&api, "PeerAuthentication", "peerauthentications", name, &spec).unwrap();
    };
    policy("junk", json!({"selector": {"matchLabels": {"app": "junk"}}, "junk": deep("a")}));
    policy("all", json!({"mtls": {"mode": "STRICT"}}));
    for (name, ip) in [("web", "10.1.0.2"), ("junk", "10.1.0.3")] {
        write::pod(&api, name, ip, &json!({"app": name})).unwrap();
    }
    let is_right = |dump: &serde_json::Value| {
        let strict = ["web", "junk"].map(|pod| write::workload(dump, pod)["mtls"]["default"] == "STRICT");
        write::pods(dump) == ["deep", "junk", "web"]
            && strict == [true; 2]
            && dump["manifests"]["refused"][0]["name"] == "junk"
    };
    let dump = agent.wait_config("all that comes after", is_right).unwrap();
    assert_eq!(dump["manifests"]["refused"][0]["field"], "spec.junk.a", "{:#}", dump["manifests"]["refused"]);
    assert_eq!(dump["manifests"]["refused"][0]["in_force"], "stand_in");
    // An agent that begins with them, too.
    agent.restart().unwrap();
    agent.wait_config("all of it again", is_right).unwrap();
}
