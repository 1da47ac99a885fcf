//! Our client tunnels to Envoy, which stands before the apps of a pod as a mesh proxy does.

use std::path::Path;

use pillion_tests::peers::Envoy;
use pillion_tests::{Pod, apps};
use serde_json::{Value, json};

use super::credentials::{Authority, Credentials, identity};
use super::{Stage, addresses, traffic};

/// Enough to see a race.
const FAREWELLS: u64 = 10;

// Half-close by the server is not among them: Envoy's HTTP server resets a request when its response is complete.
// proves: ID-1, TCP-2
#[test]
fn our_tunnels_through_envoy_carry_what_tcp_carries() {
    let stage = Stage::new("envoy-server", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let envoy = start(&stage.foreign, &own, &stage.authority.root);
    let server = traffic::server(&stage.foreign).unwrap();
    apps::nginx(&stage.foreign, 80).unwrap();
    for to in addresses(&stage.foreign, traffic::PORT) {
        let client = &stage.pod;
        traffic::bulk(client, to).unwrap();
        traffic::many(client, to).unwrap();
        traffic::client_resets(client, to).unwrap();
        traffic::server_resets(client, to).unwrap();
        // Envoy ends such a stream with END_STREAM and RST_STREAM at once. (What it still holds back then, for want
        // of room in a window, it throws away, and says INTERNAL_ERROR: seen with 8 MiB.)
        for _ in 0..FAREWELLS {
            traffic::server_closes(client, to, 32 << 10).unwrap();
        }
        traffic::sleeper(client, to, &server, &stage.agent).unwrap();
    }
    for to in addresses(&stage.foreign, 80) {
        let said =
            stage.pod.command("curl").args(["-sS", "-m10", &format!("http://{to}/hello")]).run().unwrap();
        assert_eq!(said, "hello\n");
    }
    assert_eq!(envoy.stat("listener.hbone.ssl.fail_verify_san").unwrap(), 0);
    assert_eq!(
        envoy.stat("http.hbone.downstream_rq_total").unwrap(),
        2 * (1 + 50 + 1 + 1 + FAREWELLS + 1 + 1)
    );
    // Envoy itself turns the client's reset into an end of data. (`server.log()` has "watch saw an end".)
    envoy.wait_stat("http2.rx_reset", |count| count == 2).unwrap();
    // On one connection a family, and on others while that one is busy with much or with a reader that sleeps.
    assert!((2..=8).contains(&envoy.stat("listener.hbone.ssl.handshake").unwrap()));
}

// proves: CAP-5
#[test]
fn an_app_that_is_not_there_behind_envoy_is_a_reset_with_a_reason() {
    let stage = Stage::new("envoy-503", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let _envoy = start(&stage.foreign, &own, &stage.authority.root);
    for to in addresses(&stage.foreign, 9) {
        assert_eq!(traffic::attempt(&stage.pod, to).unwrap(), "reset");
        let of = |line: &Value| line["destination_address"] == to.to_string();
        let line = stage.agent.wait_access("the failure", of).unwrap();
        assert_eq!(
            (&line["response_flags"], &line["error"]),
            (&json!("UF"), &json!("the peer answered 503 Service Unavailable"))
        );
    }
}

// proves: ID-1
#[test]
fn a_server_that_refuses_our_certificate_is_told_from_one_that_is_away() {
    let stage = Stage::new("envoy-refuses", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let stranger = Authority::stranger(&stage.bed).unwrap();
    let envoy = start(&stage.foreign, &own, &stranger.root);
    assert_eq!(traffic::attempt(&stage.pod, addresses(&stage.foreign, 80)[0]).unwrap(), "reset");
    let line = stage.agent.wait_access("the failure", |line| line["error"].is_string()).unwrap();
    assert_eq!(line["response_flags"], "UF");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("refused this pod's certificate") && error.contains("UnknownCA"), "{error}");
    envoy.wait_stat("listener.hbone.ssl.fail_verify_error", |count| count > 0).unwrap();
}

/// Envoy on port 15008 of the pod: it takes peers whose certificates chain to `root` and whose identity is our
/// pod's, and connects CONNECT requests to the authority they ask for.
fn start(pod: &Pod, own: &Credentials, root: &Path) -> Envoy {
    Envoy::start(pod, config(own, root), &[15008]).unwrap()
}

fn config(own: &Credentials, root: &Path) -> Value {
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let listener = json!({
        "name": "hbone",
        "stat_prefix": "hbone",
        "address": {"socket_address": {"address": "::", "port_value": 15008, "ipv4_compat": true}},
        "filter_chains": [{
            "transport_socket": {"name": "tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "require_client_certificate": true,
                "common_tls_context": own.envoy_tls(root, &json!({"exact": identity("ours")}), &["h2"]),
            }},
            "filters": [{"name": "http", "typed_config": {
                "@type": format!("type.googleapis.com/{manager}"),
                "stat_prefix": "hbone",
                "codec_type": "HTTP2",
                "http2_protocol_options": {"allow_connect": true, "initial_stream_window_size": 1 << 20},
                "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                "stream_idle_timeout": "0s",
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                    "match": {"connect_matcher": {}},
                    "route": {
                        "cluster": "app",
                        "timeout": "0s",
                        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                    },
                }]}]},
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
            }}],
        }],
    });
    let cluster = json!({
        "name": "app",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "original_dst_lb_config": {"use_http_header": true, "http_header_name": ":authority"},
    });
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}
