//! Envoy tunnels to our server, as a sidecar or gateway that speaks HBONE does.

use std::net::SocketAddr;
use std::path::Path;

use pillion_tests::apps;
use pillion_tests::peers::Envoy;
use serde_json::{Value, json};

use super::credentials::{Credentials, identity};
use super::{Stage, addresses, traffic};

// proves: ID-1, TCP-2
#[test]
fn envoys_tunnels_carry_what_tcp_carries() {
    let stage = Stage::new("envoy-client", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let server = traffic::server(&stage.pod).unwrap();
    apps::nginx(&stage.pod, 80).unwrap();
    // A port of Envoy's for every address of an app; 9 has no app.
    let apps = [traffic::PORT, 80, 9].map(|port| addresses(&stage.pod, port)).concat();
    let ports: Vec<u16> = (10_000..).take(apps.len()).collect();
    let listeners: Vec<Value> = ports.iter().zip(&apps).map(|(port, app)| listener(*port, *app)).collect();
    let clusters = addresses(&stage.pod, 15008)
        .map(|peer| cluster(peer, &own, &stage.authority.root, &identity("ours")));
    let envoy = Envoy::start(
        &stage.foreign,
        json!({"static_resources": {"listeners": listeners, "clusters": clusters}}),
        &ports,
    )
    .unwrap();
    let local = |app: SocketAddr| {
        let port = ports[apps.iter().position(|a| *a == app).unwrap()];
        SocketAddr::from(([127, 0, 0, 1], port))
    };
    for app in addresses(&stage.pod, traffic::PORT) {
        let (to, client) = (local(app), &stage.foreign);
        traffic::bulk(client, to).unwrap();
        traffic::many(client, to).unwrap();
        traffic::server_finishes_first(client, to, &server).unwrap();
        traffic::client_resets(client, to).unwrap();
        traffic::server_saw_resets(&server, if app.is_ipv6() { 2 } else { 1 }).unwrap();
        traffic::server_resets(client, to).unwrap();
        traffic::server_closes(client, to, 8 << 20).unwrap();
        traffic::sleeper(client, to, &server, &stage.agent).unwrap();
    }
    for app in addresses(&stage.pod, 80) {
        let url = format!("http://{}/addresses", local(app));
        let said = stage.foreign.command("curl").args(["-sS", "-m10", &url]).run().unwrap();
        let from =
            if app.is_ipv6() { stage.foreign.ip6().to_string() } else { stage.foreign.ip4().to_string() };
        assert!(
            said.starts_with(&format!("{from}:"))
                && said.ends_with(&format!(" {app}\n").replace(['[', ']'], "")),
            "{said}"
        );
    }
    for app in addresses(&stage.pod, 9) {
        assert_ne!(traffic::attempt(&stage.foreign, local(app)).unwrap(), "data");
    }
    for peer in addresses(&stage.pod, 15008) {
        assert_eq!(envoy.stat(&format!("cluster.{}.ssl.fail_verify_san", name(peer))).unwrap(), 0);
        let streams = envoy.stat(&format!("cluster.{}.upstream_rq_total", name(peer))).unwrap();
        assert_eq!(streams, 1 + 50 + 5 + 1 + 1, "streams to {peer}");
    }
    let labels = [("source_principal", identity("foreign").leak() as &str), ("response_flags", "UF")];
    stage
        .agent
        .wait_metrics("an app that is not there", |m| {
            m.sum("istio_tcp_connections_failed_total", &labels) == 2.0
        })
        .unwrap();
}

/// Takes connections on the port and tunnels them to the app.
fn listener(port: u16, app: SocketAddr) -> Value {
    json!({
        "name": format!("to-{app}"),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "tunnel",
                "cluster": name(app),
                "tunneling_config": {"hostname": app.to_string()},
            },
        }]}],
    })
}

/// The HBONE server at `peer`: HTTP/2 in mutual TLS, with that identity and no other.
fn cluster(peer: SocketAddr, own: &Credentials, root: &Path, identity: &str) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name(peer),
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name(peer), "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": peer.ip(), "port_value": peer.port()}}}}]}]},
        "typed_extension_protocol_options": {options: {
            "@type": format!("type.googleapis.com/{options}"),
            // A window as small as a mesh proxy's: what a sleeping reader leaves behind stays with the sender.
            "explicit_http_config": {"http2_protocol_options": {"initial_stream_window_size": 1 << 20}},
        }},
        "transport_socket": {"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": own.envoy_tls(root, &json!({"exact": identity}), &["h2"]),
        }},
    })
}

/// A cluster's name: the peer's IP address, without a colon, which Envoy takes out of names of counters.
fn name(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "peer6" } else { "peer4" }
}
