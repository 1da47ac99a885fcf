//! What is not where it should be: network namespaces, the authority's root, a node's addresses.

use std::fmt::Write as _;
use std::fs;

use pillion_tests::wait;

use crate::day::Day;

const NETNS: &str = "pillion.dev/netns";

// proves: SEC-3
#[test]
fn a_network_namespace_that_is_not_found_after_an_upgrade_keeps_its_pod_closed() {
    let mut day = Day::begin("netns paths wrong after an upgrade").unwrap();
    let other = day.node().pod("other").create().unwrap();
    day.near.wait_known(&other).unwrap();
    let mut healed: f64 = 0.0;
    // Nothing is there, or another pod's.
    for path in ["/run/netns/nowhere".to_owned(), other.netns().display().to_string()] {
        day.near.kill().unwrap();
        day.inside.annotate(NETNS, Some(&path)).unwrap();
        day.near.begin_restart().unwrap();
        day.wait_up_or_ended().unwrap();
        day.audit();
        day.endure().unwrap();
        let mended = wait::now();
        day.inside.annotate(NETNS, None).unwrap();
        healed = healed.max(day.wait_well(mended).unwrap());
    }
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn an_authority_that_is_away_during_a_restart_keeps_pods_closed_and_is_found_when_it_is_back() {
    let mut day = Day::begin("authority away during a restart").unwrap();
    let root = day.bed.ca_dir().join("ca.pem");
    let whole = fs::read(&root).unwrap();
    day.near.kill().unwrap();
    fs::write(&root, "half a root").unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.audit();
    day.endure().unwrap();
    let mended = wait::now();
    fs::write(&root, whole).unwrap();
    let healed = day.wait_well(mended).unwrap();
    day.end(healed).unwrap();
}

// proves: SEC-3
#[test]
fn a_node_of_1100_addresses_is_served_over_a_restart() {
    let mut day = Day::begin("1,100 node addresses").unwrap();
    let mut lines = "link add many type bridge\nlink set many up\n".to_owned();
    for number in 0..1100 {
        writeln!(lines, "addr add 10.77.{}.{}/32 dev many", number / 250, number % 250 + 1).unwrap();
    }
    day.node().command("ip").args(["-batch", "-"]).input(lines).run().unwrap();
    day.audit();
    day.endure().unwrap();
    let restarted = wait::now();
    day.near.kill().unwrap();
    day.near.begin_restart().unwrap();
    day.wait_up_or_ended().unwrap();
    day.note();
    let healed = day.wait_well(restarted).unwrap();
    day.endure().unwrap();
    assert_eq!(day.near.process().exited(), None, "the agent goes on: {}", day.near.log());
    day.end(healed).unwrap();
}
