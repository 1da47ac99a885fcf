//! What is wrong is said in one sentence, with what, where and how to mend it: never a panic, never a start that
//! pretends. (An old kernel and one without BTF are told by unit tests of the agent: there is none here.)

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pillion_tests::{AgentOptions, Bed, Node, apps, requirements};

const SECONDS_20: Duration = Duration::from_secs(20);

fn bed(name: &str) -> (Bed, Node) {
    requirements::ensure(requirements::BED).unwrap();
    let bed = Bed::new(name).unwrap();
    let node = bed.node("n1").unwrap();
    (bed, node)
}

/// What an agent says that does not start: one line, and a status other than 0.
fn refusal(node: &Node, args: &[&str]) -> String {
    let options = args.iter().fold(AgentOptions::default(), |options, arg| options.arg(*arg));
    let output = node.agent_command(&options).unwrap().output().unwrap();
    assert!(!output.status.success(), "{args:?}: started, and ended with {}", output.status);
    assert!(!output.stderr.contains("panicked"), "{args:?}: {}", output.stderr);
    output.stderr
}

/// The same, when the agent itself says it (not the parser of its command line).
fn sentence(node: &Node, args: &[&str]) -> String {
    let said = refusal(node, args);
    let last: Vec<&str> = said.lines().filter(|line| line.starts_with("pillion: ")).collect();
    assert_eq!(last.len(), 1, "{args:?}: not one sentence:\n{said}");
    last[0].to_owned()
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}

// proves: SEC-2
#[test]
fn the_command_line_is_checked_before_anything_is_done() {
    let (_bed, node) = bed("flags");
    assert_says(&refusal(&node, &["--nodes", "n1"]), &["--nodes", "--node"]);
    assert_says(&refusal(&node, &["--trust-domain", "Cluster/Local"]), &["--trust-domain", "cluster.local"]);
    assert_says(&refusal(&node, &["--cert-lifetime", "0s"]), &["--cert-lifetime", "longer than zero"]);
    assert_says(&refusal(&node, &["--drain-timeout", "10"]), &["--drain-timeout", "for example 5s"]);
    assert_says(&refusal(&node, &["--admin-addr", "localhost"]), &["--admin-addr"]);
    assert_says(&refusal(&node, &["--log", "[[["]), &["--log"]);
    assert_says(&refusal(&node, &["--direct", "on"]), &["--direct", "auto, off"]);
    assert_says(&refusal(&node, &["--root-namespace", "Istio System"]), &["--root-namespace", "lower-case"]);
}

// proves: SEC-2
#[test]
fn places_that_do_not_serve_are_named() {
    let (bed, node) = bed("places");
    let nowhere = bed.dir().join("nowhere").display().to_string();
    assert_says(&sentence(&node, &["--manifests", &nowhere]), &["--manifests", &nowhere]);
    assert_says(
        &sentence(&node, &["--kube", "--kubeconfig", &nowhere]),
        &["--kubeconfig", &nowhere, "No such file"],
    );
    let tmp = bed.dir().display().to_string();
    assert_says(&sentence(&node, &["--cgroup-root", &tmp]), &[&tmp, "no cgroup2 directory", "--cgroup-root"]);
    let file = bed.dir().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("dir").display().to_string();
    assert_says(&sentence(&node, &["--ca-dir", &below]), &["--ca-dir", &below]);
    assert_says(&sentence(&node, &["--state-dir", &below]), &["--state-dir", &below]);
    assert_says(&sentence(&node, &["--bpffs", &below]), &[&below, "--bpffs"]);
    let said = sentence(&node, &["--hbone-congestion", "warp"]);
    assert_says(&said, &["--hbone-congestion warp", "this kernel has: ", "cubic"]);
    assert_says(&sentence(&node, &["--bpf-log"]), &["--bpf-log", "--features bpf-log"]);
}

// proves: SEC-2, SEC-3
#[test]
fn a_port_that_is_taken_is_named_with_its_flag_and_keeps_no_agent_from_serving() {
    let (bed, node) = bed("ports");
    let pod = node.pod("pod").captured().create().unwrap();
    let ports = [("--admin-addr", 15000), ("--metrics-addr", 15020), ("--health-addr", 15021)];
    let taken = node
        .visit(|| Ok(ports.map(|(_, port)| TcpListener::bind(("0.0.0.0", port)).expect("nobody has it"))))
        .unwrap();
    let agent = node.agent_command(&AgentOptions::default()).unwrap().start().unwrap();
    for (flag, port) in ports {
        let said = format!("{port}: port taken by another process");
        agent.wait_log(&said, SECONDS_20).unwrap();
        assert!(agent.log().contains(flag), "{flag} is missing in: {}", agent.log());
    }
    agent.wait_log("captured", SECONDS_20).unwrap();
    drop((pod, taken));
    for (_, port) in ports {
        agent.wait_listening(port).unwrap();
    }
    assert!(agent.stop(SECONDS_20).unwrap().success());
    drop(bed);
}

// proves: SEC-1
#[test]
fn a_missing_capability_is_named() {
    let (_bed, node) = bed("capabilities");
    let command = node.agent_command(&AgentOptions::default()).unwrap();
    let output = command.under("setpriv", &["--bounding-set=-bpf", "--inh-caps=-bpf"]).output().unwrap();
    assert!(!output.status.success());
    assert_says(&output.stderr, &["pillion: the agent lacks CAP_BPF: run it as root"]);
}

