//! Objects that vanish while what they stand for is still there.

use pillion_tests::wait;

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
