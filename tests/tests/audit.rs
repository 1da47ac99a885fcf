//! What others do behind the agent's back is found, mended and counted; until then nothing goes out in plain.

use std::time::Duration;

use pillion_tests::metrics::Metrics;
use pillion_tests::{AgentOptions, Pair, apps};

const REPAIRS: &str = "pillion_audit_repairs_total";

fn answers(pair: &Pair) -> bool {
    let url = format!("http://{}/hello", pair.server.ip4());
    pair.client.command("curl").args(["-sS", "-m", "5", &url]).output().unwrap().status.success()
}

/// A pair whose audits come only when they are asked for.
fn unaudited(name: &str) -> Pair {
    let pair = Pair::with(name, &AgentOptions::default().arg("--audit-interval=1h")).unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    assert!(answers(&pair));
    pair
}

#[test]
fn a_deleted_map_entry_fails_closed_and_comes_back() {
    let pair = unaudited("entry");
    let recording = pair.near.node().record_wire("tcp port 80").unwrap();
    pair.near.delete_entry(&pair.client).unwrap();
    assert!(!answers(&pair));
    let audit = pair.near.audit().unwrap();
    assert_eq!(audit["repairs"].as_array().unwrap().len(), 1, "{audit:#}");
    assert!(answers(&pair));
    assert_eq!(pair.near.metrics().unwrap().sum(REPAIRS, &[]), 1.0);
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing in plain");
}

#[test]
fn broken_listeners_fail_closed_and_come_back() {
    for port in [15001, 15008] {
        let pair = unaudited("listener");
        let recording = pair.near.node().record_wire("tcp port 80").unwrap();
        // The pool's connection would outlive the other side's listener.
        let (agent, pod) = if port == 15001 { (&pair.near, &pair.client) } else { (&pair.far, &pair.server) };
        agent.break_listeners(pod, port).unwrap();
        assert_eq!(agent.worker(pod).unwrap().unwrap()["listeners"][port.to_string()], false);
        if port == 15001 {
            assert!(!answers(&pair));
        }
        let audit = agent.audit().unwrap();
        assert!(!audit["repairs"].as_array().unwrap().is_empty(), "{audit:#}");
        assert_eq!(agent.worker(pod).unwrap().unwrap()["listeners"][port.to_string()], true);
        assert!(agent.metrics().unwrap().sum(REPAIRS, &[("what", "listener")]) >= 1.0);
        assert!(answers(&pair));
        assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing in plain");
    }
}

#[test]
fn the_audit_comes_by_itself() {
    let pair = Pair::with("by-itself", &AgentOptions::default().arg("--audit-interval=1s")).unwrap();
    pair.near.delete_entry(&pair.client).unwrap();
    let repaired = |metrics: &Metrics| metrics.sum(REPAIRS, &[]) >= 1.0;
    pair.near.wait_metrics("a repair", repaired).unwrap();
}

#[test]
fn an_audit_of_a_sound_node_repairs_nothing() {
    let pair = Pair::with("sound", &AgentOptions::default().arg("--audit-interval=100ms")).unwrap();
    let wrk = {
        apps::nginx(&pair.server, 80).unwrap();
        let url = format!("http://{}/hello", pair.server.ip4());
        pair.client.command("wrk").args(["-t1", "-c4", "-d3s", &url]).start().unwrap()
    };
    for _ in 0..5 {
        pair.client.release().unwrap();
        pair.near.wait_released(&pair.client).unwrap();
        pair.client.capture().unwrap();
        pair.near.wait_serving(&pair.client).unwrap();
    }
    assert!(wrk.wait(Duration::from_secs(10)).unwrap().success());
    for agent in [&pair.near, &pair.far] {
        assert_eq!(agent.metrics().unwrap().sum(REPAIRS, &[]), 0.0, "{}", agent.log());
    }
}
