//! Who speaks to whom: each pod by its own certificate, always a valid one.

use std::time::Duration;

use pillion_tests::{AgentOptions, Pair, apps};

const SECONDS_10: Duration = Duration::from_secs(10);

// proves: ID-2
#[test]
fn certificates_are_renewed_before_they_expire_and_connections_go_on() {
    const TALK: &str = "
import socket, sys, time
f = socket.create_connection((sys.argv[1], 7), 10).makefile('rw')
for line in sys.stdin:
    f.write(line); f.flush(); print('back', f.readline(), end='')
";
    let pair = Pair::with("renewal", &AgentOptions::default().arg("--cert-lifetime=10s")).unwrap();
    apps::echo(&pair.server, 7).unwrap();
    let open = apps::python(&pair.client, TALK, [pair.server.ip4().to_string()]).start().unwrap();
    let serial = || pair.near.worker(&pair.client).unwrap().unwrap()["certificate"]["serial"].clone();
    for renewal in 0..3 {
        open.write_line(&format!("renewal{renewal}")).unwrap();
        open.wait_log(&format!("back renewal{renewal}\n"), SECONDS_10).unwrap();
        let before = serial();
        pair.near
            .wait_config("another certificate", |dump| dump["workers"][0]["certificate"]["serial"] != before)
            .unwrap();
    }
    assert_eq!(open.exited(), None);
    let metrics = pair.near.metrics().unwrap();
    let expiry = metrics.sum("pillion_certificate_expiry_timestamp_seconds", &[("pod", "client")]);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(expiry > now && expiry < now + 11.0, "{expiry} at {now}");
}

// proves: ID-1
#[test]
fn an_address_reused_by_another_identity_is_dialled_anew() {
    let pair = Pair::new("reuse").unwrap();
    let url = format!("http://{}/hello", pair.server.ip4());
    let ask = || pair.client.command("curl").args(["-sS", "-m", "10", &url]).run();
    apps::nginx(&pair.server, 80).unwrap();
    assert_eq!(ask().unwrap(), "hello\n");
    let dump = pair.near.config_dump().unwrap();
    assert_eq!(dump["workers"][0]["pool"][0]["identity"], pair.server.identity());
    let addresses = pair.server.addresses().to_vec();
    pair.server.delete().unwrap();
    let heir = pair.far.node().pod("heir").captured().addresses(&addresses).create().unwrap();
    apps::nginx(&heir, 80).unwrap();
    pair.far.wait_serving(&heir).unwrap();
    pair.near.wait_known(&heir).unwrap();
    assert_eq!(ask().unwrap(), "hello\n");
    let line = pair
        .near
        .wait_access("the heir's identity", |line| line["destination_principal"] == heir.identity())
        .unwrap();
    assert_eq!(line["response_flags"], "-");
    let dump = pair.near.config_dump().unwrap();
    let pool = dump["workers"][0]["pool"].as_array().unwrap();
    assert_eq!(pool.len(), 1, "the dead pod's connection is gone: {pool:?}");
    assert_eq!(pool[0]["identity"], heir.identity());
}

// proves: ID-1
#[test]
fn pods_with_one_address_but_other_certificates_are_not_spoken_to() {
    // The client's agent is told of a server that is not the one which answers there.
    let pair = Pair::new("impostor").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let url = format!("http://{}/hello", pair.server.ip4());
    let believed = pair.far.node().pod("believed").captured().create().unwrap();
    let yaml = std::fs::read_to_string(pair.bed.manifest_dir().join("pod-believed.yaml")).unwrap();
    pair.far.wait_serving(&believed).unwrap();
    // Both have the same addresses for the near agent only: it reads a directory of its own.
    let dir = pair.bed.dir().join("lied-to");
    std::fs::create_dir(&dir).unwrap();
    let mine = std::fs::read_to_string(pair.bed.manifest_dir().join("pod-client.yaml")).unwrap();
    let lie = yaml
        .replace(&believed.ip4().to_string(), &pair.server.ip4().to_string())
        .replace(&believed.ip6().to_string(), &pair.server.ip6().to_string());
    std::fs::write(dir.join("pods.yaml"), format!("{mine}---\n{lie}")).unwrap();
    pair.near.stop().unwrap();
    let lied_to = AgentOptions::default().access_log().arg("--manifests").arg(dir.display().to_string());
    let near = pair.near.node().start_agent(&lied_to).unwrap();
    near.wait_serving(&pair.client).unwrap();
    let answer = pair.client.command("curl").args(["-sS", "-m", "10", &url]).output().unwrap();
    assert!(!answer.status.success());
    let line = near.wait_access("the failure", |line| line["response_flags"] == "UF").unwrap();
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(&pair.server.identity()) || error.contains(&believed.identity()), "{error}");
}

// proves: ID-1
#[test]
fn another_service_account_is_another_identity_and_nothing_goes_plain_in_between() {
    // Connects without a pause until it is told to stop; what is refused meanwhile is tried again.
    const CONNECTS: &str = "
import select, socket, sys
good = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    try: socket.create_connection((sys.argv[1], 80), 5).close(); good += 1
    except OSError: pass
    if good == 1: print('connected', flush=True)
";
    let pair = Pair::new("account").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let recording = pair.near.node().record_wire("tcp and not port 15008").unwrap();
    let load = apps::python(&pair.client, CONNECTS, [pair.server.ip4().to_string()]).start().unwrap();
    load.wait_log("connected", SECONDS_10).unwrap();

    let file = pair.bed.manifest_dir().join("pod-client.yaml");
    let before = std::fs::read_to_string(file).unwrap();
    let after = before.replace("serviceAccountName: client", "serviceAccountName: other");
    assert_ne!(before, after);
    pair.bed.write_manifest("pod-client.yaml", &after).unwrap();
    pair.near
        .wait_config("a worker under the new identity", |dump| {
            let worker = &dump["workers"][0];
            worker["state"] == "serving"
                && worker["certificate"]["identity"] == "spiffe://cluster.local/ns/default/sa/other"
        })
        .unwrap();
    pair.far
        .wait_access("a connection under the new identity", |line| {
            line["source_principal"] == "spiffe://cluster.local/ns/default/sa/other"
        })
        .unwrap();
    load.close_input();
    assert!(load.wait(SECONDS_10).unwrap().success());
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing went past the mesh");
}
