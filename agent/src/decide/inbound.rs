//! Whether a tunnel that a peer asks for leads anywhere.

use super::ports::is_reserved;
use http::{Method, StatusCode};
use std::net::{IpAddr, SocketAddr};

/// Why a request for a tunnel is refused; the peer's fault, all of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    #[error("{0} is not served here: HBONE asks by CONNECT")]
    Method(Method),
    #[error("{0:?} is no authority of the form ip:port, or [ip]:port for IPv6")]
    Authority(String),
    #[error("{asked} is not this pod: the connection came to {local}")]
    OtherPod { asked: IpAddr, local: IpAddr },
    #[error("port {0} cannot be reached through the mesh")]
    Port(u16),
    #[error("{local} is no address that peers reach this pod at")]
    NotReachable { local: IpAddr },
    #[error("a connection from {peer} comes from no peer: a peer has an address of its own")]
    NoPeer { peer: SocketAddr },
}

impl InboundError {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Authority(_)
            | Self::OtherPod { .. }
            | Self::Port(_)
            | Self::NotReachable { .. }
            | Self::NoPeer { .. } => StatusCode::BAD_REQUEST,
        }
    }
}

/// Whether a connection to the HBONE port comes from a peer: from `peer` to the pod's address `local`.
///
/// Loopback has no peers. What comes to a loopback address reaches apps that listen for their own pod alone, and what comes
/// from one would be shown to apps as a client that many of them trust (`127.0.0.1`). A process of the pod that wants to be
/// seen so connects to the app itself. From the pod's own address a process of the pod may come: it proves its identity as
/// every peer does, and is shown under that address, which is the truth.
pub fn peer(local: IpAddr, peer: SocketAddr) -> Result<(), InboundError> {
    let is_of_nobody = |ip: IpAddr| {
        let ip = ip.to_canonical();
        ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
    };
    if is_of_nobody(local) {
        return Err(InboundError::NotReachable { local });
    }
    if is_of_nobody(peer.ip()) || peer.port() == 0 {
        return Err(InboundError::NoPeer { peer });
    }
    Ok(())
}

/// The client that an app sees: the one that the peer's worker `named`, if it has the peer's own address, else the peer
/// itself. A peer can lie about its ports, but not about who it is.
///
/// Of what [`peer`] has let in and the `forwarded` header may name, it is never a loopback address, and has a port.
pub fn presented(named: Option<SocketAddr>, peer: SocketAddr) -> SocketAddr {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let peer = canonical(peer);
    named.map(canonical).filter(|named| named.ip() == peer.ip() && named.port() != 0).unwrap_or(peer)
}

/// The app's address that a request asks for. `local` is the connection's own local address: whoever reached
/// this pod can reach this pod's ports, and nothing behind it.
///
/// An absent `:authority` is given as `""`. `:scheme` and `:path` have no place in a CONNECT (RFC 9113 §8.5),
/// and the HTTP/2 engine resets a stream that has them before it comes here.
pub fn inbound(local: IpAddr, method: &Method, authority: &str) -> Result<SocketAddr, InboundError> {
    if method != Method::CONNECT {
        return Err(InboundError::Method(method.clone()));
    }
    let local = local.to_canonical();
    let target: SocketAddr = authority.parse().map_err(|_| InboundError::Authority(shortened(authority)))?;
    // Not `target` itself: an IPv6 authority may carry a scope, which would choose an interface.
    let target = SocketAddr::new(target.ip().to_canonical(), target.port());
    if target.ip() != local {
        return Err(InboundError::OtherPod { asked: target.ip(), local });
    }
    if target.port() == 0 || is_reserved(target.port()) {
        return Err(InboundError::Port(target.port()));
    }
    Ok(target)
}