// proves: SEC-1
#[test]
fn an_authority_that_cannot_be_trusted_is_not_used() {
    let (bed, node) = bed("authority");
    let root = bed.ca_dir().join("ca.pem");
    let write = |pem: &str, mode| {
        fs::create_dir_all(bed.ca_dir()).unwrap();
        fs::write(&root, pem).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
    };
    let path = root.display().to_string();
    write("not a key", 0o600);
    assert_says(&sentence(&node, &[]), &[&path, "no usable root", "remove it"]);
    assert_eq!(fs::read_to_string(&root).unwrap(), "not a key", "it is left as it is");
    write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600);
    assert_says(&sentence(&node, &[]), &[&path, "no usable root"]);
    write("", 0o644);
    assert_says(&sentence(&node, &[]), &[&path, "readable by others (mode 0644)", "chmod 600"]);
    let year = 365 * 24 * 3600;
    write(&authority(-2 * year, -year), 0o600);
    assert_says(&sentence(&node, &[]), &[&path, "expired on", "this machine's clock says"]);
    write(&authority(year, 2 * year), 0o600);
    assert_says(
        &sentence(&node, &[]),
        &[&path, "is valid from", "this machine's clock says", "set the clock"],
    );
}

/// A root with its key, valid between two times from now, in seconds.
fn authority(from: i64, to: i64) -> String {
    let now = rcgen::date_time_ymd(1970, 1, 1) + std::time::UNIX_EPOCH.elapsed().unwrap();
    let seconds = |count: i64| std::time::Duration::from_secs(count.unsigned_abs());
    let at = |count: i64| if count < 0 { now - seconds(count) } else { now + seconds(count) };
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (at(from), at(to));
    let key = rcgen::KeyPair::generate().unwrap();
    format!("{}{}", key.serialize_pem(), params.self_signed(&key).unwrap().pem())
}

// proves: SEC-2
#[test]
fn two_agents_do_not_share_a_state_directory() {
    let (_bed, node) = bed("state");
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    assert_says(&sentence(&node, &[]), &["--state-dir", "in use by another agent"]);
    let error = node.uninstall().unwrap_err().to_string();
    assert_says(&error, &["in use by another agent"]);
    agent.stop().unwrap();
}

// proves: SEC-2
#[test]
fn a_broken_manifest_is_named_and_the_last_good_mesh_stays() {
    let (bed, node) = bed("manifest");
    let (client, server) =
        (node.pod("client").captured().create().unwrap(), node.pod("server").captured().create().unwrap());
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    agent.wait_serving(&client).unwrap();
    agent.wait_serving(&server).unwrap();
    apps::echo(&server, 7).unwrap();

    let twice = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: twin}}\nspec: {{nodeName: n1}}\n\
         status: {{podIPs: [{{ip: {}}}]}}\n",
        server.ip4()
    );
    let broken = [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: [x]}\n", "metadata.name"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: fine}\nspec: {}\n---\n\
          apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeName: [1]}\n",
            "\"document\":2,\"field\":\"spec.nodeName\"",
        ),
        ("kind: Pod\n  name: :\n- x", ""),
        (twice.as_str(), &server.ip4().to_string()),
    ];
    for (text, says) in broken {
        bed.write_manifest("broken.yaml", text).unwrap();
        let dump = agent
            .wait_config("an error that names the file and the field", |dump| {
                let errors = dump["manifests"]["errors"].to_string();
                errors.contains("broken.yaml") && errors.contains(says)
            })
            .unwrap();
        assert_eq!(dump["workers"].as_array().unwrap().len(), 2, "the last good mesh stays");
        assert_eq!(agent.metrics().unwrap().sum("pillion_manifest_errors", &[]), 1.0);
        assert!(
            apps::python(&client, CONNECTS, [server.ip4().to_string()]).output().unwrap().status.success()
        );
    }
    bed.remove_manifest("broken.yaml").unwrap();
    agent
        .wait_config("no error any more", |dump| dump["manifests"]["errors"] == serde_json::json!([]))
        .unwrap();
}

const CONNECTS: &str = "import socket, sys; socket.create_connection((sys.argv[1], 7), 10)";

// proves: CAP-1 (a pod that cannot be captured is told, and closed)
#[test]
fn a_pod_that_cannot_be_captured_is_named_with_the_reason_and_fails_closed() {
    let (_bed, node) = bed("failed");
    let lost = node.pod("lost").captured().annotation("pillion.dev/netns", "/run/netns/none-of-that-name");
    let lost = lost.create().unwrap();
    let server = node.pod("server").create().unwrap();
    apps::echo(&server, 7).unwrap();
    let taken = node.pod("taken").captured().create().unwrap();
    let listener = taken.visit(|| Ok(TcpListener::bind("0.0.0.0:15008")?)).unwrap();
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    for (pod, says) in [(&lost, "none-of-that-name"), (&taken, "port 15008 in the pod is taken")] {
        agent
            .wait_config("the pod's failure", |dump| {
                let workers = dump["workers"].as_array().unwrap();
                workers.iter().any(|w| {
                    w["pod"] == pod.name()
                        && w["state"] == "failed"
                        && w["reason"].as_str().is_some_and(|reason| reason.contains(says))
                })
            })
            .unwrap();
    }
    // It belongs to the mesh and cannot be served: its connections must not go plain.
    let refused = apps::python(&taken, CONNECTS, [server.ip4().to_string()]).output().unwrap();
    assert!(refused.stderr.contains("PermissionError"), "{}", refused.stderr);
    drop(listener);
    agent.wait_serving(&taken).unwrap();
    assert!(apps::python(&taken, CONNECTS, [server.ip4().to_string()]).output().unwrap().status.success());
}
