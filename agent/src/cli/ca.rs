//! The certificate authority on the command line: which one an agent asks, `pillion ca`, and its server.

use super::{TrustDomainArgs, duration};
use crate::cluster::ObjectName;
use crate::istio_ca::{CaAddr, ClusterId};
use clap::{ArgGroup, Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Who signs the certificates of a node's pods: one of the two.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("authority").required(true).args(["ca_dir", "ca_addr"])))]
pub struct Authority {
    /// Directory of the embedded certificate authority's root; made if there is none. Nodes of one mesh share it.
    #[arg(long, value_name = "DIR", env = "PILLION_CA_DIR")]
    pub ca_dir: Option<PathBuf>,

    /// Ask this certificate authority, by Istio's protocol: `pillion ca serve`, with --kube only.
    #[arg(long, value_name = "HOST:PORT", env = "PILLION_CA_ADDR", conflicts_with = "manifests")]
    pub ca_addr: Option<CaAddr>,

    /// Where the authority of --ca-addr publishes what is trusted.
    #[arg(
        long,
        value_name = "NS/NAME",
        env = "PILLION_CA_CONFIG_MAP",
        default_value = "pillion-system/pillion-ca-root-cert"
    )]
    pub ca_config_map: ObjectName,

    /// The token by which the authority of --ca-addr knows this agent; read anew for each request.
    #[arg(
        long,
        value_name = "FILE",
        env = "PILLION_CA_TOKEN",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    pub ca_token: PathBuf,

    /// The name under which an istiod at --ca-addr knows this cluster: istiod's CLUSTER_ID. istiod refuses agents of a cluster that it
    /// does not know; `pillion ca serve` does not look at it.
    #[arg(long, value_name = "NAME", env = "PILLION_CLUSTER_ID", default_value = ClusterId::DEFAULT)]
    pub cluster_id: ClusterId,
}

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Sign for the nodes of a cluster until SIGTERM, by Istio's protocol; the root is in a Secret.
    Serve(Box<Serve>),
    #[command(flatten)]
    Operation(CaOperation),
}

/// What people do to an authority.
#[derive(Debug, Subcommand)]
pub enum CaOperation {
    /// Show the roots, what is revoked, and how far a rotation is.
    Show(CaPlace),
    /// Replace the root without losing a connection, in three steps that every agent has to follow.
    #[command(subcommand)]
    Rotate(Rotate),
    /// Revoke certificates: no agent accepts them any more, and open connections under them are cut.
    Revoke(Revoke),
}

#[derive(Debug, Subcommand)]
pub enum Rotate {
    /// Step 1: make a new root and have it trusted; nothing is signed by it yet.
    Begin(CaPlace),
    /// Step 2: sign with the new root from now on; the former one stays trusted.
    Switch(Switch),
    /// Step 3: trust the former root no longer.
    Finish(Finish),
}

/// Where the authority is: one of the two.
#[derive(Clone, Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("place").required(true).args(["ca_dir", "secret"])))]
pub struct CaPlace {
    /// The agents' --ca-dir.
    #[arg(long, value_name = "DIR", env = "PILLION_CA_DIR")]
    pub ca_dir: Option<PathBuf>,

    /// The --secret of `pillion ca serve`.
    #[arg(long, value_name = "NS/NAME", env = "PILLION_CA_SECRET")]
    pub secret: Option<ObjectName>,

    /// How to reach the API server, for --secret outside of a pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Switch {
    #[command(flatten)]
    pub place: CaPlace,

    /// Do not wait until the new root has been trusted for a minute: every agent shows it already.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Finish {
    #[command(flatten)]
    pub place: CaPlace,

    /// The longest --cert-lifetime of any agent: so long after the switch certificates of the former root may be in use.
    #[arg(long, value_name = "TIME", env = "PILLION_CERT_LIFETIME", default_value = "24h", value_parser = duration)]
    pub cert_lifetime: Duration,

    /// Do not wait for that time: no worker has a certificate of the former root any more.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Revoke {
    #[command(flatten)]
    pub place: CaPlace,

