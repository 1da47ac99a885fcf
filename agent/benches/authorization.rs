//! What policies cost: a connection that is judged, and a mesh that is built.
//!
//! `cargo bench -p pillion-agent --bench authorization`

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pillion_agent::decide::{Connection, authorize, plaintext};
use pillion_agent::manifest::{Settings, Sourced, parse, snapshot};
use pillion_agent::mesh::{Mesh, PodName, SpiffeId, TrustDomains};
use std::fmt::Write;
use std::hint::black_box;

const PODS: usize = 1_000;

/// Pods, so many policies for the first of them, of which the last one names the client, and so many for pods that are
/// not there.
fn objects(policies: usize, others: usize) -> Vec<Sourced> {
    let mut text = String::new();
    for pod in 0..PODS {
        let (a, b) = (pod / 250, pod % 250 + 1);
        writeln!(
            text,
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: pod-{pod}, labels: {{app: app-{pod}, pillion.dev/capture: enabled}}}}, \
             spec: {{nodeName: n1}}, status: {{podIP: 10.0.{a}.{b}}}}}"
        )
        .unwrap();
    }
    let mut policy = |app: &str, number: usize, account: &str| {
        writeln!(
            text,
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {app}-{number}}}, \
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{}]}}}}",
            rule(account)
        )
        .unwrap();
    };
    let last = policies.saturating_sub(1);
    (0..last).for_each(|number| policy("app-0", 1_000 + number, "nobody"));
    (last..policies).for_each(|_| policy("app-0", 9_999, "client"));
    (0..others).for_each(|number| policy(&format!("other-{number}"), 0, "client"));
    parse("bench.yaml", text.as_bytes()).expect("the bench's own objects")
}

fn mesh(objects: &[Sourced]) -> Mesh {
    let settings = Settings {
        node: "n1".into(),
        trust_domains: TrustDomains::default(),
        root_namespace: "istio-system".into(),
        last_good: None,
    };
    snapshot::build(objects, &settings, &Mesh::default()).expect("the bench's own objects")
}

fn pod(name: &str) -> PodName {
    PodName { namespace: "default".into(), name: name.into() }
}

/// Names the account last, so that all that comes before has to be looked at.
fn rule(account: &str) -> String {
    let principals: Vec<String> =
        (0..100).map(|number| format!("cluster.local/ns/shop/sa/account-{number}")).collect();
    let blocks: Vec<String> = (0..100).map(|number| format!("192.0.{number}.0/24")).collect();
    format!(
        "{{from: [{{source: {{ipBlocks: [{}]}}}}, {{source: {{principals: [{}, cluster.local/ns/default/sa/{account}]}}}}], \
         to: [{{operation: {{ports: ['80', '443', '8080']}}}}]}}",
        blocks.join(", "),
        principals.join(", ")
    )
}

/// A connection to a pod, by how many policies concern it and how many others there are.
fn judge(c: &mut Criterion) {
    let client: SpiffeId = "spiffe://cluster.local/ns/default/sa/client".parse().expect("a SPIFFE id");
    let mut group = c.benchmark_group("judge one connection");
    for (concern, others) in [(0, 0), (0, 10_000), (1, 0), (1, 10_000), (10, 0), (100, 0)] {
        let mesh = mesh(&objects(concern, others));
        let target = &mesh.workloads[&pod("pod-0")];
        let destination = "10.0.0.1:8080".parse().expect("an address");
        let connection = Connection { source: [10, 0, 3, 3].into(), identity: Some(&client), destination };
        let id = BenchmarkId::from_parameter(format!("{concern} policies of the pod, {others} of others"));
        group.bench_function(id, |b| {
            b.iter(|| black_box(authorize(&target.authorization, black_box(&connection)).is_allowed()));
        });
    }
    group.finish();
}

/// A mesh of 1,000 pods that is built from objects which are read already, as at each change.
fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build a mesh of 1,000 pods");
    group.sample_size(10);
    for (concern, others) in [(0, 0), (1, 1_000), (1, 10_000)] {
        let objects = objects(concern, others);
        let id = BenchmarkId::from_parameter(format!("{} policies", concern + others));
        group.bench_function(id, |b| b.iter(|| black_box(mesh(&objects))));
    }
    group.finish();
}

/// What the kernel is told of plaintext to one pod.
fn plain(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules of plaintext to one pod");
    for concern in [0, 1, 10] {
        let mesh = mesh(&objects(concern, 0));
        let target = &mesh.workloads[&pod("pod-0")];
        let id = BenchmarkId::from_parameter(format!("{concern} policies of 100 networks"));
        group.bench_function(id, |b| b.iter(|| black_box(plaintext(target))));
    }
    group.finish();
}

criterion_group!(benches, judge, build, plain);
criterion_main!(benches);
