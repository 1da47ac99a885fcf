//! Which of the pod's open connections the mesh allows no longer: those that the worker carries to its apps, and, among
//! the pod's sockets, those that no worker carries.

use super::context::Context;
use super::direct::LookError;
use super::opened::{Ends, Opened, own_sockets};
use super::{OUTBOUND_PORT, Terms};
use crate::decide::{
    self, Connection, DirectMode, NotDirect, Placed, Placement, PodAddresses, Standing, authorize, direct_by,
};
use crate::hbone::HBONE_PORT;
use crate::kernel::{AttestedFlow, OpenSocket, SockDiag, Stage};
use crate::mesh::{Mesh, MtlsMode, Policy, Workload};
use std::cell::OnceCell;
use std::collections::HashSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

/// The reason of connections that policies deny, as metrics give it.
const DENIED: &str = "denied";

/// Why an open connection is cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Cut {
    #[error("it may not be direct any more: {0}")]
    NotDirect(NotDirect),
    #[error("the port takes no plaintext any more (PeerAuthentication STRICT)")]
    Strict,
    #[error(
        "it came in plain to an address that the mesh does not know, and the pod takes no such plaintext any more"
    )]
    UnknownAddress,
    #[error("in plain, {0}")]
    Denied(String),
}

/// Judges every open connection of the pod by the node's pods and the mesh as they are now. Gives the generation of the
/// placement that it was done by (`Placement::generation`).
///
/// # Errors
/// What stood in the way, of whatever was not judged, or judged and not cut. All else was.
pub(super) fn judge(context: &Context, terms: &Terms, opened: &mut Opened) -> Result<u64, String> {
    let (mesh, placement) = (context.mesh(), context.direct.placement());
    let Some(own) = placement.pod(context.netns_cookie) else {
        return Err("the node does not say yet how the pod is captured".to_owned());
    };
    // A pod that has left the mesh keeps what it has opened.
    if own.is_member() {
        for denied in context.admitted.judge(&own.workload) {
            tracing::info!(pod = %context.name, "cut an open connection: {denied}");
            context.metrics.direct().cut(DENIED);
        }
        cut_forbidden(context, &mesh, &placement, &own.workload, terms, opened)?;
    }
    Ok(placement.generation())
}

fn cut_forbidden(
    context: &Context,
    mesh: &Mesh,
    placement: &Placement,
    pod: &Workload,
    terms: &Terms,
    opened: &mut Opened,
) -> Result<(), String> {
    let mut diag = SockDiag::open().map_err(|e| e.to_string())?;
    let sockets = diag.sockets(true).map_err(|e| e.to_string())?;
    let (listeners, connections): (Vec<OpenSocket>, Vec<OpenSocket>) =
        sockets.into_iter().partition(|socket| socket.stage == Stage::Listening);
    let listening = listeners.iter().map(|socket| socket.local.port()).collect();
    opened.note(pod, &connections.iter().map(Ends::of).collect::<Vec<_>>(), &listening);
    let agents = OnceCell::new();
    let own = (context.netns_cookie, pod);
    let law = Law { mesh, placement, own, terms, has_rules: OnceCell::new() };
    for_each(connections.iter(), |socket| {
        let OpenSocket { local, remote, opener, .. } = *socket;
        let flow = context.direct.flows.get(local, remote)?;
        let is_nodes =
            pod.probe_ports.contains(&local.port()) && context.direct.node_flows.has(remote, local)?;
        let Some(cut) = law.judge(local, remote, flow, is_nodes) else { return Ok(()) };
        // A port that is listened on vouches only where the kernel does not say which side began.
        if flow.is_none() && (opener.is_some() || !listening.contains(&local.port())) {
            // Asked last, because it reads all of the agent's descriptors.
            if agents.get().is_none() {
                let _ = agents.set(own_sockets()?);
            }
            let is_agents = |inode| agents.get().is_some_and(|own: &HashSet<u32>| own.contains(&inode));
            if opened.has(&Ends::of(socket), is_agents) {
                return Ok(());
            }
        }
        // A connection that has ended by itself meanwhile needs no end.
        if diag.destroy(socket)? {
            tracing::info!(pod = %context.name, %local, %remote, "cut an open connection: {cut}");
            context.metrics.direct().cut(cut.reason());
        }
        Ok::<_, LookError>(())
    })
}