    /// Serial numbers in hexadecimal digits, as /config_dump and `openssl x509 -serial` show them.
    #[arg(required = true, value_name = "SERIAL", value_parser = serial)]
    pub serials: Vec<Serial>,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The Secret with the root; made, root and all, if there is none. One of type kubernetes.io/tls is read, too.
    #[arg(
        long,
        value_name = "NS/NAME",
        env = "PILLION_CA_SECRET",
        default_value = "pillion-system/pillion-ca"
    )]
    pub secret: ObjectName,

    /// The ConfigMap in which roots and CRLs are published.
    #[arg(
        long,
        value_name = "NS/NAME",
        env = "PILLION_CA_CONFIG_MAP",
        default_value = "pillion-system/pillion-ca-root-cert"
    )]
    pub config_map: ObjectName,

    /// Where to serve the protocol.
    #[arg(long, value_name = "ADDR", env = "PILLION_CA_LISTEN_ADDR", default_value = "[::]:15012")]
    pub addr: SocketAddr,

    /// Where to serve /metrics.
    #[arg(long, value_name = "ADDR", env = "PILLION_METRICS_ADDR", default_value = "[::]:15020")]
    pub metrics_addr: SocketAddr,

    /// Where to serve /healthz/live and /healthz/ready.
    #[arg(long, value_name = "ADDR", env = "PILLION_HEALTH_ADDR", default_value = "[::]:15021")]
    pub health_addr: SocketAddr,

    /// Service account of nodes' agents, which get certificates for the pods of their nodes. May be given several times.
    #[arg(
        long = "node-account",
        value_name = "NS/NAME",
        env = "PILLION_CA_NODE_ACCOUNTS",
        value_delimiter = ','
    )]
    pub node_accounts: Vec<ObjectName>,

    /// The audience that tokens have to be for.
    #[arg(long, value_name = "NAME", env = "PILLION_CA_AUDIENCE", default_value = "istio-ca")]
    pub audience: String,

    /// A host name of this server, for its own certificate. May be given several times; without it the Service pillion-ca in
    /// the namespace of --secret: `pillion-ca.NS.svc` and `pillion-ca.NS.svc.cluster.local`.
    #[arg(long = "dns-name", value_name = "NAME", env = "PILLION_CA_DNS_NAMES", value_delimiter = ',')]
    pub dns_names: Vec<String>,

    /// How long a certificate lives at most, whatever is asked for.
    #[arg(long, value_name = "TIME", env = "PILLION_CA_MAX_CERT_LIFETIME", default_value = "24h", value_parser = duration)]
    pub max_cert_lifetime: Duration,

    /// A directory in memory, below which the root is kept while the server runs.
    #[arg(long, value_name = "DIR", env = "PILLION_CA_MEMORY_DIR", default_value = "/dev/shm")]
    pub dir: PathBuf,

    #[command(flatten)]
    pub trust: TrustDomainArgs,

    /// How to reach the API server, outside of a pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// What to log to standard error: error, warn, info, debug, trace, or directives like `pillion_agent=debug`.
    #[arg(long, value_name = "FILTER", env = "PILLION_LOG", default_value = "info")]
    pub log: String,
}

/// A certificate's serial number: big-endian, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial(pub Vec<u8>);

impl CaOperation {
    pub fn place(&self) -> &CaPlace {
        match self {
            Self::Show(place) | Self::Rotate(Rotate::Begin(place)) => place,
            Self::Rotate(Rotate::Switch(switch)) => &switch.place,
            Self::Rotate(Rotate::Finish(finish)) => &finish.place,
            Self::Revoke(revoke) => &revoke.place,
        }
    }
}

/// `7b12…`, `7B:12:…`; at most 20 bytes (RFC 5280 §4.1.2.2).
fn serial(text: &str) -> Result<Serial, String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    let digits = digits.trim_start_matches('0');
    let digits = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let bytes = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u8::from_str_radix(pair, 16).ok()
    });
    match bytes.collect::<Option<Vec<u8>>>() {
        Some(bytes) if (1..=20).contains(&bytes.len()) => Ok(Serial(bytes)),
        _ => Err("a serial number is 1 to 20 bytes in hexadecimal digits, for example 7b12af00".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;

    #[test]
    fn a_serial_number_is_read_as_openssl_and_the_agent_write_it() {
        for text in ["7b12af", "7B:12:AF", "007b12af"] {
            assert_eq!(serial(text), Ok(Serial(vec![0x7b, 0x12, 0xaf])), "{text}");
        }
        assert_eq!(serial("b12"), Ok(Serial(vec![0x0b, 0x12])));
        for bad in ["", "0", "+1", "7b12xy", "ä1", &"11".repeat(21)] {
            assert!(serial(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_agent_has_one_authority_and_asks_a_remote_one_in_a_cluster_only() {
        let run = |args: &[&str]| {
            let given = ["pillion", "run", "--node=n1", "--state-dir=/state"];
            let parsed = Cli::try_parse_from(given.iter().chain(args));
            parsed.map(|cli| matches!(cli.command, Command::Run(_))).map_err(|e| e.to_string())
        };
        assert_eq!(run(&["--kube", "--ca-addr=ca.mesh.svc:15012"]), Ok(true));
        assert_eq!(run(&["--manifests=/m", "--ca-dir=/ca"]), Ok(true));
        for (args, part) in [
            (&["--kube"][..], "--ca-dir <DIR>|--ca-addr <HOST:PORT>"),
            (&["--kube", "--ca-dir=/ca", "--ca-addr=ca.mesh.svc:15012"], "cannot be used with"),
            (&["--manifests=/m", "--ca-addr=ca.mesh.svc:15012"], "--manifests"),
            (&["--kube", "--ca-addr=ca.mesh.svc"], "HOST:PORT"),
            (&["--kube", "--ca-addr=ca.mesh.svc:15012", "--cluster-id="], "--cluster-id"),
        ] {
            let said = run(args).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn an_operation_is_on_a_directory_or_on_a_secret() {
        let place = |args: &[&str]| match Cli::try_parse_from(["pillion", "ca", "show"].iter().chain(args)) {
            Ok(Cli { command: Command::Ca(Ca::Operation(operation)) }) => {
                let CaPlace { ca_dir, secret, .. } = operation.place().clone();
                Ok((ca_dir.is_some(), secret.is_some()))
            }
            Ok(_) => panic!("another command"),
            Err(e) => Err(e.to_string()),
        };
        assert_eq!(place(&["--ca-dir=/ca"]), Ok((true, false)));
        assert_eq!(place(&["--secret=mesh/ca"]), Ok((false, true)));
        assert!(place(&[]).is_err() && place(&["--ca-dir=/ca", "--secret=mesh/ca"]).is_err());
    }
}
