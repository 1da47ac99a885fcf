//! The command line, as plain data. Every flag can be given as an environment variable, none as a file.

mod ca;

pub use ca::{Authority, Ca, CaOperation, CaPlace, Finish, Revoke, Rotate, Serial, Serve, Switch};

use crate::admin::Probe;
use crate::cluster::{ClusterOptions, ObjectName};
use crate::cri::CriOptions;
use crate::decide::DirectMode;
use crate::kernel::Probes;
use crate::manifest::ROOT_NAMESPACE;
use crate::manifest::names::is_label;
use crate::mesh::{TrustDomain, TrustDomains};
use crate::nri::NriOptions;
use crate::sandbox::ForeignRuntimes;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Pillion: a sidecarless service mesh, one agent per node, accelerated by eBPF.
#[derive(Debug, Parser)]
#[command(name = "pillion", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this node's agent until SIGTERM.
    Run(Box<Run>),
    /// Say whether a connection would be let in, and which policy's rule decides (exit code 0: yes, 1: no, 2: no answer).
    Authz(Authz),
    /// Ask an agent's process for its health, by its own socket; for probes (exit code 0: yes, 1: no, 2: no answer).
    Health(Health),
    /// Remove every eBPF link, map and pin that the agent with this state directory left in the kernel.
    Uninstall(Uninstall),
    /// What concerns the agents of a whole cluster.
    #[command(subcommand)]
    Cluster(Cluster),
    /// The certificate authority: look after its roots, and what it has revoked; or serve it to a cluster.
    #[command(subcommand)]
    Ca(Ca),
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Delete the agents' DaemonSet and wait until every agent has taken everything off its node.
    Uninstall(ClusterUninstall),
}

#[derive(Debug, Args)]
pub struct Run {
    /// Name of this node, as `spec.nodeName` of its pods has it.
    #[arg(long, env = "PILLION_NODE")]
    pub node: String,

    #[command(flatten)]
    pub objects: Objects,

    #[command(flatten)]
    pub authority: Authority,

    /// Directory for what this agent has to remember; one agent each.
    #[arg(long, value_name = "DIR", env = "PILLION_STATE_DIR")]
    pub state_dir: PathBuf,

    /// Another agent may still have the node: check beforehand all that can be checked, wait until it ends, and take over at
    /// once. For a DaemonSet that replaces its pods with maxSurge.
    #[arg(long, env = "PILLION_STANDBY")]
    pub standby: bool,

    /// The DaemonSet, namespace/name, whose pod this is. An agent that is told to end while it is being deleted gives its
    /// pods free and takes everything off the node; in any other case the hooks stay for the next agent.
    #[arg(long, value_name = "NAME", env = "PILLION_DAEMONSET", requires = "kube")]
    pub daemonset: Option<ObjectName>,

    /// Of which version of that DaemonSet this pod is: the value of its label controller-revision-hash. An agent that stands by
    /// then waits until agents of that version have taken over well on other nodes.
    #[arg(long, value_name = "HASH", env = "PILLION_REVISION", requires = "daemonset")]
    pub revision: Option<String>,

    /// Where to serve /config_dump, /logging and /audit.
    #[arg(long, value_name = "ADDR", env = "PILLION_ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub admin_addr: SocketAddr,

    /// Where to serve /metrics.
    #[arg(long, value_name = "ADDR", env = "PILLION_METRICS_ADDR", default_value = "[::]:15020")]
    pub metrics_addr: SocketAddr,

    /// Where to serve /healthz/live and /healthz/ready, once the agent serves the node.
    #[arg(long, value_name = "ADDR", env = "PILLION_HEALTH_ADDR", default_value = "127.0.0.1:15021")]
    pub health_addr: SocketAddr,

    /// A Unix socket of this process alone, where the same is served from its start on, also while it stands by: for
    /// `pillion health`.
    #[arg(long, value_name = "PATH", env = "PILLION_HEALTH_SOCKET")]
    pub health_socket: Option<PathBuf>,

    #[command(flatten)]
    pub trust: TrustDomainArgs,

