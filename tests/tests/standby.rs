//! An agent that stands by has checked what it can before the other one ends, and answers its probes itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use pillion_tests::{AgentOptions, Bed, Node, Output, Process, SameNode, apps, requirements, wait};

const WITHIN: Duration = Duration::from_secs(30);
const CONNECTS: &str = "import socket, sys; socket.create_connection((sys.argv[1], 7), 3)";

/// What `pillion health` says of the process with this socket.
fn health(node: &Node, probe: &str, socket: &Path) -> Result<Output> {
    let program = pillion_tests::agent::binary()?.display().to_string();
    node.command(&program).args(["health", probe, "--socket"]).arg(socket).output()
}

/// Waits until the process is ready, or is not; gives what it says.
fn wait_health(node: &Node, process: &Process, socket: &Path, is_ready: bool, says: &str) -> String {
    let mut last = String::new();
    let waited = process.wait_for(&format!("its health to say {says:?}"), WITHIN, || {
        let output = health(node, "ready", socket)?;
        last = format!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr);
        Ok((output.status.success() == is_ready && last.contains(says)).then(|| last.clone()))
    });
    waited.unwrap_or_else(|error| panic!("{error:#}, but {last:?}"))
}

fn socket(bed: &Bed, name: &str) -> PathBuf {
    bed.dir().join(format!("{name}.sock"))
}

/// Starts another agent of the node, which stands by.
fn stand_by(node: &Node, options: AgentOptions, socket: &Path) -> Process {
    let options = options.arg("--standby").arg("--health-socket").arg(socket.display().to_string());
    node.agent_command(&options).unwrap().log("standby").start().unwrap()
}

fn served(node: &SameNode) -> bool {
    let to = node.server.ip4().to_string();
    apps::python(&node.client, CONNECTS, [to]).output().unwrap().status.success()
}

// proves: LIF-2, SEC-3
#[test]
fn a_standby_agent_that_would_fail_ends_while_the_other_one_serves() {
    let node = SameNode::new("standby-fails").unwrap();
    apps::echo(&node.server, 7).unwrap();
    for (flags, says) in [
        (&["--hbone-congestion", "warp"][..], "--hbone-congestion warp"),
        (&["--cgroup-root", "/tmp"], "/tmp is no cgroup2 directory"),
        (&["--manifests", "/nowhere"], "--manifests"),
        (&["--metrics-addr", "192.0.2.1:15020"], "this machine has no such address"),
    ] {
        let options = flags.iter().fold(AgentOptions::default(), |options, flag| options.arg(*flag));
        let command = node.node().agent_command(&options.arg("--standby")).unwrap();
        let output = command.timeout(WITHIN).output().expect("it ends by itself");
        assert!(!output.status.success(), "{flags:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{flags:?}: {}", output.stderr);
        assert!(served(&node), "the other agent goes on");
    }
    let command = node.node().agent_command(&AgentOptions::default().arg("--standby")).unwrap();
    let output =
        command.under("setpriv", &["--bounding-set=-bpf", "--inh-caps=-bpf"]).timeout(WITHIN).output();
    let said = output.expect("it ends by itself").stderr;
    assert!(said.contains("the agent lacks CAP_BPF"), "{said}");
    assert!(served(&node));
}

// proves: LIF-2, OPS-3
#[test]
fn a_standby_agent_is_not_ready_by_the_other_ones_answer() {
    let node = SameNode::new("standby-api").unwrap();
    let kubeconfig = node.bed.dir().join("nobody.conf");
    let nobody = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
        clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {}}]}";
    fs::write(&kubeconfig, nobody).unwrap();
    let socket = socket(&node.bed, "new");
    let new = stand_by(node.node(), AgentOptions::default().kube(&kubeconfig), &socket);
    wait_health(node.node(), &new, &socket, false, "waiting for objects that are whole");
    assert!(health(node.node(), "live", &socket).unwrap().status.success());
    node.agent.wait_ready().unwrap();
    assert_eq!(new.exited(), None, "an API server that is away is no reason to end");
    assert!(new.stop(WITHIN).unwrap().success());
    assert_eq!(health(node.node(), "live", &socket).unwrap().status.code(), Some(2), "nobody answers");
}

// proves: LIF-2, OPS-3
#[test]
fn an_agent_that_is_not_ready_is_replaced_by_one_that_is() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("standby-unready").unwrap();
    let node = bed.node("n1").unwrap();
    let (client, server) =
        (node.pod("client").captured().create().unwrap(), node.pod("server").captured().create().unwrap());
    apps::echo(&server, 7).unwrap();
    let runtime = bed.dir().join("no-runtime.sock").display().to_string();
    let old_socket = socket(&bed, "old");
    let options = AgentOptions::default()
        .arg("--cri-socket")
        .arg(&runtime)
        .arg("--health-socket")
        .arg(old_socket.display().to_string());
    let old = node.start_agent_that_waits(&options, "no-runtime.sock").unwrap();
    wait_health(&node, &old.process(), &old_socket, false, "no-runtime.sock");

    let new_socket = socket(&bed, "new");
    let new = stand_by(&node, AgentOptions::default(), &new_socket);
    wait_health(&node, &new, &new_socket, true, "ready to take over");
    wait_health(&node, &old.process(), &old_socket, false, "no-runtime.sock");
    old.stop().unwrap();
    let said = wait_health(&node, &new, &new_socket, true, "ready\nas of ");
    assert!(said.contains(" s ago"), "{said}");
    let to = server.ip4().to_string();
    let connects = || apps::python(&client, CONNECTS, [&to]).output();
    wait::until("the pod to be served", WITHIN, || Ok(connects()?.status.success().then_some(()))).unwrap();
}

// proves: SEC-3
#[test]
fn a_state_directory_that_takes_nothing_keeps_no_agent_from_serving() {
    let bed = Bed::new("full").unwrap();
    let node = bed.node("n1").unwrap();
    let (client, server) =
        (node.pod("client").captured().create().unwrap(), node.pod("server").captured().create().unwrap());
    apps::echo(&server, 7).unwrap();
    // Its only inode is the directory's own. The mount is in a namespace that ends with the agent.
    let state = bed.dir().join("state").join(node.name()).display().to_string();
    let mounts = format!("mount -t tmpfs -o nr_inodes=1 none {state} && exec \"$@\"");
    let command = node.agent_command(&AgentOptions::default()).unwrap();
    let agent = command.under("unshare", &["--mount", "sh", "-c", &mounts, "sh"]).start().unwrap();
    let to = server.ip4().to_string();
    agent
        .wait_for("the pod to be served", WITHIN, || {
            Ok(apps::python(&client, CONNECTS, [&to]).output()?.status.success().then_some(()))
        })
        .unwrap();
    let ready = || node.command("curl").args(["-sf", "127.0.0.1:15021/healthz/ready"]).run();
    agent.wait_for("the agent to be ready", WITHIN, || Ok(ready().ok())).unwrap();
    for part in
        ["cannot be locked, and the agent goes on", "agent.json cannot be written, and the agent goes on"]
    {
        assert!(agent.log().contains(part), "{part:?} is missing in: {}", agent.log());
    }
    assert!(agent.stop(WITHIN).unwrap().success());
}
