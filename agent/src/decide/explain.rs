//! What would become of a connection, in words: for people who ask before they try.

use super::authorize::{Connection, Judgement, judge};
use super::placement::Placement;
use crate::mesh::{Mesh, MtlsMode, PodName, Policy, SpiffeId, Workload};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Who would connect.
enum Source<'a> {
    Pod(&'a Workload),
    /// Somebody of whom only the address is known.
    Address(IpAddr),
}

/// What would become of a connection, for each family of addresses that both ends have.
#[derive(Debug)]
pub struct Explanation<'a> {
    pub ways: Vec<Way<'a>>,
    /// What can never match of the policies that concern the destination, or are in its namespace.
    pub warnings: Vec<String>,
}

/// One way that the connection may take.
#[derive(Debug)]
pub struct Way<'a> {
    pub source: IpAddr,
    pub destination: SocketAddr,
    pub outcome: Outcome<'a>,
}

#[derive(Debug)]
pub enum Outcome<'a> {
    /// No policy is asked, for this reason.
    Unguarded(&'static str),
    /// Plaintext on a port that takes none.
    Strict,
    /// Policies decide, on a client that has proven to be this one.
    Judged { identity: Option<&'a SpiffeId>, judgement: Judgement<'a> },
}

/// Decides as worker and kernel would. A source is a pod's `namespace/name`, or an address; a destination is a pod. A pod
/// that this node has captured is asked about as the kernel has it (`placement`); others are what their objects say.
///
/// # Errors
/// When there is no such pod, or the two have no family of addresses in common, so that there is nothing that policies could
/// allow; in a sentence.
pub fn explain<'a>(
    mesh: &'a Mesh,
    placement: &'a Placement,
    source: &str,
    destination: &str,
    port: u16,
) -> Result<Explanation<'a>, String> {
    let (source, destination) = (Source::find(mesh, placement, source)?, pod(mesh, placement, destination)?);
    let from = |ipv6: bool| match &source {
        Source::Pod(pod) => pod.address(ipv6),
        Source::Address(ip) => Some(ip.to_canonical()).filter(|ip| ip.is_ipv6() == ipv6),
    };
    let way = |ipv6: bool| {
        let (source_ip, ip) = (from(ipv6)?, destination.address(ipv6)?);
        let at = SocketAddr::new(ip, port);
        Some(Way {
            source: source_ip,
            destination: at,
            outcome: outcome(&source, source_ip, destination, at),
        })
    };
    let ways: Vec<Way<'a>> = [false, true].into_iter().filter_map(way).collect();
    if !ways.is_empty() {
        return Ok(Explanation { ways, warnings: warnings(mesh, destination) });
    }
    let without = [source.pod().filter(|pod| pod.addresses.is_empty()), Some(destination)];
    match without.into_iter().flatten().find(|pod| pod.addresses.is_empty()) {
        Some(pod) => Err(format!(
            "no address of pod {} is known yet, so that policies cannot be asked, and nothing is allowed directly",
            pod.name
        )),
        None => {
            Err(format!("pod {} has no address that the source could reach from its own", destination.name))
        }
    }
}

fn warnings(mesh: &Mesh, destination: &Workload) -> Vec<String> {
    let authorization = &destination.authorization;
    let concerns = |policy: &Policy| {
        policy.name.namespace == destination.name.namespace
            || authorization.policies().iter().any(|concerning| concerning.name == policy.name)
    };
    let policies = mesh.policies.values().filter(|policy| !policy.warnings.is_empty() && concerns(policy));
    let said = policies.flat_map(|policy| {
        let warnings = policy.warnings(authorization.trust_domains());
        warnings.map(move |warning| format!("{} policy {}, {warning}", policy.action.as_str(), policy.name))
    });
    said.collect()
}

