//! A container runtime that does not say what it should (by CRI, which is best effort).

use std::sync::OnceLock;

use pillion_tests::cri::{FakeRuntime, Mood};
use pillion_tests::{AgentOptions, wait};

use crate::SECONDS_10;
use crate::day::Day;

/// A day with a runtime that has the captured pod as a sandbox.
fn begin(name: &str) -> (Day, FakeRuntime) {
    let cell = OnceLock::new();
    let day = Day::with_runtime(name, |bed, inside| {
        let runtime = FakeRuntime::start(&bed.dir().join("cri.sock"))?;
        runtime.add(inside)?;
        let options = AgentOptions::default().arg("--cri-socket").arg(runtime.socket().display().to_string());
        let _ = cell.set(runtime);
        Ok(options)
    });
    (day.unwrap(), cell.into_inner().expect("set above"))
}

/// The runtime gets into this mood while the agent is connected, and stays so over a restart of the agent.
fn bear(name: &str, mood: Mood) {
    let (mut day, runtime) = begin(name);
    runtime.set_mood(mood);
    let asked = || Ok((runtime.calls() > 0).then_some(()));
    wait::until("the agent to ask the runtime", SECONDS_10, asked).unwrap();
    day.audit();
    day.endure().unwrap();

    day.near.kill().unwrap();
    runtime.set_mood(mood);
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    wait::until("the agent to ask the runtime", SECONDS_10, asked).unwrap();
    day.audit();
    day.endure().unwrap();

    let mended = wait::now();
    runtime.set_mood(Mood::Well);
    let healed = day.wait_well(mended).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn a_runtime_that_never_answers_makes_no_pod_plain() {
    bear("container runtime silent", Mood::Silent);
}

// proves: SEC-3
#[test]
fn a_runtime_that_answers_with_errors_makes_no_pod_plain() {
    bear("container runtime answers errors", Mood::Refuses);
}

// proves: SEC-3
#[test]
fn a_runtime_that_knows_nothing_of_its_sandboxes_makes_no_pod_plain() {
    bear("container runtime knows no details", Mood::KnowsNoDetails);
}

// proves: SEC-3
#[test]
fn a_pod_whose_object_is_deleted_by_force_stays_captured_while_the_runtime_has_it() {
    let (mut day, _runtime) = begin("force-deleted pod, CRI");
    let generation = day.generation().unwrap();
    day.inside.hide_object().unwrap();
    day.wait_read(generation).unwrap();
    day.audit();
    day.endure().unwrap();
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.audit();
    day.endure().unwrap();
    let mended = wait::now();
    day.inside.show_object().unwrap();
    let healed = day.wait_well(mended).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3, OPS-3
#[test]
fn a_sandbox_of_which_the_runtime_says_nothing_keeps_no_other_pod_plain_and_the_node_is_not_ready() {
    let (day, runtime) = begin("container runtime silent of one sandbox");
    let pod = |name: &str| day.node().pod(name).captured().known_to_a_runtime().create().unwrap();
    let (silent, later) = (pod("silent"), pod("later"));
    runtime.set_silent_of(&silent, true).unwrap();
    runtime.add(&silent).unwrap();
    let asked_before = runtime.calls();
    let asked = || Ok((runtime.calls() > asked_before + 4).then_some(()));
    wait::until("the agent to ask the runtime", SECONDS_10, asked).unwrap();
    runtime.add(&later).unwrap();
    day.near.wait_serving(&later).unwrap();
    let names_it =
        |why: &str| why.contains("pod default/silent, whose connections are neither captured nor refused");
    day.near.wait_not_ready("the pod that is plain", names_it).unwrap();
    // A next agent as well.
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.near.wait_serving(&later).unwrap();
    runtime.set_silent_of(&silent, false).unwrap();
    day.near.wait_serving(&silent).unwrap();
    day.near.wait_ready().unwrap();
}
