//! Trust that changes: roots that are replaced, certificates that are revoked, a trust domain with two names, and an
//! authority that fails. Nothing of it costs a connection that it does not concern.

use std::fs;
use std::time::Duration;

use pillion_tests::peers::credentials::Authority;
use pillion_tests::{Agent, AgentOptions, Bed, Node, Pair, Pod, Process, apps, requirements};
use serde_json::Value;

/// Connects without a pause until it is told to stop; the first error ends it.
const CONNECTS: &str = "
import select, socket, sys
good = 0
while not select.select([sys.stdin], [], [], 0.01)[0]:
    with socket.create_connection((sys.argv[1], 7), 10) as s:
        s.sendall(b'x')
        assert s.recv(1) == b'x'
    good += 1
    if good == 1: print('connected', flush=True)
print('good', good)
";

/// An opening of HTTP/2: its preface, and settings that say nothing (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const SECONDS_10: Duration = Duration::from_secs(10);
const ECHO: u16 = 7;

fn connects(client: &Pod, server: &Pod) -> Process {
    let load = apps::python(client, CONNECTS, [server.ip4().to_string()]).log("connects").start().unwrap();
    load.wait_log("connected", SECONDS_10).unwrap();
    load
}

fn ends_without_an_error(load: &Process) {
    load.close_input();
    assert!(load.wait(SECONDS_10).unwrap().success());
}

fn roots(dump: &Value) -> Vec<String> {
    let roots = dump["authority"]["roots"].as_array().unwrap().iter();
    roots.map(|root| root["subject"].as_str().unwrap().to_owned()).collect()
}

fn wait_roots(agents: &[&Agent], count: usize) -> Vec<String> {
    let agree =
        |agent: &&Agent| roots(&agent.wait_config("the roots", |dump| roots(dump).len() == count).unwrap());
    let all: Vec<_> = agents.iter().map(agree).collect();
    assert!(all.windows(2).all(|pair| pair[0].iter().all(|root| pair[1].contains(root))), "{all:?}");
    all[0].clone()
}

fn serial(agent: &Agent, pod: &Pod) -> String {
    agent.worker(pod).unwrap().unwrap()["certificate"]["serial"].as_str().unwrap().to_owned()
}

fn ca(node: &Node, args: &[&str]) -> String {
    node.ca_command(args).unwrap().run().unwrap()
}

/// A worker that is made anew has a new certificate, and shakes hands with its peers anew.
fn comes_anew_and_connects(agent: &Agent, pod: &Pod, server: &Pod) {
    pod.release().unwrap();
    agent
        .wait_config("no worker", |dump| {
            dump["workers"].as_array().unwrap().iter().all(|w| w["pod"] != pod.name())
        })
        .unwrap();
    pod.capture().unwrap();
    agent.wait_serving(pod).unwrap();
    let talk = apps::converse(pod, server.ip4().into(), ECHO, "anew").unwrap();
    talk.say("hello").unwrap();
    talk.close().unwrap();
}

// proves: ID-2
#[test]
fn a_root_is_replaced_under_load_without_an_error() {
    let pair = Pair::with("rotation", &AgentOptions::default().arg("--cert-lifetime=10s")).unwrap();
    let (node, agents) = (pair.near.node(), [&pair.near, &pair.far]);
    let visitor = node.pod("visitor").captured().create().unwrap();
    pair.near.wait_serving(&visitor).unwrap();
    pair.far.wait_known(&visitor).unwrap();
    apps::echo(&pair.server, ECHO).unwrap();
    let open = apps::converse(&pair.client, pair.server.ip4().into(), ECHO, "open").unwrap();
    let load = connects(&pair.client, &pair.server);
    let former = wait_roots(&agents, 1).remove(0);
    let goes_on = |stage: &str| {
        comes_anew_and_connects(&pair.near, &visitor, &pair.server);
        open.say(stage).unwrap();
        assert_eq!(load.exited(), None, "{stage}");
    };

    assert!(ca(node, &["rotate", "begin"]).contains("pillion ca rotate switch"));
    wait_roots(&agents, 2);
    goes_on("two roots are trusted");
    let early = node.ca_command(&["rotate", "switch"]).unwrap().output().unwrap();
    assert!(!early.status.success() && early.stderr.contains("wait until"), "{}", early.stderr);

    assert!(ca(node, &["rotate", "switch", "--force"]).contains("pillion ca rotate finish"));
    goes_on("the new root signs");
    for agent in agents {
        let all_new =
            |dump: &Value| {
                dump["workers"].as_array().unwrap().iter().all(|worker| {
                    worker["certificate"]["issuer"].as_str().is_some_and(|issuer| issuer != former)
                })
            };
        agent.wait_config("certificates of the new root alone", all_new).unwrap();
    }
    goes_on("nothing is left of the former root");
    let early = node.ca_command(&["rotate", "finish", "--cert-lifetime=10s"]).unwrap().output().unwrap();
    assert!(!early.status.success() && early.stderr.contains(&former), "{}", early.stderr);

    ca(node, &["rotate", "finish", "--force"]);
    let left = wait_roots(&agents, 1);
    assert_ne!(left, [former]);
    goes_on("the former root is trusted no longer");
    ends_without_an_error(&load);
    open.close().unwrap();
}