/// Does it to every item: what goes wrong with one connection is no reason to leave the others.
///
/// # Errors
/// The first that there was, and how many more connections it went wrong with.
fn for_each<T, E: Display>(
    items: impl Iterator<Item = T>,
    act: impl FnMut(T) -> Result<(), E>,
) -> Result<(), String> {
    let mut wrong = items.map(act).filter_map(Result::err);
    let Some(first) = wrong.next() else { return Ok(()) };
    match wrong.count() {
        0 => Err(first.to_string()),
        more => Err(format!("{first}; the same or the like is so of {more} more connections")),
    }
}

/// What a connection is judged by.
struct Law<'a> {
    mesh: &'a Mesh,
    placement: &'a Placement,
    /// The pod whose connections are judged, and the cookie of its network namespace.
    own: (u64, &'a Workload),
    terms: &'a Terms,
    /// Whether policies may refuse plaintext to the pod: worked out when it is asked for.
    has_rules: OnceCell<bool>,
}

/// An end of a direct connection.
enum End<'a> {
    /// A member of the mesh; why its path is not the kernel's, where it is not.
    Member(&'a Workload, Option<&'a NotDirect>),
    /// A pod that has left the mesh: its object says so.
    Released,
    /// Nobody that anything is known of.
    Unknown,
}

impl<'a> Law<'a> {
    /// Judges one of the pod's connections, as one that was accepted where nobody vouches for it; `flow` is what the kernel has attested of it, and `is_nodes` says whether a
    /// socket of the node's own has opened it.
    fn judge(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        flow: Option<AttestedFlow>,
        is_nodes: bool,
    ) -> Option<Cut> {
        match flow {
            Some(flow) => self.attested(&flow).err().map(Cut::NotDirect),
            None => self.plaintext(local, remote, is_nodes).err(),
        }
    }

    /// A connection that the kernel vouches for goes on as long as all is known that a new one would need, and allows it.
    ///
    /// A pod that has left the mesh is known: its object says so, and what it has opened goes on (CAP-1). An end that nothing
    /// is known of is another matter. Of an unknown client nobody can say which policies would deny it, not even those
    /// that name who is denied: its connection goes on only where anybody's plaintext might, that is, where the port is not
    /// STRICT and no policy concerns the pod. Of an unknown server nobody can say who it is, and the client was promised that.
    fn attested(&self, flow: &AttestedFlow) -> Result<(), NotDirect> {
        let (own_netns, own) = self.own;
        let is_own_client = flow.client_netns == own_netns;
        if is_own_client && self.placement.at(flow.server.ip()) == Some(own_netns) {
            return Ok(());
        }
        let client = self.client(flow);
        // Whoever has not opened it himself has accepted it.
        let server = if is_own_client { self.server(flow.server.ip()) } else { self.placed(own_netns) };
        let (port, pair) = (flow.server.port(), (flow.client.ip(), flow.server.ip()));
        match (client, server) {
            (End::Released, _) | (_, End::Released) => Ok(()),
            _ if self.terms.direct == DirectMode::Off => Err(NotDirect::MeshOff),
            (End::Member(client, why), End::Member(server, why_not)) => {
                if let Some(reason) = why.into_iter().chain(why_not).find(|why| why.ends_open_connections()) {
                    return Err(reason.clone());
                }
                let pairs = PodAddresses::of(client).pairs(PodAddresses::of(server));
                direct_by(client, server, port, &pairs.chain([pair]).collect::<Vec<_>>())
            }
            (End::Unknown, End::Member(..)) if !is_own_client && is_open_to_all(own, port) => Ok(()),
            (End::Unknown, _) => {
                let what = format!("it is not known which pod has opened it from {}", flow.client);
                Err(NotDirect::Unknown { what })
            }
            (_, End::Unknown) => {
                Err(NotDirect::Unknown { what: format!("it is not known which pod is at {}", flow.server) })
            }
        }
    }

