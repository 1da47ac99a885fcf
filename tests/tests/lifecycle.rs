//! Pods and agents come and go.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pillion_tests::{AgentOptions, Pair, Pod, Process, apps};

const SECONDS_10: Duration = Duration::from_secs(10);

/// A connection to the echo server on port 7 that stays: it echoes a line for each that it is told.
fn conversation(pair: &Pair) -> Process {
    const SCRIPT: &str = "
import socket, sys
f = socket.create_connection((sys.argv[1], 7), 10).makefile('rw')
print('connected')
for line in sys.stdin:
    f.write(line); f.flush()
    back = f.readline()
    print('back', back if back else 'ended', end='')
";
    apps::echo(&pair.server, 7).unwrap();
    let process = apps::python(&pair.client, SCRIPT, [pair.server.ip4().to_string()]).start().unwrap();
    process.wait_log("connected", SECONDS_10).unwrap();
    say(&process, "first");
    process
}

fn say(process: &Process, word: &str) {
    process.write_line(word).unwrap();
    process.wait_log(&format!("back {word}\n"), SECONDS_10).unwrap();
}

/// curl's exit status: 0 is an answer, 7 "could not connect", 56 and 52 a connection that broke.
fn curl(client: &Pod, pair: &Pair) -> Option<i32> {
    let url = format!("http://{}/hello", pair.server.ip4());
    client.command("curl").args(["-sS", "-m", "8", &url]).output().unwrap().status.code()
}

// proves: LIF-4
#[test]
fn nothing_of_the_mesh_is_among_a_pods_processes() {
    let pair = Pair::new("job").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let job = pair.near.node().pod("job").captured().create().unwrap();
    pair.near.wait_serving(&job).unwrap();
    assert_eq!(curl(&job, &pair), Some(0));
    let left = std::fs::read_to_string(job.cgroup().join("cgroup.events")).unwrap();
    assert!(left.contains("populated 0"), "the app has ended, and with it the pod's last process: {left}");
}

// proves: ID-2, LIF-5
#[test]
fn a_pod_deleted_under_load_leaves_nothing_and_its_neighbour_alone() {
    let pair = Pair::new("deleted").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let doomed = pair.near.node().pod("doomed").captured().create().unwrap();
    pair.near.wait_serving(&doomed).unwrap();
    let before = pair.near.threads().unwrap();
    let url = format!("http://{}/1k", pair.server.ip4());
    let wrk = |pod: &Pod| pod.command("wrk").args(["-t1", "-c8", "-d4s", &url]).start().unwrap();
    let (neighbours, _its) = (wrk(&pair.client), wrk(&doomed));
    pair.near
        .wait_metrics("the doomed pod's load", |metrics| {
            metrics.sum("pillion_open_connections", &[("pod", "doomed")]) == 8.0
        })
        .unwrap();
    let netns = doomed.netns_inode().unwrap();
    doomed.delete().unwrap();
    let gone =
        |dump: &serde_json::Value| dump["workers"].as_array().is_some_and(|workers| workers.len() == 1);
    pair.near.wait_config("one worker less", gone).unwrap();
    pair.near
        .process()
        .wait_for("the worker's end", SECONDS_10, || {
            let threads = pair.near.threads()?;
            Ok((threads < before && Pod::users_of_netns(netns)?.is_empty()).then_some(()))
        })
        .unwrap();
    assert!(neighbours.wait(SECONDS_10).unwrap().success());
    let said = neighbours.log();
    assert!(!said.contains("Socket errors") && said.contains("Requests/sec"), "{said}");
    let metrics = pair.near.metrics().unwrap();
    assert_eq!(
        metrics.select("pillion_open_connections", &[("pod", "doomed")]).count(),
        0,
        "its series go, too"
    );
}

#[test]
fn a_server_deleted_under_load_ends_its_clients_connections_at_once() {
    let pair = Pair::new("server-deleted").unwrap();
    let open = conversation(&pair);
    pair.server.delete().unwrap();
    open.write_line("anyone?").unwrap();
    // An end of the stream, or a reset: either way the app learns it now.
    open.wait_for("the connection's end", Duration::from_secs(5), || {
        Ok((open.log().contains("back ended") || open.log().contains("ConnectionResetError")).then_some(()))
    })
    .unwrap();
}

// proves: LIF-1 (the proxied path)
#[test]
fn a_killed_agent_lets_nothing_out_in_plain_and_is_back_at_once() {
    let pair = Pair::new("killed").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let recording = pair.near.node().record_wire("not port 15008 and tcp").unwrap();
    assert_eq!(curl(&pair.client, &pair), Some(0));
    pair.near.kill().unwrap();
    assert_ne!(curl(&pair.client, &pair), Some(0), "fails closed");
    pair.near.restart().unwrap();
    pair.settle().unwrap();
    assert_eq!(curl(&pair.client, &pair), Some(0));
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing went past the mesh");
}

