//! What a large cluster costs a node: objects as an API server sends them, through all that becomes of them.
//!
//! `cargo bench -p pillion-agent --bench scale -- 1000 20000 150000`; each size is a process of its own, so that memory is
//! that size's alone.

use nix::time::{ClockId, clock_gettime};
use pillion_agent::cluster::{Heard, Item, RESOURCES, Store};
use pillion_agent::manifest::{CompiledServices, Settings, snapshot};
use pillion_agent::mesh::{Mesh, TrustDomains};
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::process::{Command, exit};
use std::time::Duration;

/// Pods of a Deployment, which has a Service, an EndpointSlice and an AuthorizationPolicy.
const PODS_OF_APP: usize = 10;
const PODS_OF_NAMESPACE: usize = 200;
const PODS_OF_NODE: usize = 30;

/// Changes that the time of one is taken of.
const CHANGES: usize = 5;

fn main() {
    let sizes: Vec<usize> = env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if let Ok(size) = env::var("PILLION_SCALE") {
        return simulate(size.parse().expect("a number of pods"));
    }
    println!(
        "|    pods | other objects | sent, MiB | read, s | objects, MiB | + mesh, MiB | first mesh, ms | a pod, ms | a policy, ms |"
    );
    println!(
        "|--------:|--------------:|----------:|--------:|-------------:|------------:|---------------:|----------:|-------------:|"
    );
    for size in if sizes.is_empty() { vec![1_000, 20_000] } else { sizes } {
        let program = env::current_exe().expect("this program");
        let status = Command::new(program).env("PILLION_SCALE", size.to_string()).status();
        if !status.is_ok_and(|status| status.success()) {
            exit(1);
        }
    }
}

fn simulate(pods: usize) {
    let settings = Settings {
        node: "node-0".into(),
        trust_domains: TrustDomains::new("cluster.local".parse().expect("a trust domain"), []),
        root_namespace: "istio-system".into(),
        last_good: None,
    };
    let base = resident();
    let mut store = Store::default();
    let (mut sent, mut others, mut reading) = (0, 0, Duration::ZERO);
    for (index, resource) in RESOURCES.iter().enumerate() {
        let mut items = Vec::new();
        for object in objects(resource.kind, pods) {
            let text = object.to_string();
            drop(object);
            sent += text.len();
            others += usize::from(resource.kind != "Pod");
            let begun = cpu();
            let value = serde_json::from_str(&text).expect("it was written as JSON");
            items.push(Item::read(resource, value, &[]).expect("every object has a name"));
            reading += cpu() - begun;
        }
        store.replace(index, items);
    }
    assert!(store.is_whole() && store.errors().is_empty());
    let objects_take = resident() - base;
    let (mut mesh, first) = build(&store, &settings, &Mesh::default());
    assert_eq!((mesh.workloads.len(), mesh.services.len()), (pods, pods / PODS_OF_APP));
    let with_mesh = resident() - base;
    let mut change = |index: usize, object: &dyn Fn(usize) -> Value| {
        let mut took = Duration::ZERO;
        for number in 1..=CHANGES {
            let item = Item::read(&RESOURCES[index], object(number), &[]).expect("it has a name");
            assert!(store.put(index, item));
            let (next, one) = build(&store, &settings, &mesh);
            (mesh, took) = (next, took + one);
        }
        took / u32::try_from(CHANGES).expect("a few")
    };
    let a_pod = change(0, &|number| pod(number, &format!("10.250.0.{number}")));
    let a_policy = change(6, &|number| policy(0, &number.to_string()));
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "| {pods:7} | {others:13} | {:9.1} | {:7.2} | {:12.1} | {:11.1} | {:14.1} | {:9.1} | {:12.1} |",
        mib(sent),
        reading.as_secs_f64(),
        mib(objects_take),
        mib(with_mesh - objects_take),
        ms(first),
        ms(a_pod),
        ms(a_policy),
    );
}

fn build(store: &Store, settings: &Settings, before: &Mesh) -> (Mesh, Duration) {
    let begun = cpu();
    let (mesh, errors) =
        snapshot::build_apart(store.objects(), settings, before, &mut CompiledServices::default());
    assert!(errors.is_empty(), "{}", errors[0]);
    (mesh, cpu() - begun)
}

/// CPU time of this process: what others do on the machine is not counted.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has it").into()
}

/// Resident memory in bytes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("proc is mounted");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4096
}

fn objects(kind: &str, pods: usize) -> Box<dyn Iterator<Item = Value>> {
    let apps = 0..pods / PODS_OF_APP;
    match kind {
        "Pod" => Box::new((0..pods).map(|number| pod(number, &address(number)))),
        "Namespace" => Box::new((0..pods.div_ceil(PODS_OF_NAMESPACE)).map(namespace)),
        "Service" => Box::new(apps.map(service)),
        "EndpointSlice" => Box::new(apps.map(slice)),
        "AuthorizationPolicy" => Box::new(apps.map(|app| policy(app, "client"))),
        "PeerAuthentication" => Box::new(std::iter::once(json!({
            "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": "STRICT"}}}))),
        _ => Box::new(std::iter::empty()),
    }
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", pod / 62_500, pod / 250 % 250, pod % 250 + 1)
}

fn namespace_of(pod: usize) -> String {
    format!("team-{}", pod / PODS_OF_NAMESPACE)
}