fn outcome<'a>(source: &Source<'a>, ip: IpAddr, destination: &'a Workload, at: SocketAddr) -> Outcome<'a> {
    if !destination.captured {
        return Outcome::Unguarded("the destination is not in the mesh");
    }
    if destination.exclusions.inbound_ports.contains(&at.port()) {
        return Outcome::Unguarded("the destination keeps the port out of the mesh");
    }
    let mode = destination.mtls.mode(at.port());
    let identity = match source {
        Source::Pod(pod) if pod.name == destination.name => {
            return Outcome::Unguarded("a pod's connections to itself are its own");
        }
        Source::Pod(pod) if pod.captured && mode != MtlsMode::Disable => Some(&pod.identity),
        Source::Pod(_) | Source::Address(_) => None,
    };
    if identity.is_none() && mode == MtlsMode::Strict {
        return Outcome::Strict;
    }
    let connection = Connection { source: ip, identity, destination: at };
    Outcome::Judged { identity, judgement: judge(&destination.authorization, &connection) }
}

impl Explanation<'_> {
    /// A line for each way.
    pub fn lines(&self) -> Vec<String> {
        let line = |way: &Way<'_>| format!("{} → {}, {}", way.source, way.destination, way.outcome);
        self.ways.iter().map(line).collect()
    }

    /// Whether every way is open.
    pub fn is_allowed(&self) -> bool {
        self.ways.iter().all(|way| way.outcome.is_allowed())
    }
}

impl Outcome<'_> {
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Unguarded(_) => true,
            Self::Strict => false,
            Self::Judged { judgement, .. } => judgement.verdict.is_allowed(),
        }
    }
}

impl<'a> Source<'a> {
    /// The address of a pod is the pod.
    fn find(mesh: &'a Mesh, placement: &'a Placement, text: &str) -> Result<Self, String> {
        let Ok(ip) = text.parse::<IpAddr>() else { return pod(mesh, placement, text).map(Self::Pod) };
        let placed = placement.at(ip).and_then(|netns| placement.pod(netns));
        let pod = placed.filter(|placed| placed.is_member()).map(|placed| &*placed.workload);
        let pod = pod.or_else(|| mesh.by_address.get(&ip.to_canonical()).map(|pod| &**pod));
        Ok(pod.map_or(Self::Address(ip), Self::Pod))
    }

    fn pod(&self) -> Option<&'a Workload> {
        match self {
            Self::Pod(pod) => Some(pod),
            Self::Address(_) => None,
        }
    }
}