// proves: LIF-1
#[test]
fn an_agent_that_has_not_heard_of_any_mesh_leaves_captured_pods_captured() {
    let pair = Pair::new("unheard").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let node = pair.near.node();
    let recording = node.record_wire("not port 15008 and tcp").unwrap();
    assert_eq!(curl(&pair.client, &pair), Some(0));
    assert!(pair.near.stop().unwrap().success());

    // The next one is to hear of the mesh from an API server that is away.
    let kubeconfig = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nobody.conf");
    let nobody = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
        clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {}}]}";
    fs::write(&kubeconfig, nobody).unwrap();
    let options = AgentOptions::default().kube(&kubeconfig);
    let unheard = node.agent_command(&options).unwrap().start().unwrap();
    unheard.wait_listening(15000).unwrap();
    for _ in 0..2 {
        let audit =
            node.command("curl").args(["-sS", "-m", "5", "-X", "POST", "http://127.0.0.1:15000/audit"]);
        let audit: serde_json::Value = serde_json::from_str(&audit.run().unwrap()).unwrap();
        assert_eq!(audit["repairs"], serde_json::json!([]));
    }
    assert_ne!(curl(&pair.client, &pair), Some(0), "nobody serves the pod");
    unheard.stop(SECONDS_10).unwrap();

    pair.near.restart().unwrap();
    pair.settle().unwrap();
    assert_eq!(curl(&pair.client, &pair), Some(0));
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing went past the mesh");
}

// proves: LIF-3
#[test]
fn a_terminating_pod_sends_new_connections_elsewhere_and_finishes_the_open_ones() {
    let pair = Pair::new("terminating").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let open = conversation(&pair);
    let handshakes = || pair.far.metrics().unwrap().sum("pillion_handshakes_total", &[("role", "server")]);
    assert_eq!(handshakes(), 1.0);
    pair.server.terminate().unwrap();
    // Its address still answers, but no more over the connection that was told to go away.
    pair.far
        .process()
        .wait_for("a second connection to the terminating pod", SECONDS_10, || {
            assert_eq!(curl(&pair.client, &pair), Some(0));
            Ok((handshakes() == 2.0).then_some(()))
        })
        .unwrap();
    say(&open, "still");
    open.close_input();
    assert!(open.wait(SECONDS_10).unwrap().success());
}

#[test]
fn sigterm_lets_open_connections_finish_and_takes_no_new_ones() {
    let pair = Pair::new("drain").unwrap();
    let open = conversation(&pair);
    pair.near.signal(Signal::SIGTERM).unwrap();
    pair.near
        .process()
        .wait_for("new connections to be refused", SECONDS_10, || {
            Ok((curl(&pair.client, &pair) == Some(7)).then_some(()))
        })
        .unwrap();
    say(&open, "still");
    assert_eq!(pair.near.process().exited(), None, "it waits for the open connection");
    open.close_input();
    assert!(open.wait(SECONDS_10).unwrap().success());
    assert!(pair.near.process().wait(SECONDS_10).unwrap().success());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let pair = Pair::new("second").unwrap();
    let _open = conversation(&pair);
    pair.near.signal(Signal::SIGTERM).unwrap();
    pair.near.process().wait_log("draining", SECONDS_10).unwrap();
    pair.near.signal(Signal::SIGTERM).unwrap();
    pair.near.process().wait(Duration::from_secs(2)).unwrap();
}

#[test]
fn the_drain_deadline_ends_what_does_not_end_by_itself() {
    let pair = Pair::with("deadline", &AgentOptions::default().arg("--drain-timeout=2s")).unwrap();
    let _open = conversation(&pair);
    let begun = Instant::now();
    pair.near.stop().unwrap();
    assert!((2..5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

// proves: LIF-5
#[test]
fn uninstall_leaves_no_link_program_map_or_pin_and_pods_talk_in_plain() {
    let pair = Pair::new("uninstall").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    assert_eq!(curl(&pair.client, &pair), Some(0));
    let (node, held) = (pair.near.node(), pair.near.kernel_objects().unwrap());
    assert!(held.links.len() >= 5 && !held.maps.is_empty(), "{held:?}");
    pair.near.stop().unwrap();
    assert!(!node.pins().unwrap().is_empty(), "the hooks outlive the agent");
    assert_ne!(curl(&pair.client, &pair), Some(0), "and fail closed");
    node.uninstall().unwrap();
    assert_eq!(node.pins().unwrap(), [] as [std::path::PathBuf; 0]);
    // The kernel frees maps a grace period later.
    pair.far
        .process()
        .wait_for("the kernel to have freed all", SECONDS_10, || {
            Ok((held.alive()? == Default::default()).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{:?}", held.alive()));
    assert_eq!(curl(&pair.client, &pair), Some(0), "in plain, to a PERMISSIVE server");
    assert_eq!(node.uninstall().map(drop).map_err(|e| e.to_string()), Ok(()), "twice is fine");
}
