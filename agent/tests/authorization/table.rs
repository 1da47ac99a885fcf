//! Reads the table of cases from Istio's documentation, `istio/*.yaml`.

use crate::world::{Connection, Identity, Pod, Verdict, World};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const FILES: [(&str, &str); 6] = [
    ("reference.yaml", include_str!("istio/reference.yaml")),
    ("conditions.yaml", include_str!("istio/conditions.yaml")),
    ("concepts.yaml", include_str!("istio/concepts.yaml")),
    ("tasks.yaml", include_str!("istio/tasks.yaml")),
    ("ambient.yaml", include_str!("istio/ambient.yaml")),
    ("peer_authentication.yaml", include_str!("istio/peer_authentication.yaml")),
];
const DESTINATION: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 20));

/// Policies of the documentation, and what becomes of connections under them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    pub name: String,
    /// The page that documents it.
    pub source: String,
    /// The argument, where the page speaks of layer 7 or leaves something open.
    #[serde(rename = "note")]
    _note: Option<String>,
    #[serde(default = "cluster_local")]
    trust_domain: String,
    #[serde(default)]
    trust_domain_aliases: Vec<String>,
    #[serde(default = "istio_system")]
    root_namespace: String,
    #[serde(default)]
    destination: Destination,
    #[serde(default)]
    policies: Vec<Value>,
    connections: Vec<Line>,
}

/// One connection, and what is expected of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    from: Option<Client>,
    #[serde(default)]
    plaintext: bool,
    ip: Option<IpAddr>,
    /// Where it is not the case's own destination.
    to: Option<Destination>,
    port: u16,
    expect: Expect,
    /// The policy that decides; none where it is the lack of one.
    by: Option<String>,
    #[serde(default)]
    rule: usize,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Client {
    namespace: String,
    service_account: String,
    trust_domain: Option<String>,
    ip: Option<IpAddr>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    namespace: String,
    #[serde(default = "cart")]
    labels: BTreeMap<String, String>,
    #[serde(default = "destination")]
    ip: IpAddr,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

/// A connection of a case.
pub struct Asked {
    pub world: World,
    pub connection: Connection,
    pub expected: Verdict,
}

pub fn cases() -> Vec<Case> {
    let read = |(file, text): (&str, &str)| -> Vec<Case> {
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    FILES.into_iter().flat_map(read).collect()
}

impl Case {
    pub fn asked(&self) -> impl Iterator<Item = Asked> {
        self.connections.iter().map(|line| {
            let to = line.to.as_ref().unwrap_or(&self.destination);
            let pod =
                Pod { namespace: to.namespace.clone(), labels: to.labels.clone(), addresses: vec![to.ip] };
            let world = World {
                root_namespace: self.root_namespace.clone(),
                trust_domains: self.trust_domains(),
                pod,
                policies: self.policies.iter().cloned().map(with_version).collect(),
            };
            let by = line.by.clone().map(|policy| (policy, line.rule));
            let expected = Verdict { allowed: line.expect == Expect::Allow, by };
            Asked { world, connection: self.connection(line, to), expected }
        })
    }

    fn trust_domains(&self) -> Vec<String> {
        [&self.trust_domain].into_iter().chain(&self.trust_domain_aliases).cloned().collect()
    }

    fn connection(&self, line: &Line, to: &Destination) -> Connection {
        let destination = SocketAddr::new(to.ip, line.port);
        match (&line.from, line.plaintext, line.ip) {
            (Some(from), false, None) => Connection {
                source: from.ip.unwrap_or(CLIENT),
                identity: Some(Identity {
                    trust_domain: from.trust_domain.clone().unwrap_or_else(|| self.trust_domain.clone()),
                    namespace: from.namespace.clone(),
                    service_account: from.service_account.clone(),
                }),
                destination,
            },
            (None, true, Some(source)) => Connection { source, identity: None, destination },
            _ => panic!("{}: a connection is either `from` somebody, or `plaintext` with an `ip`", self.name),
        }
    }
}

impl Default for Destination {
    fn default() -> Self {
        Self { namespace: "shop".to_owned(), labels: cart(), ip: destination() }
    }
}

/// What goes without saying in the table.
fn with_version(mut policy: Value) -> Value {
    let object = policy.as_object_mut().unwrap();
    object.entry("apiVersion").or_insert_with(|| "security.istio.io/v1".into());
    policy
}

fn cart() -> BTreeMap<String, String> {
    [("app".to_owned(), "cart".to_owned())].into()
}

fn destination() -> IpAddr {
    DESTINATION
}

fn cluster_local() -> String {
    "cluster.local".to_owned()
}

fn istio_system() -> String {
    "istio-system".to_owned()
}
