//! Whom an app sees when a peer's worker says who its client is: never anybody whom it might trust for being local.

use http::Method;
use pillion_tests::apps;

use super::client::{self, Answer, HEADERS};
use super::{Stage, addresses};

// proves: CAP-4, SEC-3
#[test]
fn a_peer_is_seen_under_its_own_address_whatever_its_header_says() {
    let stage = Stage::new("forwarded", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let echo = apps::echo(&stage.pod, 7).unwrap();
    // Lines about connections begin with the client's address; others are about resets of earlier ones.
    let seen = || {
        let log = echo.log();
        let clients = log.lines().filter_map(|line| line.split(' ').next());
        clients
            .filter(|word| word.parse::<std::net::SocketAddr>().is_ok())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let [to, _] = addresses(&stage.pod, 15008);
    let (ip, target) = (stage.foreign.ip4(), format!("{}:7", stage.pod.ip4()));
    // An address is believed at the peer's own IP alone, with a port. Else the connection is the peer's own.
    for (header, expected) in [
        (Some(format!("for=\"{ip}:4711\"")), format!("{ip}:4711")),
        (None, format!("{ip}:")),
        (Some(format!("for=\"{ip}:0\"")), format!("{ip}:")),
        (Some(format!("for=\"[::ffff:{ip}]:0\"")), format!("{ip}:")),
        (Some("for=\"127.0.0.1:4711\"".to_owned()), format!("{ip}:")),
        (Some("for=\"[::1]:4711\"".to_owned()), format!("{ip}:")),
        (Some("for=\"0.0.0.0:0\"".to_owned()), format!("{ip}:")),
        (Some(format!("for=\"{}:4711\"", stage.pod.ip4())), format!("{ip}:")),
    ] {
        let before = seen().len();
        let mut fields = vec![(":method", "CONNECT"), (":authority", &target)];
        fields.extend(header.as_deref().map(|header| ("forwarded", header)));
        let tls = client::tls(Some(&own)).unwrap();
        assert_eq!(client::ask_raw(&stage.foreign, to, tls, &fields).unwrap(), HEADERS);
        let client = echo
            .wait_for("the app to see the connection", std::time::Duration::from_secs(10), || {
                Ok(seen().get(before).cloned())
            })
            .unwrap();
        assert!(client.starts_with(&expected), "{header:?}: the app sees {client}");
    }
}

// proves: SEC-3
#[test]
fn loopback_has_no_peers_whatever_certificate_they_show() {
    let stage = Stage::new("no-peers", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let _echo = apps::echo(&stage.pod, 7).unwrap();
    let ask = |to: &str, target: &str| {
        let tls = client::tls(Some(&own)).unwrap();
        client::ask(&stage.pod, to.parse().unwrap(), tls, Method::CONNECT, target).unwrap()
    };
    let ip = stage.pod.ip4();
    assert_eq!(ask("127.0.0.1:15008", "127.0.0.1:7"), Answer::NoConnection);
    assert_eq!(ask("127.0.0.9:15008", "127.0.0.9:7"), Answer::NoConnection);
    assert_eq!(ask("[::1]:15008", "[::1]:7"), Answer::NoConnection);
    // From the pod's own address a process of the pod may come, as a peer.
    assert_eq!(ask(&format!("{ip}:15008"), &format!("{ip}:7")), Answer::Status(200));
}
