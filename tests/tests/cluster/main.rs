//! The cluster that the tests of Kubernetes stand on: what they will ask of it holds. It takes seconds to come up, but
//! minutes to build; `cargo xtask test` runs this as a step of its own, by the test's name.

mod nodes;
mod workloads;

use anyhow::Result;

use pillion_tests::cluster::Standing;

const WORKLOADS: &str = include_str!("workloads.yaml");

/// All in one, because they share one cluster.
#[test]
fn in_a_cluster_of_two_nodes_workloads_run_and_a_node_comes_back_with_its_disk() -> Result<()> {
    let standing = Standing::begin()?;
    standing.apply(WORKLOADS)?;
    standing.rolled_out("deployment/web")?;
    standing.rolled_out("daemonset/agent")?;
    standing.all_ready()?;
    standing.say("workloads ready");
    workloads::run_on_both_nodes(&standing)?;
    workloads::reach_each_other(&standing)?;
    workloads::are_probed(&standing)?;
    nodes::are_apart(&standing)?;
    nodes::come_back_with_their_disk(&standing)?;
    standing.end()
}
