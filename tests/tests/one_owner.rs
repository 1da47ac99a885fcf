//! A node's pins belong to one process at a time: a second agent and `pillion uninstall` are refused while one runs.

use std::fs;
use std::time::Duration;

use pillion_tests::{AgentOptions, Process, SameNode, apps, wait};

const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, namespace: default}, \
    spec: {mtls: {mode: STRICT}}}";

/// Longer than two audits.
const A_WHILE: Duration = Duration::from_secs(12);

/// In a network namespace that is new.
const UP: &str = "ip link set lo up && exec \"$@\"";

const CONNECTS: &str = "import socket, sys; socket.create_connection((sys.argv[1], 7), 3)";

/// A STRICT server, its client, and a pod outside the mesh.
struct Guarded {
    node: SameNode,
    outsider: pillion_tests::Pod,
}

impl Guarded {
    fn new(name: &str) -> Self {
        let node = SameNode::with(name, &AgentOptions::default(), &[STRICT]).unwrap();
        apps::echo(&node.server, 7).unwrap();
        let outsider = node.outsider("outsider").unwrap();
        let guarded = Self { node, outsider };
        guarded.assert_guarded();
        guarded
    }

    fn connects(&self, pod: &pillion_tests::Pod) -> bool {
        let to = self.node.server.ip4().to_string();
        apps::python(pod, CONNECTS, [to]).output().unwrap().status.success()
    }

    fn assert_guarded(&self) {
        assert!(self.connects(&self.node.client), "the client in the mesh is served");
        assert!(!self.connects(&self.outsider), "plaintext is refused");
    }

    fn repairs(&self) -> f64 {
        self.node.agent.metrics().unwrap().sum("pillion_audit_repairs_total", &[])
    }

    /// A directory that says it is of this node, as the agent's own does.
    fn other_state_dir(&self) -> String {
        let own = self.node.bed.dir().join("state").join(self.node.node().name());
        let other = self.node.bed.dir().join("state-other");
        fs::create_dir_all(&other).unwrap();
        fs::copy(own.join("agent.json"), other.join("agent.json")).unwrap();
        other.display().to_string()
    }
}

// proves: SEC-3
#[test]
fn a_second_agent_of_the_node_is_refused_and_changes_nothing() {
    let guarded = Guarded::new("second");
    let holder = format!("process {}, pillion", guarded.node.agent.pid());
    let empty = guarded.node.bed.dir().join("empty");
    fs::create_dir_all(&empty).unwrap();
    let options = AgentOptions::default()
        .arg("--state-dir")
        .arg(guarded.other_state_dir())
        .arg("--manifests")
        .arg(empty.display().to_string());
    // Elsewhere, where its ports are free and nothing else keeps it from starting.
    let second = guarded
        .node
        .node()
        .agent_command(&options)
        .unwrap()
        .under("unshare", &["--net", "sh", "-c", UP, "sh"]);
    let output = second.timeout(A_WHILE).output().expect("it ends by itself");
    assert!(!output.status.success(), "{}", output.stderr);
    for part in ["the pins in ", "are in use by ", &holder, "--node of its own"] {
        assert!(output.stderr.contains(part), "{part:?} is missing in: {}", output.stderr);
    }
    guarded.assert_guarded();
    guarded.node.agent.audit().unwrap();
    assert_eq!(guarded.repairs(), 0.0, "{}", guarded.node.agent.log());
}

// proves: SEC-3
#[test]
fn uninstall_is_refused_while_an_agent_of_the_node_runs() {
    let guarded = Guarded::new("uninstall-running");
    let pins = guarded.node.node().pins().unwrap();
    let uninstall = |state_dir: &str| {
        let program = pillion_tests::agent::binary().unwrap().display().to_string();
        let uninstall = guarded.node.node().command(&program).args(["uninstall", "--state-dir", state_dir]);
        uninstall.output().unwrap()
    };
    let state_dir = guarded.other_state_dir();
    let output = uninstall(&state_dir);
    assert!(!output.status.success(), "{}", output.stderr);
    assert!(output.stderr.contains("another agent runs under this node's name"), "{}", output.stderr);
    assert_eq!(guarded.node.node().pins().unwrap(), pins, "nothing is removed");
    guarded.assert_guarded();
    guarded.node.agent.audit().unwrap();
    assert_eq!(guarded.repairs(), 0.0, "{}", guarded.node.agent.log());

    guarded.node.agent.stop().unwrap();
    let output = uninstall(&state_dir);
    assert!(output.status.success(), "{}", output.stderr);
    assert!(guarded.node.node().pins().unwrap().is_empty());
}

// proves: SEC-3
#[test]
fn a_pod_that_agents_of_two_nodes_claim_stays_closed_to_plaintext() {
    let guarded = Guarded::new("two-nodes");
    let (node, server) = (&guarded.node, &guarded.node.server);
    // The same pods, said to be another node's.
    let manifests = node.bed.dir().join("other-manifests");
    fs::create_dir_all(&manifests).unwrap();
    for pod in [&node.client, server] {
        let object = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: default, uid: other-{name}, \
             labels: {{pillion.dev/capture: enabled}}, annotations: {{pillion.dev/netns: {netns}}}}}, \
             spec: {{nodeName: n2, serviceAccountName: {name}}}, status: {{phase: Running, podIPs: [{{ip: {ip}}}]}}}}",
            name = pod.name(),
            netns = pod.netns().display(),
            ip = pod.ip4(),
        );
        fs::write(manifests.join(format!("{}.yaml", pod.name())), object).unwrap();
    }
    fs::write(manifests.join("strict.yaml"), STRICT).unwrap();
    let options = AgentOptions::default()
        .arg("--cgroup-root")
        .arg(node.node().cgroup().display().to_string())
        .arg("--manifests")
        .arg(manifests.display().to_string());
    let second: Process = node.bed.node("n2").unwrap().agent_command(&options).unwrap().start().unwrap();
    second.wait_log("not captured, its connections are refused", Duration::from_secs(30)).unwrap();
    let begun = std::time::Instant::now();
    wait::until("two audits of both", A_WHILE * 2, || {
        assert!(!guarded.connects(&guarded.outsider), "plaintext is refused");
        Ok((begun.elapsed() > A_WHILE).then_some(()))
    })
    .unwrap();
}