// proves: ID-2
#[test]
fn connections_of_a_revoked_certificate_are_cut_and_all_others_go_on() {
    let pair = Pair::new("revoked").unwrap();
    let node = pair.near.node();
    let other = node.pod("other").captured().create().unwrap();
    pair.near.wait_serving(&other).unwrap();
    pair.far.wait_known(&other).unwrap();
    apps::echo(&pair.server, ECHO).unwrap();
    apps::echo(&other, ECHO).unwrap();
    let talk = |from: &Pod, to: &Pod, name: &str| apps::converse(from, to.ip4().into(), ECHO, name).unwrap();
    let cut = |agent: &Agent, pod: &Pod| {
        let labels = [("reason", "revoked"), ("pod", pod.name())];
        agent.metrics().unwrap().sum("pillion_connections_cut_total", &labels)
    };
    let theirs = talk(&pair.client, &pair.server, "theirs");
    let others = talk(&other, &pair.server, "others");
    let towards_other = talk(&pair.server, &other, "towards-other");

    // Who dialled: the accepting worker cuts.
    let revoked = serial(&pair.near, &pair.client);
    assert!(ca(node, &["revoke", &revoked]).contains(&revoked));
    theirs.wait_end().unwrap();
    for goes_on in [&others, &towards_other] {
        goes_on.say("still here").unwrap();
    }
    assert_eq!(cut(&pair.far, &pair.server), 1.0);
    pair.far.process().wait_log(&revoked, SECONDS_10).unwrap();
    // The pod's own worker has noticed, and has another key and certificate.
    pair.near.wait_config("another certificate", |_| serial(&pair.near, &pair.client) != revoked).unwrap();
    let theirs = talk(&pair.client, &pair.server, "theirs-again");
    theirs.say("back").unwrap();

    // Who accepted: the dialling workers cut, and the accepted connection of its own goes on.
    let revoked = serial(&pair.near, &other);
    ca(node, &["revoke", &revoked]);
    towards_other.wait_end().unwrap();
    assert_eq!(cut(&pair.far, &pair.server), 3.0, "dialled by it, and accepted by it");
    others.wait_end().unwrap();
    theirs.say("still here").unwrap();
    pair.near.wait_config("another certificate", |_| serial(&pair.near, &other) != revoked).unwrap();
    talk(&pair.server, &other, "towards-other-again").say("back").unwrap();
    theirs.close().unwrap();
    assert_eq!(pair.near.metrics().unwrap().sum("pillion_revoked_certificates", &[]), 2.0);
}

