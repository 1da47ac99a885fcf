//! Which of the pod's open connections the mesh allows no longer: those that the worker carries to its apps, and, among
//! the pod's sockets, those that no worker carries.

use super::context::Context;
use super::direct::LookError;
use super::{OUTBOUND_PORT, Terms};
use crate::decide::{Connection, DirectMode, NotDirect, authorize, direct};
use crate::hbone::HBONE_PORT;
use crate::kernel::{AttestedFlow, OpenSocket, SockDiag, Stage};
use crate::mesh::{Mesh, MtlsMode, Workload};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The reason of connections that policies deny, as metrics give it.
const DENIED: &str = "denied";

/// Why an open connection is cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Cut {
    #[error("it may not be direct any more: {0}")]
    NotDirect(NotDirect),
    #[error("the port takes no plaintext any more (PeerAuthentication STRICT)")]
    Strict,
    #[error("in plain, {0}")]
    Denied(String),
}

/// Judges every open connection of the pod by the mesh as it is now.
pub(super) fn judge(context: &Context, terms: &Terms) {
    let mesh = context.mesh();
    // A pod that has left the mesh keeps what it has opened.
    let pod = &*context.own(&mesh);
    if !pod.captured {
        return;
    }
    for denied in context.admitted.judge(pod) {
        tracing::info!(pod = %context.name, "cut an open connection: {denied}");
        context.metrics.direct().cut(DENIED);
    }
    if let Err(e) = cut_forbidden(context, &mesh, pod, terms) {
        tracing::error!(pod = %context.name, "open connections that the mesh may allow no longer go on: {e}");
    }
}

fn cut_forbidden(context: &Context, mesh: &Mesh, pod: &Workload, terms: &Terms) -> Result<(), LookError> {
    let mut diag = SockDiag::open()?;
    let sockets = diag.sockets(false)?;
    let is_listening = |socket: &&OpenSocket| socket.stage == Stage::Listening;
    let listening = sockets.iter().filter(is_listening).map(|socket| socket.local.port()).collect();
    let law = Law { mesh, pod, terms, listening };
    for socket in sockets.iter().filter(|socket| socket.stage != Stage::Listening) {
        let OpenSocket { local, remote, .. } = *socket;
        let flow = context.direct.flows.get(local, remote)?;
        let Some(cut) = law.judge(local, remote, flow) else { continue };
        if diag.destroy(socket)? {
            tracing::info!(pod = %context.name, %local, %remote, "cut an open connection: {cut}");
            context.metrics.direct().cut(cut.reason());
        }
    }
    Ok(())
}

/// What a connection is judged by.
struct Law<'a> {
    mesh: &'a Mesh,
    pod: &'a Workload,
    terms: &'a Terms,
    /// The ports that somebody in the pod listens on: connections there were accepted.
    listening: BTreeSet<u16>,
}

impl Law<'_> {
    /// Judges one of the pod's connections; `flow` is what the kernel has attested of it.
    fn judge(&self, local: SocketAddr, remote: SocketAddr, flow: Option<AttestedFlow>) -> Option<Cut> {
        match flow {
            Some(flow) => self.attested(&flow).err().map(Cut::NotDirect),
            None => self.plaintext(local, remote).err(),
        }
    }

    fn attested(&self, flow: &AttestedFlow) -> Result<(), NotDirect> {
        let captured = |ip| self.mesh.by_address.get(&ip).filter(|pod| pod.captured);
        let (Some(source), Some(destination)) = (captured(flow.client.ip()), captured(flow.server.ip()))
        else {
            // The other pod has left the mesh, or is gone and its end with it.
            return Ok(());
        };
        if source.name == destination.name {
            return Ok(());
        }
        if self.terms.direct == DirectMode::Off {
            return Err(NotDirect::MeshOff);
        }
        direct(source, destination, flow.server.port())
    }

    /// As the kernel refuses it before it becomes a connection.
    fn plaintext(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), Cut> {
        let (pod, port) = (self.pod, local.port());
        let is_own = |ip| pod.addresses.contains(&ip);
        let is_accepted = is_own(local.ip()) && self.listening.contains(&port);
        let is_from_outside = !remote.ip().is_loopback() && !is_own(remote.ip());
        let is_mesh_port = port == HBONE_PORT || port == OUTBOUND_PORT;
        let is_probe = pod.probe_ports.contains(&port) && self.terms.node_addresses.contains(&remote.ip());
        let is_excluded = pod.exclusions.inbound_ports.contains(&port);
        if !is_accepted || !is_from_outside || is_mesh_port || is_probe || is_excluded {
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
}

impl Cut {
    /// As `pillion_connections_cut_total` gives it.
    fn reason(&self) -> &'static str {
        match self {
            Self::NotDirect(not) => not.reason(),
            Self::Strict => "strict",
            Self::Denied(_) => DENIED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::PodName;

    /// `server` takes plaintext on 8080 and, excluded, on 9090; the kubelet probes 8081.
    const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {name: client, labels: {pillion.dev/capture: enabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, labels: {app: server, pillion.dev/capture: enabled}, annotations: {pillion.dev/exclude-inbound-ports: "9090"}}, spec: {nodeName: n1, containers: [{name: c, livenessProbe: {tcpSocket: {port: 8081}}}]}, status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: shy, labels: {pillion.dev/capture: enabled}, annotations: {pillion.dev/direct: disabled}}, spec: {nodeName: n1}, status: {podIP: 10.0.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {nodeName: n1}, status: {podIP: 10.0.0.4}}
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

    /// Judges a connection of `server`, on the given ports of which somebody listens, as the metric says it.
    fn judge(mesh: &Mesh, terms: &Terms, local: &str, remote: &str, is_attested: bool) -> &'static str {
        let pod = &mesh.workloads[&PodName { namespace: "default".into(), name: "server".into() }];
        let listening = BTreeSet::from([80, 8080, 8081, 9090, OUTBOUND_PORT, HBONE_PORT]);
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        let flow = AttestedFlow { client: remote, server: local, client_netns: 1 };
        let law = Law { mesh, pod, terms, listening };
        law.judge(local, remote, is_attested.then_some(flow)).map_or("open", |cut| cut.reason())
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
            (&auto, "10.0.0.2:80", FAR, "open"),
            (&off, "10.0.0.2:80", "10.0.0.2:50000", "open"),
        ] {
            assert_eq!(judge(&mesh, terms, local, remote, true), expected, "{remote} to {local}");
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
            (&plain, "10.0.0.2:50000", FAR, false, "open"),
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
            // What the pod has opened itself: nobody listens there.
            ("10.0.0.2:50000", FAR, "open"),
        ] {
            assert_eq!(judge(&strict, &terms, local, remote, false), expected, "{remote} to {local}");
            assert_eq!(judge(&permissive, &terms, local, remote, false), "open", "{remote} to {local}");
        }
    }
}