fn app(number: usize) -> String {
    format!("app-{number}")
}

/// What the API server says of every object, too: who has written which field, of which a third of a pod consists.
fn metadata(name: &str, namespace: &str, more: &Value) -> Value {
    let fields =
        |names: &[&str]| names.iter().map(|name| (format!("f:{name}"), json!({}))).collect::<Value>();
    let of_spec = [
        "containers",
        "dnsPolicy",
        "enableServiceLinks",
        "restartPolicy",
        "schedulerName",
        "securityContext",
        "serviceAccountName",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    ];
    let mut metadata = json!({
        "name": name, "namespace": namespace, "uid": "0b7f2c46-7f0c-4d9e-9a55-5b6b8e3c1d2f",
        "resourceVersion": "123456789", "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [
            {"apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kube-controller-manager", "operation": "Update",
             "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:metadata": fields(&["labels", "generateName", "ownerReferences"]),
             "f:spec": fields(&of_spec)}},
            {"apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kubelet", "operation": "Update", "subresource": "status",
             "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:status": fields(&["conditions", "containerStatuses", "hostIP",
             "hostIPs", "phase", "podIP", "podIPs", "startTime"])}}],
    });
    metadata.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
    metadata
}

fn pod(number: usize, ip: &str) -> Value {
    let (app, node) = (app(number / PODS_OF_APP), format!("node-{}", number / PODS_OF_NODE));
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10,
        "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3});
    let image = format!("registry.example.com/team/{app}@sha256:{}", "0123456789abcdef".repeat(4));
    let environment: Vec<Value> = (0..12)
        .map(|i| json!({"name": format!("SETTING_{i}"), "value": format!("value of setting {i}")}))
        .collect();
    let conditions: Vec<Value> = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-02T03:04:05Z"}))
        .into();
    json!({
        "metadata": metadata(&format!("{app}-7d9c6b5f4-{number:05}"), &namespace_of(number), &json!({
            "generateName": format!("{app}-7d9c6b5f4-"),
            "labels": {"app": app, "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "helm",
                "pod-template-hash": "7d9c6b5f4", "version": "v1"},
            "annotations": {"checksum/config": "0123456789abcdef".repeat(4), "prometheus.io/scrape": "true"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d9c6b5f4"),
                "uid": "0b7f2c46-7f0c-4d9e-9a55-5b6b8e3c1d2f", "controller": true, "blockOwnerDeletion": true}],
        })),
        "spec": {
            "nodeName": node, "serviceAccountName": app, "serviceAccount": app, "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always", "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true,
            "terminationGracePeriodSeconds": 30, "securityContext": {"runAsNonRoot": true, "fsGroup": 1000},
            "containers": [{"name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "env": environment,
                "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                "livenessProbe": probe, "readinessProbe": probe,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "volumeMounts": [{"name": "kube-api-access-abcde", "readOnly": true,
                    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "kube-api-access-abcde", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.168.0.1",
            "hostIPs": [{"ip": "192.168.0.1"}], "qosClass": "Burstable", "startTime": "2026-01-02T03:04:05Z",
            "conditions": conditions,
            "containerStatuses": [{"name": "app", "image": image, "imageID": image, "ready": true, "started": true,
                "restartCount": 0, "containerID": format!("containerd://{}", "0123456789abcdef".repeat(4)),
                "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}, "lastState": {}}]},
    })
}

fn namespace(number: usize) -> Value {
    let labels = json!({"labels": {"kubernetes.io/metadata.name": format!("team-{number}"), "pillion.dev/capture": "enabled"}});
    let mut object = json!({"metadata": metadata(&format!("team-{number}"), "", &labels)});
    object["metadata"].as_object_mut().expect("it is one").remove("namespace");
    object
}

fn service(number: usize) -> Value {
    let (name, ip) =
        (app(number), format!("10.{}.{}.{}", 200 + number / 62_500, number / 250 % 250, number % 250 + 1));
    json!({
        "metadata": metadata(&name, &namespace_of(number * PODS_OF_APP), &json!({"labels": {"app": name}})),
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None"},
        "status": {"loadBalancer": {}},
    })
}

fn slice(number: usize) -> Value {
    let endpoint = |pod: usize| {
        json!({"addresses": [address(pod)], "nodeName": format!("node-{}", pod / PODS_OF_NODE),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": format!("{}-7d9c6b5f4-{pod:05}", app(number)), "namespace": namespace_of(pod),
                "uid": "0b7f2c46-7f0c-4d9e-9a55-5b6b8e3c1d2f"}, "zone": "zone-a"})
    };
    let first = number * PODS_OF_APP;
    json!({
        "metadata": metadata(&format!("{}-abcde", app(number)), &namespace_of(first), &json!({"labels": {
            "kubernetes.io/service-name": app(number), "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}})),
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (first..first + PODS_OF_APP).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Lets one account in, of the same namespace.
fn policy(number: usize, account: &str) -> Value {
    let namespace = namespace_of(number * PODS_OF_APP);
    json!({
        "metadata": metadata(&app(number), &namespace, &json!({})),
        "spec": {"selector": {"matchLabels": {"app": app(number)}}, "action": "ALLOW", "rules": [{"from": [{"source":
            {"principals": [format!("cluster.local/ns/{namespace}/sa/{account}")]}}]}]},
    })
}
