//! By this name `cargo xtask test` tells it from tests that need no cluster: it goes with the cluster's.

mod first_act;
mod label;
mod leave;
mod power;
mod restarts;
mod rolling;
mod upgrade;
mod wire;
mod workloads;

use anyhow::Result;

use crate::deployed::Deployed;

// proves: CAP-1, CAP-2, CAP-3, ID-1, ID-3, LIF-1, LIF-3, LIF-4, LIF-5
#[test]
fn a_mesh_is_installed_carries_what_clusters_run_through_restarts_and_leaves_nothing() -> Result<()> {
    let deployed = Deployed::bare()?;
    label::pods_run_plain(&deployed)?;
    deployed.install(&["agent.accessLog=true"])?;
    label::brings_running_pods_into_the_mesh_and_gives_them_back(&deployed)?;
    workloads::run_unchanged_under_strict(&deployed)?;
    first_act::is_in_the_mesh_every_time(&deployed)?;
    rolling::loses_no_request(&deployed)?;
    restarts::of_the_agent_are_not_noticed_by_direct_connections(&deployed)?;
    upgrade::that_cannot_start_stops_with_every_old_agent_serving(&deployed)?;
    upgrade::that_fails_to_take_over_stops_at_the_first_node(&deployed)?;
    restarts::of_the_cluster_are_not_noticed_by_the_mesh(&deployed)?;
    power::comes_back_without_a_plain_connection(&deployed)?;
    leave::leaves_nothing_on_the_nodes(&deployed)?;
    deployed.standing.end()
}