    /// Who has opened it, by the network namespace that the kernel has seen.
    fn client(&self, flow: &AttestedFlow) -> End<'a> {
        match self.placed(flow.client_netns) {
            // A pod that is captured at the address has another network namespace: it is not this one.
            End::Unknown if self.placement.at(flow.client.ip()).is_none() => self.by_object(flow.client.ip()),
            end => end,
        }
    }

    fn server(&self, ip: IpAddr) -> End<'a> {
        self.placement.at(ip).map_or_else(|| self.by_object(ip), |netns| self.placed(netns))
    }

    fn placed(&self, netns: u64) -> End<'a> {
        match self.placement.pod(netns) {
            Some(Placed { workload, standing: Standing::Member(owned) }) => {
                End::Member(workload, owned.as_ref().err())
            }
            Some(Placed { standing: Standing::Released, .. }) => End::Released,
            None => End::Unknown,
        }
    }

    /// By the object of a pod that this agent has not captured (yet). One that is to be captured is on its way in: its own
    /// worker judges once more what it has open.
    fn by_object(&self, ip: IpAddr) -> End<'a> {
        match self.mesh.owner(ip) {
            Some(pod) if pod.captured => End::Member(pod, None),
            Some(_) => End::Released,
            None => End::Unknown,
        }
    }

    /// As the kernel refuses it before it becomes a connection.
    fn plaintext(&self, local: SocketAddr, remote: SocketAddr, is_nodes: bool) -> Result<(), Cut> {
        let ((_, pod), port) = (self.own, local.port());
        let is_own = |ip| pod.addresses.contains(&ip);
        let is_within = local.ip().is_loopback();
        let is_from_outside = !remote.ip().is_loopback() && !is_own(remote.ip());
        let is_mesh_port = port == HBONE_PORT || port == OUTBOUND_PORT;
        if is_within || !is_from_outside || is_mesh_port {
            return Ok(());
        }
        if !is_own(local.ip()) {
            // The guard knows no ports there, nor networks that may connect.
            let is_closed = pod.mtls.default == MtlsMode::Strict || self.has_rules();
            return if is_closed { Err(Cut::UnknownAddress) } else { Ok(()) };
        }
        let is_from_node = is_nodes || self.terms.node_addresses.contains(&remote.ip());
        let is_probe = pod.probe_ports.contains(&port) && is_from_node;
        if is_probe || pod.exclusions.inbound_ports.contains(&port) {
            return Ok(());
        }
        if pod.mtls.mode(port) == MtlsMode::Strict {
            return Err(Cut::Strict);
        }
        let connection = Connection { source: remote.ip(), identity: None, destination: local };
        match authorize(&pod.authorization, &connection) {
            verdict if verdict.is_allowed() => Ok(()),
            verdict => Err(Cut::Denied(verdict.to_string())),
        }
    }

    fn has_rules(&self) -> bool {
        *self.has_rules.get_or_init(|| decide::plaintext(self.own.1).is_some())
    }
}

/// Whether anybody may connect to the port, whoever he is: it takes plaintext, and no policy is asked.
fn is_open_to_all(pod: &Workload, port: u16) -> bool {
    let is_asked = || pod.authorization.policies().iter().any(|policy| Policy::is_enforced(policy));
    pod.exclusions.inbound_ports.contains(&port) || (pod.mtls.mode(port) != MtlsMode::Strict && !is_asked())
}

impl Cut {
    /// As `pillion_connections_cut_total` gives it.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotDirect(not) => not.reason(),
            Self::Strict | Self::UnknownAddress => "strict",
            Self::Denied(_) => DENIED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::PodName;
    use std::collections::{BTreeSet, HashMap};
    use std::sync::Arc;

    /// `server` takes plaintext on 8080 and, excluded, on 9090; the kubelet probes 8081. `new` is captured, and its object has
    /// no address yet; `coming` has one, and is not captured yet.
    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, labels: {app: server, pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, spec: {nodeName: n1, containers: [{name: c, livenessProbe: {tcpSocket: {port: 8081}}}]}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shy, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/direct: disabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {nodeName: n1}, status: {podIP: 10.0.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: new, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: coming, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.6}}
"#;

