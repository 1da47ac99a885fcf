//! What the agent is told of the container runtime.

use clap::Args;
use std::path::PathBuf;

/// Off unless told: an agent that runs by manifests alone must not meddle with a runtime that happens to be there, and one
/// that found its socket missing at boot would run without it, unseen.
#[derive(Clone, Debug, Args)]
pub struct NriOptions {
    /// The container runtime's NRI socket, /var/run/nri/nri.sock as a rule: pods are captured before their first container
    /// starts, and need no annotation pillion.dev/netns. Without it the runtime is not asked.
    #[arg(long = "nri-socket", value_name = "PATH", env = "PILLION_NRI_SOCKET")]
    pub socket: Option<PathBuf>,

    /// The runtime's folder of NRI plugins, /opt/nri/plugins as a rule: the agent installs a small plugin there, which the
    /// runtime starts itself, and which holds pods of the mesh while the agent is away. Without it nobody does.
    #[arg(long = "nri-plugin-dir", value_name = "DIR", env = "PILLION_NRI_PLUGIN_DIR", requires = "socket")]
    pub plugin_dir: Option<PathBuf>,

    /// The runtime's folder of configurations of NRI plugins.
    #[arg(
        long = "nri-config-dir",
        value_name = "DIR",
        env = "PILLION_NRI_CONFIG_DIR",
        default_value = "/etc/nri/conf.d"
    )]
    pub config_dir: PathBuf,

    /// Where that plugin reads which pods the agent has; it has to be empty after a boot, as directories below /run are.
    #[arg(
        long = "nri-pass-dir",
        value_name = "DIR",
        env = "PILLION_NRI_PASS_DIR",
        default_value = "/run/pillion/passes"
    )]
    pub pass_dir: PathBuf,
}