/// Enough of a peer's text for a log line.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(local: &str, authority: &str) -> Result<String, u16> {
        let target = inbound(local.parse().unwrap(), &Method::CONNECT, authority);
        target.map(|target| target.to_string()).map_err(|error| error.status().as_u16())
    }

    #[test]
    fn the_pods_own_ports_are_reached() {
        assert_eq!(ask("10.0.0.2", "10.0.0.2:80"), Ok("10.0.0.2:80".into()));
        assert_eq!(ask("fd00::2", "[fd00::2]:65535"), Ok("[fd00::2]:65535".into()));
        assert_eq!(ask("fd00::2", "[fd00:0:0::2]:80"), Ok("[fd00::2]:80".into()));
        assert_eq!(ask("::ffff:10.0.0.2", "10.0.0.2:80"), Ok("10.0.0.2:80".into()));
        assert_eq!(ask("fe80::1", "[fe80::1%7]:80"), Ok("[fe80::1]:80".into()));
    }

    // proves: SEC-3
    #[test]
    fn loopback_has_no_peers() {
        for (local, from, expected) in [
            ("10.0.0.2", "10.0.0.1:4711", Ok(())),
            ("fd00::2", "[fd00::1]:4711", Ok(())),
            ("::ffff:10.0.0.2", "[::ffff:10.0.0.1]:4711", Ok(())),
            ("fe80::2", "[fe80::1]:4711", Ok(())),
            // A process of the pod itself.
            ("10.0.0.2", "10.0.0.2:4711", Ok(())),
            ("127.0.0.1", "127.0.0.1:4711", Err("127.0.0.1 is no address that peers reach this pod at")),
            ("127.0.0.1", "10.0.0.1:4711", Err("127.0.0.1 is no address that peers reach this pod at")),
            ("::1", "[::1]:4711", Err("::1 is no address that peers reach this pod at")),
            (
                "10.0.0.2",
                "127.0.0.7:4711",
                Err("a connection from 127.0.0.7:4711 comes from no peer: a peer has an address of its own"),
            ),
            (
                "10.0.0.2",
                "[::ffff:127.0.0.7]:4711",
                Err(
                    "a connection from [::ffff:127.0.0.7]:4711 comes from no peer: a peer has an address of its own",
                ),
            ),
            (
                "10.0.0.2",
                "10.0.0.1:0",
                Err("a connection from 10.0.0.1:0 comes from no peer: a peer has an address of its own"),
            ),
        ] {
            let found = peer(local.parse().unwrap(), from.parse().unwrap()).map_err(|e| e.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{from} to {local}");
        }
    }

    // proves: SEC-3
    #[test]
    fn an_app_sees_the_client_that_the_peer_names_only_at_the_peers_own_address() {
        for (named, from, expected) in [
            (Some("10.0.0.1:4711"), "10.0.0.1:5000", "10.0.0.1:4711"),
            (Some("10.0.0.1:4711"), "[::ffff:10.0.0.1]:5000", "10.0.0.1:4711"),
            (Some("[::ffff:10.0.0.1]:4711"), "10.0.0.1:5000", "10.0.0.1:4711"),
            (Some("[fd00::1]:4711"), "[fd00::1]:5000", "[fd00::1]:4711"),
            (Some("10.0.0.9:4711"), "10.0.0.1:5000", "10.0.0.1:5000"),
            (Some("10.0.0.1:0"), "10.0.0.1:5000", "10.0.0.1:5000"),
            (Some("127.0.0.1:4711"), "10.0.0.1:5000", "10.0.0.1:5000"),
            (None, "[::ffff:10.0.0.1]:5000", "10.0.0.1:5000"),
        ] {
            let named = named.map(|named| named.parse().unwrap());
            let found = presented(named, from.parse().unwrap());
            assert_eq!(found, expected.parse().unwrap(), "{named:?} by {from}");
        }
    }

    #[test]
    fn only_connect_is_served() {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let error = inbound("10.0.0.2".parse().unwrap(), &method, "10.0.0.2:80").unwrap_err();
            assert_eq!(error.status(), 405);
        }
    }

    #[test]
    fn a_bad_authority_is_refused() {
        for authority in [
            "",
            ":",
            ":80",
            "10.0.0.2",
            "10.0.0.2:",
            "10.0.0.2:0",
            "10.0.0.2:65536",
            "10.0.0.2:-1",
            "10.0.0.2:http",
            "10.0.0.2:80 ",
            " 10.0.0.2:80",
            "10.0.0.2:80:80",
            "10.0.0.2:80/",
            "user@10.0.0.2:80",
            "http://10.0.0.2:80",
            "[10.0.0.2]:80",
            "10.0.0.02:80",
            "10.0.2:80",
            "167772162:80",
            "0x0a000002:80",
            "localhost:80",
            "server.default.svc.cluster.local:80",
            // Another pod, the loopback, any: all of them not this pod.
            "10.0.0.3:80",
            "127.0.0.1:80",
            "0.0.0.0:80",
            "[::1]:80",
            "[fd00::2]:80",
            "fd00::2:80",
            // The worker's own.
            "10.0.0.2:15001",
            "10.0.0.2:15006",
            "10.0.0.2:15008",
            &"a".repeat(100_000),
        ] {
            assert_eq!(ask("10.0.0.2", authority), Err(400), "{authority:.80}");
        }
        assert_eq!(ask("fd00::2", "fd00::2:80"), Err(400));
        assert_eq!(ask("fd00::2", "[fd00::3]:80"), Err(400));
        assert_eq!(ask("fd00::2", "[fd00::2]:15008"), Err(400));
    }

    #[test]
    fn an_error_is_a_sentence_that_a_log_can_hold() {
        let error = inbound("10.0.0.2".parse().unwrap(), &Method::CONNECT, &"x\n".repeat(9_999)).unwrap_err();
        assert!(error.to_string().len() < 300 && !error.to_string().contains('\n'));
        let error = inbound("10.0.0.2".parse().unwrap(), &Method::CONNECT, "10.0.0.3:80").unwrap_err();
        assert_eq!(error.to_string(), "10.0.0.3 is not this pod: the connection came to 10.0.0.2");
    }
}
