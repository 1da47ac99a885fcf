//! What can go wrong between the agent and the kernel: what, where, and how to mend it.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "kernel {found} is too old: Pillion needs Linux 5.15 or later on every node that it captures pods on"
    )]
    TooOld { found: String },

    #[error("the kernel has no BTF ({path} is missing): it must be built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf { path: &'static str },

    #[error(
        "the agent lacks {missing}: run it as root, or give it CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
    )]
    MissingCapabilities { missing: String },

    #[error(
        "no cgroup2 file system is mounted at its root here: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified), \
         or name it with --cgroup-root"
    )]
    NoCgroup2,

    #[error(
        "{path} is no cgroup2 directory: point --cgroup-root at the root of the node's cgroup2 file system"
    )]
    NotCgroup2 { path: PathBuf },

    #[error(
        "{path} is not usable as a BPF file system: {source}; mount one (mount -t bpf bpf DIR) and name it with --bpffs"
    )]
    Bpffs { path: PathBuf, source: io::Error },

    #[error(
        "{path} is no BPF file system, and one that is mounted in this pod would end with it, and captured pods would go plain: mount \
         one on the node (mount -t bpf bpf {path})"
    )]
    NoBpffs { path: PathBuf },

    #[error(
        "{name:?} is no name for a node: it becomes a directory below the BPF file system, which allows no dot or slash"
    )]
    NodeName { name: String },

    #[error(
        "the pins in {path} are in use by {holder}: another agent runs under this node's name; end it first, or give this one a \
         --node of its own"
    )]
    Held { path: PathBuf, holder: String },

    #[error("--bpf-log needs a build that has the hooks' log statements: cargo build --features bpf-log")]
    LogNotBuilt,

    #[error("the hooks' log could not be opened: {reason}")]
    Log { reason: String },

    #[error("the eBPF object could not be loaded: {source}; its maps are {maps}")]
    Object { maps: String, source: Box<aya::EbpfError> },

    #[error("the kernel's verifier refuses the program {program}: {source}; --log debug shows why")]
    Verifier { program: &'static str, source: io::Error },

    #[error("the program {program} could not be loaded: {source}")]
    Program { program: &'static str, source: Box<aya::programs::ProgramError> },

    #[error(
        "the eBPF object of this build has no {what} {name}: build the agent again, from one source tree"
    )]
    Incomplete { what: &'static str, name: &'static str },

    #[error("the program {program} could not be attached to {place}: {source}")]
    Attach { program: &'static str, place: String, source: io::Error },

    #[error("the link of the program {program} could not be {action}: {source}")]
    Link { program: &'static str, action: &'static str, source: io::Error },

    #[error("the links of this node cannot be asked about by netlink: {0}")]
    Netlink(io::Error),

    #[error("the map {map} could not be {action}: {source}")]
    Map { map: &'static str, action: &'static str, source: aya::maps::MapError },

    #[error("{path} could not be {action}: {source}")]
    Pin { path: PathBuf, action: &'static str, source: io::Error },
}
