//! A second agent that says that it is the first.

use std::fs;

use pillion_tests::agent::binary;
use pillion_tests::{Process, wait};

use crate::day::Day;
use crate::{AUDIT, SECONDS_10};

/// An agent of the near node's name with a state directory of its own and nothing to serve, on another node of the bed, whose
/// ports are free.
fn start_second(day: &Day) -> Process {
    let elsewhere = day.bed.node("n3").unwrap();
    let (empty, state) = (day.bed.dir().join("empty"), day.bed.dir().join("state/second"));
    fs::create_dir_all(&empty).unwrap();
    let places = [
        ("--manifests", empty),
        ("--ca-dir", day.bed.ca_dir()),
        ("--state-dir", state),
        ("--cgroup-root", day.node().cgroup()),
        ("--bpffs", day.bed.bpffs()),
    ];
    let mut second =
        elsewhere.command(&binary().unwrap().display().to_string()).args(["run", "--node", "n1", AUDIT]);
    for (flag, place) in places {
        second = second.arg(flag).arg(place);
    }
    second.log("second").start().unwrap()
}

// proves: SEC-3
#[test]
fn a_second_agent_of_the_same_name_is_refused_and_the_first_serves_on() {
    let mut day = Day::begin("second agent of the same name").unwrap();
    let second = start_second(&day);
    let status = wait::until("the second agent to end or to audit", SECONDS_10, || {
        let audited = second.log().contains("the agent serves");
        Ok((second.exited().is_some() || audited).then(|| second.exited()))
    });
    let begun = wait::now();
    // Both would undo what the other has made.
    day.audit();
    day.endure().unwrap();
    let healed = day.wait_well(begun).unwrap();
    assert!(
        status.unwrap().is_some_and(|status| !status.success()),
        "it ends with an error: {}",
        second.log()
    );

    // So is the removal of what the first has in the kernel.
    let uninstall = day.bed.node("n3").unwrap().command(&binary().unwrap().display().to_string());
    let state = day.bed.dir().join("state/second");
    let removed = uninstall.arg("uninstall").arg("--state-dir").arg(&state).output().unwrap();
    day.audit();
    day.endure().unwrap();
    assert!(!removed.stdout().contains("removed"), "nothing of the first agent's: {}", removed.stdout());
    day.end(healed).unwrap();
}