    /// The namespace whose PeerAuthentication is the whole mesh's (Istio's root namespace).
    #[arg(long, value_name = "NAME", env = "PILLION_ROOT_NAMESPACE", default_value = ROOT_NAMESPACE, value_parser = namespace)]
    pub root_namespace: String,

    #[command(flatten)]
    pub cluster: ClusterOptions,

    #[command(flatten)]
    pub nri: NriOptions,

    #[command(flatten)]
    pub cri: CriOptions,

    #[command(flatten)]
    pub foreign_runtimes: ForeignRuntimes,

    /// Whether pods of this node may talk directly, in plain TCP that the kernel vouches for; off: always mutual TLS.
    #[arg(long, value_name = "MODE", env = "PILLION_DIRECT", default_value = "auto")]
    pub direct: DirectMode,

    /// How a kubelet's probe is known, which STRICT and policies let pass: attested, by the node's own socket that the hooks
    /// have seen; or by the node's addresses, which masqueraded traffic has, too.
    #[arg(long, value_name = "HOW", env = "PILLION_PROBES", value_enum, default_value_t = Probes::Auto)]
    pub probes: Probes,

    /// Write one JSON line to standard output for every connection.
    #[arg(long, env = "PILLION_ACCESS_LOG")]
    pub access_log: bool,

    /// The cgroup below which connections are captured; by default the root that this process sees.
    #[arg(long, value_name = "DIR", env = "PILLION_CGROUP_ROOT")]
    pub cgroup_root: Option<PathBuf>,

    /// The BPF file system to pin to; mounted if it is not there, but for an agent of a DaemonSet, whose mounts end with its pod.
    #[arg(long, value_name = "DIR", env = "PILLION_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// How long open connections may go on after SIGTERM; a second SIGTERM ends them at once.
    #[arg(long, value_name = "TIME", env = "PILLION_DRAIN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// How long a connection to an app or a peer may take to come up (Istio's default).
    #[arg(long, value_name = "TIME", env = "PILLION_CONNECT_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,

    /// How often kernel and workers are compared with the mesh, and mended.
    #[arg(long, value_name = "TIME", env = "PILLION_AUDIT_INTERVAL", default_value = "5s", value_parser = duration)]
    pub audit_interval: Duration,

    /// How long workload certificates live; they are renewed at 50 to 70 % of it.
    #[arg(long, value_name = "TIME", env = "PILLION_CERT_LIFETIME", default_value = "24h", value_parser = duration)]
    pub cert_lifetime: Duration,

    /// TCP congestion control of connections between workers; by default the node's own.
    #[arg(long, value_name = "NAME", env = "PILLION_HBONE_CONGESTION")]
    pub hbone_congestion: Option<String>,

    /// Metrics whose labels no connection used for this long are dropped.
    #[arg(long, value_name = "TIME", env = "PILLION_METRICS_IDLE", default_value = "15m", value_parser = duration)]
    pub metrics_idle: Duration,

    /// What to log to standard error: error, warn, info, debug, trace, or directives like `pillion_agent=debug`.
    #[arg(long, value_name = "FILTER", env = "PILLION_LOG", default_value = "info")]
    pub log: String,

    /// Log what the eBPF hooks decide (6 µs a connection; needs a build with `--features bpf-log`).
    #[arg(long, env = "PILLION_BPF_LOG")]
    pub bpf_log: bool,

    /// Lets POST /panic at --admin-addr end a pod's worker by a panic: for tests of what follows. No environment variable sets it.
    #[arg(long, hide = true)]
    pub panic_on_request: bool,
}

/// Where the mesh's objects come from: one of the two.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("objects").required(true).args(["manifests", "kube"])))]
pub struct Objects {
    /// Directory of Kubernetes manifests (Pod, Service, EndpointSlice, Namespace, policies) to watch.
    #[arg(long, value_name = "DIR", env = "PILLION_MANIFESTS")]
    pub manifests: Option<PathBuf>,

    /// Watch these objects at a cluster's API server: that of the cluster whose pod this is, or the one --kubeconfig names.
    #[arg(long, env = "PILLION_KUBE")]
    pub kube: bool,