    const STRICT: &str = r#"
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict}, spec: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: PERMISSIVE}}}}
"#;

    const NODE: &str = "192.0.2.1:50000";
    const FAR: &str = "10.0.9.9:50000";

    fn mesh(policies: &str) -> Mesh {
        let objects = parse("x.yaml", format!("{MANIFESTS}{policies}").as_bytes()).unwrap();
        snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap()
    }

    fn terms(direct: DirectMode) -> Terms {
        Terms { direct, node_addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]) }
    }

    const SERVER: u64 = 2;

    /// The node's pods, by the cookies of their network namespaces.
    fn placement(mesh: &Mesh) -> Placement {
        let placed =
            [("client", 1, None), ("server", SERVER, None), ("shy", 3, None), ("new", 5, Some("10.0.0.5"))];
        let pods = placed.map(|(name, netns, address)| {
            let mut workload = Workload::clone(pod(mesh, name));
            workload.addresses.extend(address.map(|address| address.parse::<IpAddr>().unwrap()));
            (netns, Placed { workload: Arc::new(workload), standing: Standing::Member(Ok(())) })
        });
        Placement::default().next(1, HashMap::from(pods))
    }

    fn pod<'a>(mesh: &'a Mesh, name: &str) -> &'a Workload {
        &mesh.workloads[&PodName { namespace: "default".into(), name: name.into() }]
    }

    /// Judges a connection of `server`, on the given ports of which somebody listens, as the metric says it. What is attested
    /// comes from the network namespace of the pod that is captured at the remote address.
    fn judge(mesh: &Mesh, terms: &Terms, local: &str, remote: &str, is_attested: bool) -> &'static str {
        let remote_ip = remote.parse::<SocketAddr>().unwrap().ip();
        let netns = is_attested.then(|| placement(mesh).at(remote_ip).unwrap_or(99));
        judge_from(mesh, &placement(mesh), terms, local, remote, netns)
    }

    /// As above, of a client with this netns cookie; `None` for what nobody attests.
    fn judge_from(
        mesh: &Mesh,
        placement: &Placement,
        terms: &Terms,
        local: &str,
        remote: &str,
        client: Option<u64>,
    ) -> &'static str {
        let own = (SERVER, &*placement.pod(SERVER).unwrap().workload);
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        let flow = |client_netns| match client_netns == SERVER {
            true => AttestedFlow { client: local, server: remote, client_netns, server_netns: 0 },
            false => AttestedFlow { client: remote, server: local, client_netns, server_netns: SERVER },
        };
        let law = Law { mesh, placement, own, terms, has_rules: OnceCell::new() };
        law.judge(local, remote, client.map(flow), false).map_or("open", |cut| cut.reason())
    }

    // proves: POL-2, SEC-3
    #[test]
    fn a_connection_that_cannot_be_cut_saves_no_other() {
        let mut done = Vec::new();
        let mut act = |number: u32| {
            done.push(number);
            if number.is_multiple_of(2) { Err(format!("{number} cannot be cut")) } else { Ok(()) }
        };
        assert_eq!(for_each([1, 3].into_iter(), &mut act), Ok(()));
        assert_eq!(for_each([1, 2, 3].into_iter(), &mut act), Err("2 cannot be cut".to_owned()));
        let all = for_each([2, 3, 4, 5, 6].into_iter(), &mut act);
        assert_eq!(all, Err("2 cannot be cut; the same or the like is so of 2 more connections".to_owned()));
        assert_eq!(done, [1, 3, 1, 2, 3, 2, 3, 4, 5, 6]);
    }

    // proves: POL-2
    #[test]
    fn a_direct_connection_stays_open_as_long_as_it_may_be_direct() {
        let (auto, off) = (terms(DirectMode::Auto), terms(DirectMode::Off));
        // The kernel vouches for it: STRICT has nothing against it.
        let mesh = mesh(STRICT);
        for (terms, local, remote, expected) in [
            (&auto, "10.0.0.2:80", "10.0.0.1:50000", "open"),
            (&auto, "10.0.0.2:9090", "10.0.0.1:50000", "excluded_port"),
            (&auto, "10.0.0.2:80", "10.0.0.3:50000", "pod_disabled"),
            (&off, "10.0.0.2:80", "10.0.0.1:50000", "mesh_off"),
            // Those that have left the mesh keep what they have opened, and a pod may talk to itself.
            (&auto, "10.0.0.2:80", "10.0.0.4:50000", "open"),
            (&off, "10.0.0.2:80", "10.0.0.4:50000", "open"),
            (&off, "10.0.0.2:80", "10.0.0.2:50000", "open"),
            // Its object says that it is in the mesh; its worker is on its way up.
            (&auto, "10.0.0.2:80", "10.0.0.6:50000", "open"),
            // The port is STRICT, and nobody knows who that is.
            (&auto, "10.0.0.2:80", FAR, "unknown"),
            (&auto, "10.0.0.2:8080", FAR, "open"),
        ] {
            assert_eq!(judge(&mesh, terms, local, remote, true), expected, "{remote} to {local}");
        }
    }

    // proves: POL-2, SEC-3
    #[test]
    fn whose_object_has_no_address_is_judged_by_what_the_kernel_knows() {
        let deny = |source: &str| {
            let rule = format!("from: [{{source: {{{source}}}}}], to: [{{operation: {{ports: ['80']}}}}]");
            mesh(&format!(
                "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, \
                 spec: {{selector: {{matchLabels: {{app: server}}}}, action: DENY, rules: [{{{rule}}}]}}}}\n"
            ))
        };
        let terms = terms(DirectMode::Auto);
        let new = "10.0.0.5:50000";
        for (policies, local, client, expected) in [
            ("principals: ['*']", "10.0.0.2:80", 5, "denied"),
            ("ipBlocks: [10.0.0.5]", "10.0.0.2:80", 5, "denied"),
            ("ipBlocks: [10.0.0.9]", "10.0.0.2:80", 5, "open"),
            ("principals: ['*']", "10.0.0.2:70", 5, "open"),
            // Another network namespace that once had the address, or has it beside the pod: a stranger.
            ("ipBlocks: [10.0.0.9]", "10.0.0.2:80", 77, "unknown"),
        ] {
            let mesh = deny(policies);
            let found = judge_from(&mesh, &placement(&mesh), &terms, local, new, Some(client));
            assert_eq!(found, expected, "{policies}, from {client} to {local}");
        }
        // Without policies everybody gets in, whoever he is.
        let open = mesh("");
        assert_eq!(judge_from(&open, &placement(&open), &terms, "10.0.0.2:80", new, Some(77)), "open");
        // The pod itself has opened it: to a server that is captured, has left the mesh, or is nobody that is known.
        for (server, expected) in [
            ("10.0.0.1:80", "open"),
            ("10.0.0.5:80", "open"),
            ("10.0.0.3:80", "pod_disabled"),
            ("10.0.0.4:80", "open"),
            ("10.0.9.9:80", "unknown"),
        ] {
            let placement = placement(&open);
            let found = judge_from(&open, &placement, &terms, "10.0.0.2:50000", server, Some(SERVER));
            assert_eq!(found, expected, "to {server}");
        }
    }

    // proves: SEC-3
    #[test]
    fn a_connection_that_others_could_write_into_ends_and_one_beside_another_datapath_goes_on() {
        let (mesh, terms) = (mesh(""), terms(DirectMode::Auto));
        for (why, expected) in [
            (NotDirect::FurtherDevice { device: "eth1".into() }, "further_device"),
            (NotDirect::ForeignProgram { program: "x".into() }, "open"),
            (NotDirect::Shaped { qdisc: "tbf".into() }, "open"),
        ] {
            for at in [1, SERVER] {
                let before = placement(&mesh);
                let placed = |netns: u64| {
                    let mut placed = before.pod(netns).unwrap().clone();
                    if netns == at {
                        placed.standing = Standing::Member(Err(why.clone()));
                    }
                    (netns, placed)
                };
                let now = before.next(1, HashMap::from([placed(1), placed(SERVER)]));
                let found = judge_from(&mesh, &now, &terms, "10.0.0.2:80", "10.0.0.1:50000", Some(1));
                assert_eq!(found, expected, "{why:?} at {at}");
            }
        }
    }

    // proves: SEC-3
    #[test]
    fn plaintext_ends_at_addresses_that_the_mesh_does_not_know_as_soon_as_the_pod_is_closed() {
        let strict = STRICT.replace(r#", portLevelMtls: {"8080": {mode: PERMISSIVE}}"#, "");
        let rules = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, \
                     spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.9.9]}}]}]}}\n";
        let terms = terms(DirectMode::Auto);
        for (policies, expected) in [("", "open"), (&strict, "strict"), (rules, "strict")] {
            let found = judge(&mesh(policies), &terms, "[fe80::2]:80", "[fe80::9]:50000", false);
            assert_eq!(found, expected, "{policies}");
        }
    }

    // proves: POL-2
    #[test]
    fn policies_end_what_they_allow_no_longer() {
        let deny = |source: &str| {
            mesh(&format!(
                "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, \
                 spec: {{selector: {{matchLabels: {{app: server}}}}, action: DENY, rules: [{{from: [{{source: {{{source}}}}}], \
                 to: [{{operation: {{notPorts: ['70']}}}}]}}]}}}}\n"
            ))
        };
        let terms = terms(DirectMode::Auto);
        let (proven, plain, far) =
            (deny("principals: ['*']"), deny("notPrincipals: ['*']"), deny("ipBlocks: [10.0.9.9]"));
        let client = "10.0.0.1:50000";
        for (mesh, local, remote, is_attested, expected) in [
            (&proven, "10.0.0.2:80", client, true, "denied"),
            (&proven, "10.0.0.2:80", client, false, "open"),
            (&plain, "10.0.0.2:80", client, true, "open"),
            (&plain, "10.0.0.2:80", client, false, "denied"),
            (&far, "10.0.0.2:80", FAR, false, "denied"),
            (&far, "10.0.0.2:80", client, false, "open"),
            // What the policy does not speak of, the kubelet's probe, and what is not of the mesh.
            (&plain, "10.0.0.2:70", client, false, "open"),
            (&plain, "10.0.0.2:8081", NODE, false, "open"),
            (&plain, "10.0.0.2:9090", FAR, false, "open"),
            (&plain, "10.0.0.2:50000", FAR, false, "denied"),
        ] {
            let found = judge(mesh, &terms, local, remote, is_attested);
            assert_eq!(found, expected, "{remote} to {local}, attested: {is_attested}");
        }
    }

    // proves: POL-2
    #[test]
    fn strict_ends_plaintext_that_nobody_vouches_for() {
        let (permissive, strict, terms) = (mesh(""), mesh(STRICT), terms(DirectMode::Auto));
        for (local, remote, expected) in [
            ("10.0.0.2:80", FAR, "strict"),
            ("[fd00::2]:80", "[fd00:9::9]:50000", "strict"),
            ("10.0.0.2:80", "10.0.0.1:50000", "strict"),
            ("10.0.0.2:80", NODE, "strict"),
            ("10.0.0.2:8081", FAR, "strict"),
            // The kubelet's probe, a port whose mode is another, one that is not of the mesh.
            ("10.0.0.2:8081", NODE, "open"),
            ("10.0.0.2:8080", FAR, "open"),
            ("10.0.0.2:9090", FAR, "open"),
            // What the worker carries, and what the pod has with itself.
            ("10.0.0.2:15008", FAR, "open"),
            ("10.0.0.2:15001", FAR, "open"),
            ("127.0.0.1:80", "127.0.0.1:50000", "open"),
            ("10.0.0.2:80", "10.0.0.2:50000", "open"),
            ("10.0.0.2:80", "[fd00::2]:50000", "open"),
            // Nobody listens there any more: how it came to be is not asked here.
            ("10.0.0.2:50000", FAR, "strict"),
        ] {
            assert_eq!(judge(&strict, &terms, local, remote, false), expected, "{remote} to {local}");
            assert_eq!(judge(&permissive, &terms, local, remote, false), "open", "{remote} to {local}");
        }
    }
}