// proves: ID-2
#[test]
fn a_revoked_certificate_is_refused_at_the_handshake() {
    requirements::ensure(&[requirements::APPS, &["openssl"]].concat()).unwrap();
    let bed = Bed::new("refused").unwrap();
    let node = bed.node("n1").unwrap();
    let (server, foreign) =
        (node.pod("server").captured().create().unwrap(), node.pod("foreign").create().unwrap());
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    agent.wait_serving(&server).unwrap();
    let credentials = Authority::of_mesh(&bed).unwrap().issue("foreign").unwrap();
    let handshakes = |result: &str| {
        let address = format!("{}:15008", server.ip4());
        let openssl =
            foreign.command("openssl").args(["s_client", "-alpn", "h2", "-connect", &address, "-cert"]);
        let openssl = openssl.arg(&credentials.certificate).arg("-key").arg(&credentials.key);
        // It stays until its handshake is counted: one that leaves earlier has not ended it.
        let openssl = openssl.input(HTTP2).start().unwrap();
        let labels = [("role", "server"), ("result", result)];
        agent.wait_metrics("the handshake", |m| m.sum("pillion_handshakes_total", &labels) == 1.0).unwrap();
        openssl.close_input();
    };
    handshakes("ok");
    let openssl = foreign.command("openssl").args(["x509", "-noout", "-serial", "-in"]);
    let said = openssl.arg(&credentials.certificate).run().unwrap();
    ca(&node, &["revoke", said.trim().trim_start_matches("serial=")]);
    agent.wait_config("the CRL", |dump| dump["authority"]["revoked_certificates"] == 1).unwrap();
    handshakes("failed");
    agent.process().wait_log("its certificate is revoked", SECONDS_10).unwrap();
}

// proves: ID-2
#[test]
fn a_broken_crl_is_named_and_what_was_revoked_stays_so() {
    let bed = Bed::new("broken-crl").unwrap();
    let node = bed.node("n1").unwrap();
    let agent = node.start_agent(&AgentOptions::default()).unwrap();
    ca(&node, &["revoke", "7b12"]);
    let list = bed.ca_dir().join("ca-crl.pem");
    let revoked = |dump: &Value| dump["authority"]["revoked_certificates"] == 1;
    agent.wait_config("the CRL", revoked).unwrap();
    fs::write(&list, "no list").unwrap();
    let names_it =
        |dump: &Value| dump["authority"]["errors"].to_string().contains("ca-crl.pem holds no usable CRL");
    let dump = agent.wait_config("what is wrong", names_it).unwrap();
    assert!(revoked(&dump));
    assert_eq!(agent.metrics().unwrap().sum("pillion_ca_errors", &[]), 1.0);
    fs::remove_file(&list).unwrap();
    agent.wait_config("nothing revoked", |dump| dump["authority"]["revoked_certificates"] == 0).unwrap();
    assert_eq!(agent.metrics().unwrap().sum("pillion_ca_errors", &[]), 0.0);
}

// proves: ID-1
#[test]
fn a_mesh_of_two_names_speaks_under_both() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("aliases").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let client = n1.pod("client").captured().create().unwrap();
    let server = n2.pod("server").captured().create().unwrap();
    let named = |own: &str, alias: &str| {
        let options = AgentOptions::default().access_log().arg(format!("--trust-domain={own}"));
        options.arg(format!("--trust-domain-aliases={alias}"))
    };
    let near = n1.start_agent(&named("old", "new")).unwrap();
    let far = n2.start_agent(&named("new", "old")).unwrap();
    let pair = Pair { client, server, near, far, bed };
    pair.settle().unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    apps::nginx(&pair.client, 80).unwrap();
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        let url = format!("http://{}/hello", to.ip4());
        assert_eq!(from.command("curl").args(["-sS", "-m", "10", &url]).run().unwrap(), "hello\n");
    }
    let principal = "spiffe://old/ns/default/sa/client";
    let line =
        pair.far.wait_access("the client's own name", |line| line["source_principal"] == principal).unwrap();
    assert_eq!(line["source_workload"], "client", "it is known by whichever name");
}