    /// How to reach the API server, for --kube outside of a pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Authz {
    /// Who connects: namespace/name of a pod, or an address.
    pub source: String,

    /// To which pod: namespace/name.
    pub destination: String,

    /// To which of the pod's own ports (not a Service's).
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// The agent that is asked, at its --admin-addr; any agent of the mesh knows.
    #[arg(long, value_name = "ADDR", env = "PILLION_ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub admin_addr: SocketAddr,

    /// Ask these manifests instead of an agent, for example before they are applied.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    #[command(flatten)]
    pub trust: TrustDomainArgs,

    /// The namespace whose policies are the whole mesh's, for --manifests.
    #[arg(long, value_name = "NAME", env = "PILLION_ROOT_NAMESPACE", default_value = ROOT_NAMESPACE, value_parser = namespace)]
    pub root_namespace: String,
}

/// The mesh's trust domain, under all of its names.
#[derive(Debug, Args)]
pub struct TrustDomainArgs {
    /// The authority that this mesh's identities belong to.
    #[arg(long, value_name = "NAME", env = "PILLION_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,

    /// Other names of the trust domain, former or future: peers and policies may use any of them.
    #[arg(long, value_name = "NAME,…", env = "PILLION_TRUST_DOMAIN_ALIASES", value_delimiter = ',')]
    pub trust_domain_aliases: Vec<TrustDomain>,
}

#[derive(Debug, Args)]
pub struct Health {
    /// What to ask.
    pub probe: Probe,

    /// The agent's --health-socket.
    #[arg(long, value_name = "PATH", env = "PILLION_HEALTH_SOCKET")]
    pub socket: PathBuf,
}

#[derive(Debug, Args)]
pub struct Uninstall {
    /// The agent's --state-dir.
    #[arg(long, value_name = "DIR", env = "PILLION_STATE_DIR")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct ClusterUninstall {
    /// The agents' DaemonSet, namespace/name.
    #[arg(long, value_name = "NAME", env = "PILLION_DAEMONSET")]
    pub daemonset: ObjectName,

    /// How long it may take; longer than the agents' --drain-timeout.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,

    /// How to reach the API server outside of a pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

impl TrustDomainArgs {
    pub fn trust_domains(&self) -> TrustDomains {
        TrustDomains::new(self.trust_domain.clone(), self.trust_domain_aliases.iter().cloned())
    }
}

fn namespace(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => Err("a namespace's name is at most 63 lower-case letters, digits and dashes".into()),
    }
}

/// `90s`, `5m`, `24h`; never zero.
fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("a time longer than zero is needed, for example 5s".into()),
        Ok(duration) => Ok(duration),
        Err(e) => Err(format!("{e}; write a number and a unit, for example 5s, 10m or 24h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn objects_come_from_a_directory_or_from_an_api_server() {
        let run = |args: &[&str]| {
            let given = ["pillion", "run", "--node=n1", "--ca-dir=/ca", "--state-dir=/state"];
            match Cli::try_parse_from(given.iter().chain(args)) {
                Ok(Cli { command: Command::Run(run) }) => {
                    Ok((run.objects.manifests.is_some(), run.objects.kube))
                }
                Ok(_) => panic!("another command"),
                Err(error) => Err(error.to_string()),
            }
        };
        assert_eq!(run(&["--manifests=/m"]), Ok((true, false)));
        assert_eq!(run(&["--kube"]), Ok((false, true)));
        assert_eq!(run(&["--kube", "--kubeconfig=/k"]), Ok((false, true)));
        for (args, parts) in [
            (&[][..], ["--manifests <DIR>|--kube", "required"]),
            (&["--kube", "--manifests=/m"], ["--manifests", "'--kube'"]),
        ] {
            let said = run(args).unwrap_err();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    #[test]
    fn a_root_namespace_is_one_that_can_be() {
        assert_eq!(namespace(ROOT_NAMESPACE), Ok(ROOT_NAMESPACE.to_owned()));
        assert!(namespace("Istio System").is_err());
    }

    #[test]
    fn times_need_a_unit_and_a_length() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err());
        assert!(duration("10").is_err());
    }
}
