//! Objects that vanish while what they stand for is still there.

use pillion_tests::{Pair, apps, wait};
use serde_json::Value;

use crate::day::Day;

// proves: SEC-3
#[test]
fn a_pod_whose_object_is_deleted_by_force_stays_captured_while_it_runs() {
    let mut day = Day::begin("force-deleted pod").unwrap();
    let generation = day.generation().unwrap();
    day.inside.hide_object().unwrap();
    day.wait_read(generation).unwrap();
    day.audit();
    day.endure().unwrap();
    let mended = wait::now();
    day.inside.show_object().unwrap();
    let healed = day.wait_well(mended).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn pods_that_an_api_server_of_yesterday_has_forgotten_stay_captured_over_a_restart() {
    let mut day = Day::begin("API server back in time").unwrap();
    // A second pod: the whole node is forgotten, not one pod.
    let second = day.node().pod("second").captured().create().unwrap();
    day.near.wait_serving(&second).unwrap();
    let generation = day.generation().unwrap();
    for pod in [&day.inside, &second] {
        pod.hide_object().unwrap();
    }
    day.wait_read(generation).unwrap();
    day.audit();
    day.endure().unwrap();

    // The next agent has never heard of them from any API server.
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.audit();
    day.endure().unwrap();

    let mended = wait::now();
    for pod in [&day.inside, &second] {
        pod.show_object().unwrap();
    }
    let healed = day.wait_well(mended).unwrap();
    day.near.wait_serving(&second).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn nobody_talks_in_plain_to_a_pod_whose_object_is_deleted_by_force() {
    let pair = Pair::new("vanished").unwrap();
    let beside = pair.far.node().pod("beside").captured().create().unwrap();
    pair.far.wait_serving(&beside).unwrap();
    apps::echo(&pair.server, 7).unwrap();
    let recording = pair.near.node().record_wire("tcp port 7").unwrap();
    pair.server.hide_object().unwrap();
    let address = pair.server.ip4().to_string();
    let has_vanished = |dump: &Value| dump["vanished"].get(&address).is_some();
    for agent in [&pair.near, &pair.far] {
        agent.wait_config("the pod has vanished", has_vanished).unwrap();
    }
    for client in [&pair.client, &beside] {
        for address in pair.server.addresses() {
            let talk = apps::converse(client, *address, 7, "to-vanished").unwrap();
            talk.say("needle").unwrap();
            talk.close().unwrap();
        }
    }
    assert_eq!(recording.stop().unwrap().tcp().count(), 0);
    for agent in [&pair.near, &pair.far] {
        let plain = [("connection_security_policy", "none")];
        assert_eq!(agent.metrics().unwrap().sum("istio_tcp_connections_opened_total", &plain), 0.0);
    }
    // Its object is back, and it is a pod like others.
    pair.server.show_object().unwrap();
    for agent in [&pair.near, &pair.far] {
        agent.wait_config("no pod has vanished", |dump| !has_vanished(dump)).unwrap();
    }
}