fn pod<'a>(mesh: &'a Mesh, placement: &'a Placement, text: &str) -> Result<&'a Workload, String> {
    let (namespace, name) =
        text.split_once('/').ok_or_else(|| format!("{text:?} names no pod: write namespace/name"))?;
    let name = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
    let pod = placement.member(&name).or_else(|| mesh.workloads.get(&name).map(|pod| &**pod));
    pod.ok_or_else(|| format!("there is no pod {name}"))
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unguarded(why) => write!(f, "allowed: no policy is asked, because {why}"),
            Self::Strict => f.write_str("in plain, denied: the port takes none (PeerAuthentication STRICT)"),
            Self::Judged { identity, judgement } => {
                match identity {
                    Some(identity) => write!(f, "as {identity}, ")?,
                    None => f.write_str("in plain, ")?,
                }
                write!(f, "{}", judgement.verdict)?;
                if let Some(rehearsal) = &judgement.rehearsal {
                    write!(f, "; without dry runs it would be {rehearsal}")?;
                }
                judgement.audits.iter().try_for_each(|audit| write!(f, "; audited by {audit}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Placed, Standing};
    use crate::manifest::{Settings, parse, snapshot};
    use std::collections::HashMap;
    use std::sync::Arc;

    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {pillion.dev/capture: enabled}}, spec: {serviceAccountName: web}, status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: cart, labels: {app: cart, pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: new, labels: {pillion.dev/capture: enabled}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: early, labels: {pillion.dev/capture: enabled}}, spec: {serviceAccountName: early}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: cart}, spec: {selector: {matchLabels: {app: cart}}, portLevelMtls: {"70": {mode: DISABLE}, "71": {mode: STRICT}}}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {selector: {matchLabels: {app: cart}}, rules: [{from: [{source: {serviceAccounts: [web], notIpBlocks: ["fd00::1"]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: a}, spec: {selector: {matchLabels: {app: cart}}, action: AUDIT, rules: [{to: [{operation: {ports: ["90"]}}]}]}}
"#;

    /// The node has captured `early`, whose object has no address yet.
    fn placement(mesh: &Mesh) -> Placement {
        let name = PodName { namespace: "default".into(), name: "early".into() };
        let mut early = Workload::clone(&mesh.workloads[&name]);
        early.addresses = vec![IpAddr::from([10, 0, 0, 7])];
        let placed = Placed { workload: Arc::new(early), standing: Standing::Member(Ok(())) };
        Placement::default().next(1, HashMap::from([(7, placed)]))
    }

    fn ask(source: &str, destination: &str, port: u16) -> Result<(bool, Vec<String>), String> {
        let objects = parse("x.yaml", MANIFESTS.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        explain(&mesh, &placement(&mesh), source, destination, port)
            .map(|explanation| (explanation.is_allowed(), explanation.lines()))
    }

    // proves: POL-1
    #[test]
    fn each_family_of_addresses_is_explained_with_the_rule_that_decides() {
        let (allowed, lines) = ask("default/web", "default/cart", 90).unwrap();
        assert!(!allowed);
        let web = "as spiffe://cluster.local/ns/default/sa/web";
        let audited = "; audited by rule 0 of AUDIT policy default/a";
        assert_eq!(
            lines,
            [
                format!(
                    "10.0.0.1 → 10.0.0.2:90, {web}, allowed by rule 0 of ALLOW policy default/p{audited}"
                ),
                format!(
                    "fd00::1 → [fd00::2]:90, {web}, denied: ALLOW policies concern the pod, and none of them matches{audited}"
                ),
            ]
        );
    }

    #[test]
    fn what_no_policy_is_asked_about_says_why() {
        for (source, destination, port, expected) in [
            (
                "default/web",
                "default/plain",
                80,
                "allowed: no policy is asked, because the destination is not in the mesh",
            ),
            ("default/web", "default/cart", 9090, "keeps the port out of the mesh"),
            ("default/cart", "default/cart", 80, "a pod's connections to itself are its own"),
            (
                "10.9.9.9",
                "default/cart",
                71,
                "in plain, denied: the port takes none (PeerAuthentication STRICT)",
            ),
            ("default/plain", "default/cart", 80, "in plain, denied: ALLOW policies concern"),
            // By its address a pod is the pod, and a port that takes no mutual TLS is reached in plain.
            ("10.0.0.1", "default/cart", 80, "allowed by rule 0 of ALLOW policy default/p"),
            ("default/web", "default/cart", 70, "in plain, denied: ALLOW policies concern"),
        ] {
            let (_, lines) = ask(source, destination, port).unwrap();
            assert!(lines[0].contains(expected), "{source} {destination} {port}: {}", lines[0]);
        }
    }

    // proves: SEC-3
    #[test]
    fn a_pod_that_the_node_has_captured_is_asked_about_at_the_addresses_that_the_kernel_has() {
        for source in ["default/early", "10.0.0.7"] {
            let (allowed, lines) = ask(source, "default/cart", 80).unwrap();
            let early = "10.0.0.7 → 10.0.0.2:80, as spiffe://cluster.local/ns/default/sa/early";
            assert!(!allowed && lines[0].starts_with(early), "{source}: {lines:?}");
        }
    }

    #[test]
    fn a_question_without_an_answer_says_what_is_missing() {
        assert_eq!(ask("default/nobody", "default/cart", 80).unwrap_err(), "there is no pod default/nobody");
        assert_eq!(ask("web", "default/cart", 80).unwrap_err(), "\"web\" names no pod: write namespace/name");
        let unknown = "no address of pod default/new is known yet, so that policies cannot be asked, and nothing is \
                       allowed directly";
        assert_eq!(ask("default/web", "default/new", 80).unwrap_err(), unknown);
        assert_eq!(ask("default/new", "default/cart", 80).unwrap_err(), unknown);
        assert_eq!(ask("default/new", "default/plain", 80).unwrap_err(), unknown);
    }
}