// proves: ID-2
#[test]
fn a_failing_authority_is_told_long_before_a_certificate_expires() {
    let pair = Pair::with("failing", &AgentOptions::default().arg("--cert-lifetime=30s")).unwrap();
    apps::echo(&pair.server, ECHO).unwrap();
    let open = apps::converse(&pair.client, pair.server.ip4().into(), ECHO, "open").unwrap();
    let load = connects(&pair.client, &pair.server);
    let (root, away) = (pair.bed.ca_dir().join("ca.pem"), pair.bed.ca_dir().join("away"));
    fs::rename(&root, &away).unwrap();
    let unavailable = [("result", "unavailable")];
    let failing = "pillion_certificate_renewal_failing_since_timestamp_seconds";
    let said =
        pair.near.wait_not_ready("the overdue renewal", |said| said.contains("default/client")).unwrap();
    let metrics = pair.near.metrics().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(said.contains("whose own expires at") && said.contains("ca.pem is gone: put it back"), "{said}");
    assert!(metrics.sum("pillion_ca_requests_total", &unavailable) > 0.0);
    let (since, expiry) =
        (metrics.sum(failing, &[]), metrics.sum("pillion_certificate_expiry_timestamp_seconds", &[]));
    assert!(since < now && now < expiry, "it fails since {since}, now is {now}, the end is {expiry}");
    let error = &pair.near.worker(&pair.client).unwrap().unwrap()["certificate"]["failing"]["error"];
    assert!(error.as_str().is_some_and(|error| error.contains("ca.pem is gone")), "{error}");
    open.say("nothing has changed for connections").unwrap();

    fs::rename(&away, &root).unwrap();
    pair.near.wait_ready().unwrap();
    let mended = pair.near.metrics().unwrap();
    assert_eq!(mended.sum(failing, &[]), 0.0);
    assert!(mended.sum("pillion_certificate_expiry_timestamp_seconds", &[]) > expiry);
    open.say("nor now").unwrap();
    ends_without_an_error(&load);
    open.close().unwrap();
}

/// Connections of the pod's worker to peers, each with its handshake.
fn handshakes(agent: &Agent) -> f64 {
    let labels = [("role", "client"), ("result", "ok")];
    agent.metrics().unwrap().sum("pillion_handshakes_total", &labels)
}

fn connects_once(client: &Pod, server: &Pod) -> bool {
    const CONNECT: &str = "
import socket, sys
with socket.create_connection((sys.argv[1], 7), 10) as s:
    s.sendall(b'x')
    assert s.recv(1) == b'x'
";
    apps::python(client, CONNECT, [server.ip4().to_string()]).output().unwrap().status.success()
}

// proves: ID-1, ID-2
#[test]
fn an_open_connection_takes_no_new_streams_once_a_certificate_has_expired() {
    let pair = Pair::with("expired", &AgentOptions::default().arg("--cert-lifetime=10s")).unwrap();
    apps::echo(&pair.server, ECHO).unwrap();
    let open = apps::converse(&pair.client, pair.server.ip4().into(), ECHO, "open").unwrap();
    open.say("on the first connection").unwrap();
    let before = handshakes(&pair.near);
    let is_new = || {
        assert!(connects_once(&pair.client, &pair.server), "each stream opens, on whichever connection");
        Ok((handshakes(&pair.near) > before).then_some(()))
    };
    pillion_tests::wait::until("another connection to the peer", Duration::from_secs(20), is_new).unwrap();
    open.say("what was open goes on").unwrap();
}

// proves: ID-1, ID-2
#[test]
fn an_open_connection_takes_no_new_streams_once_its_root_is_trusted_no_longer() {
    let pair = Pair::new("distrusted").unwrap();
    let (node, agents) = (pair.near.node(), [&pair.near, &pair.far]);
    apps::echo(&pair.server, ECHO).unwrap();
    let open = apps::converse(&pair.client, pair.server.ip4().into(), ECHO, "open").unwrap();
    open.say("under the first root").unwrap();
    wait_roots(&agents, 1);
    ca(node, &["rotate", "begin"]);
    wait_roots(&agents, 2);
    ca(node, &["rotate", "switch", "--force"]);
    assert!(connects_once(&pair.client, &pair.server), "both roots are trusted");
    // The pods' certificates are still of the former root, and good for hours.
    ca(node, &["rotate", "finish", "--force"]);
    wait_roots(&agents, 1);
    let is_refused = || Ok((!connects_once(&pair.client, &pair.server)).then_some(()));
    pillion_tests::wait::until("new streams are refused", SECONDS_10, is_refused).unwrap();
    open.say("what was open goes on").unwrap();
}
