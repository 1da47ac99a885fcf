//! What the agent is told of a container runtime without NRI.

use clap::Args;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
pub struct CriOptions {
    /// The container runtime's CRI socket, for example /run/containerd/containerd.sock, where its NRI is off: pods are
    /// captured as soon as they are heard of, which may be after their first container has started (best effort).
    #[arg(
        id = "cri_socket",
        long = "cri-socket",
        value_name = "PATH",
        env = "PILLION_CRI_SOCKET",
        conflicts_with = "socket"
    )]
    pub socket: Option<PathBuf>,
}
