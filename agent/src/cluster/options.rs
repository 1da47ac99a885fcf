//! What the agent is told of the API server beside where it is.

use clap::Args;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
pub struct ClusterOptions {
    /// The key of a taint that is taken off this node once the agent is ready, for example pillion.dev/agent-not-ready.
    #[arg(long, value_name = "KEY", env = "PILLION_STARTUP_TAINT", requires = "kube")]
    pub startup_taint: Option<String>,

    /// Up to how long the agent waits, by chance, before it writes on a policy what is wrong with it: the first of all agents
    /// writes, the others find it written. The more nodes there are the nearer to this most agents wait.
    #[arg(long, value_name = "TIME", env = "PILLION_STATUS_DELAY", default_value = "1500ms", value_parser = humantime::parse_duration)]
    pub status_delay: Duration,
}
