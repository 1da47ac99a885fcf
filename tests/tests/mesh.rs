//! The whole path: app, hook, worker, wire, worker, app.

use std::net::{IpAddr, SocketAddr};

use pillion_tests::metrics::Metrics;
use pillion_tests::{Pair, apps};

fn url(ip: impl Into<IpAddr>, path: &str) -> String {
    format!("http://{}/{path}", SocketAddr::new(ip.into(), 80))
}

// proves: ID-1, CAP-4, TEL-1
#[test]
fn a_request_crosses_in_mutual_tls_and_both_ends_see_true_addresses() {
    let pair = Pair::new("crossing").unwrap();
    let Pair { client, server, near, far, .. } = &pair;
    apps::nginx(server, 80).unwrap();
    let recording = near.node().record_wire("").unwrap();
    for (own, peer) in
        [(IpAddr::from(client.ip4()), IpAddr::from(server.ip4())), (client.ip6().into(), server.ip6().into())]
    {
        let curl =
            client.command("curl").args(["-sS", "-H", "X-Secret: needle-in-plain", "-w", "%{remote_ip}"]);
        let saw = curl.arg(url(peer, "addresses")).run().unwrap();
        let (addresses, remote) = saw.split_once('\n').unwrap();
        let (from, to) = addresses.split_once(' ').unwrap();
        assert_eq!(from.rsplit_once(':').unwrap().0, own.to_string(), "the server sees the client");
        assert_eq!(to, format!("{peer}:80"), "the server sees itself");
        assert_eq!(remote, peer.to_string(), "the client sees the server");
    }
    let packets = recording.stop().unwrap();
    assert!(!packets.contain(b"needle-in-plain"));
    let flows = packets.flows();
    assert!(!flows.is_empty());
    for flow in flows {
        assert!(flow.from.port() == 15008 || flow.to.port() == 15008, "{} → {}", flow.from, flow.to);
        assert!(flow.tls_records().is_some_and(|records| records > 1), "{} → {}", flow.from, flow.to);
    }
    for (agent, reporter) in [(near, "source"), (far, "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_principal", &client.identity()),
            ("destination_principal", &server.identity()),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ];
        let both = |metrics: &Metrics| metrics.sum("istio_tcp_connections_closed_total", &labels) == 2.0;
        agent.wait_metrics("both connections, closed", both).unwrap();
    }
}
