//! How the kubelet asks an agent, and how agents are replaced.

use crate::chart;

/// What the chart makes of the agent's DaemonSet, without what follows it.
fn agent(values: &[&str]) -> String {
    let objects = chart().unwrap().template(values).unwrap();
    let is_agent = |object: &&str| object.contains("kind: DaemonSet");
    objects.split("\n---\n").find(is_agent).expect("a DaemonSet").to_owned()
}

// proves: OPS-3
#[test]
fn each_process_answers_its_own_probes_by_a_socket_of_its_own() {
    let agent = agent(&[]);
    const SOCKET: &str = "--socket=/run/health/agent.sock";
    for (probe, what) in [("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")] {
        let asked =
            format!("{probe}:\n            exec: {{command: [/usr/bin/pillion, health, {what}, {SOCKET}]}}");
        assert!(agent.contains(&asked), "{probe}: {agent}");
    }
    assert!(!agent.contains("httpGet"), "the node's ports are shared by the old and the new agent: {agent}");
    assert!(agent.contains("--health-socket=/run/health/agent.sock"), "{agent}");
    let mount = "- name: health\n              mountPath: /run/health\n";
    let volume = "- name: health\n          emptyDir: {medium: Memory, sizeLimit: 1Mi}\n";
    assert!(agent.contains(mount) && agent.contains(volume), "the directory is the pod's own: {agent}");
}

// proves: OPS-3
#[test]
fn agents_are_replaced_one_after_the_other_and_know_their_version() {
    let agent = |values: &[&str]| agent(values);
    let by_default = agent(&[]);
    for part in ["maxSurge: 1\n", "maxUnavailable: 0\n", "- --standby\n"] {
        assert!(by_default.contains(part), "{part:?} is missing in {by_default}");
    }
    assert!(!by_default.contains("minReadySeconds:"), "an update may stand still for ever: {by_default}");
    let revision = "- name: PILLION_REVISION\n              valueFrom:\n                fieldRef:\n                  \
                    fieldPath: metadata.labels['controller-revision-hash']\n";
    assert!(by_default.contains(revision), "{by_default}");
    let alone = agent(&["agent.updateStrategy.stopsAtFailure=false"]);
    assert!(!alone.contains("PILLION_REVISION"), "{alone}");
}
