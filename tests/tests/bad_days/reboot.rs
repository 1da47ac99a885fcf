//! A node that boots, again and again: its pods have the names and addresses that they had, and other network namespaces.

use std::fs;

use pillion_tests::wait;
use serde_json::Value;

use crate::day::Day;

const TIMES: usize = 20;

// proves: SEC-3
#[test]
fn a_node_that_boots_20_times_serves_its_pods_as_they_are() {
    let mut day = Day::begin("node rebooted 20 times").unwrap();
    let cookie = |day: &Day| {
        day.near.worker(&day.inside).unwrap().map_or(Value::Null, |worker| worker["netns_cookie"].clone())
    };
    let mut longest: f64 = 0.0;
    for time in 0..TIMES {
        day.pause().unwrap();
        let before = cookie(&day);
        let begun = wait::now();
        match time % 3 {
            // The agent sees it happen.
            2 => {
                day.inside.remake().unwrap();
                let remade = |dump: &Value| {
                    let mut workers = dump["workers"].as_array().into_iter().flatten();
                    workers.any(|worker| worker["pod"] == "inside" && worker["netns_cookie"] != before)
                };
                day.near.wait_config("the pod's new network namespace", remade).unwrap();
            }
            // It does not, and finds what the last one pinned.
            0 => {
                day.near.kill().unwrap();
                day.inside.remake().unwrap();
                day.near.begin_restart().unwrap();
            }
            // A node that boots has no pins.
            _ => {
                day.near.kill().unwrap();
                fs::remove_dir_all(day.bed.bpffs().join("pillion/n1")).unwrap();
                day.inside.remake().unwrap();
                day.near.begin_restart().unwrap();
            }
        }
        day.near.wait_ready().unwrap();
        // The needles begin once the agent serves: what a node without a container runtime's hold starts before is plain.
        day.settle().unwrap();
        longest = longest.max(wait::now() - begun);
    }
    day.note();
    day.end(longest).unwrap();
}
