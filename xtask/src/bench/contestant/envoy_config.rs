//! A sidecar's configuration: static, with what Istio's control plane would send for these pods. Buffers, timeouts and
//! statistics are Envoy's defaults; there is no access log, no tracing and no filter but the router, which is less than
//! Istio has.

use std::path::Path;

use pillion_tests::peers::credentials::Credentials;
use serde_json::{Value, json};

/// Where what the pod's apps connect to arrives.
pub const OUTBOUND: u16 = 15001;
/// Where what others connect to arrives.
pub const INBOUND: u16 = 15006;

/// The cluster of other pods' sidecars.
pub const UPSTREAM: &str = "mtls";
const APP: &str = "app";

/// Ports that speak HTTP: 8080 in version 1.1, 8081 in version 2. Others are opaque.
const HTTP: [u16; 2] = [8080, 8081];

/// The address from which Istio's sidecars connect to their app (iptables tells them by it).
const APP_SEES: &str = "127.0.0.6";

/// All workloads of the mesh.
const MEMBERS: &str = "spiffe://cluster.local/";

pub fn config(own: &Credentials, root: &Path) -> Value {
    let tls = own.envoy_tls(root, &json!({"prefix": MEMBERS}), &[]);
    let upstream = json!({"name": "tls", "typed_config": {
        "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": tls,
    }});
    let downstream = json!({"name": "tls", "typed_config": {
        "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": tls,
    }});
    let mut others = cluster(UPSTREAM);
    others["transport_socket"] = upstream;
    let mut app = cluster(APP);
    app["upstream_bind_config"] = json!({"source_address": {"address": APP_SEES, "port_value": 0}});
    json!({"static_resources": {
        "listeners": [
            listener("outbound", OUTBOUND, UPSTREAM, None),
            listener("inbound", INBOUND, APP, Some(&downstream)),
        ],
        "clusters": [others, app],
    }})
}

/// Takes what was redirected, HTTP by its port, to where it wanted to go.
fn listener(name: &str, port: u16, cluster: &str, tls: Option<&Value>) -> Value {
    let original_dst = json!({
        "name": "envoy.filters.listener.original_dst",
        "typed_config": {"@type": kind("filters.listener.original_dst.v3.OriginalDst")},
    });
    let chain = |matches: Value, filter: Value| {
        let mut chain = json!({"filter_chain_match": matches, "filters": [filter]});
        if let Some(tls) = tls {
            chain["transport_socket"] = tls.clone();
        }
        chain
    };
    let mut chains: Vec<Value> =
        HTTP.iter().map(|port| chain(json!({"destination_port": port}), http(name, cluster))).collect();
    chains.push(chain(json!({}), tcp(name, cluster)));
    json!({
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "use_original_dst": true,
        "listener_filters": [original_dst],
        "filter_chains": chains,
    })
}

fn http(name: &str, cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}});
    json!({"name": "http", "typed_config": {
        "@type": kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "router", "typed_config": {"@type": kind("filters.http.router.v3.Router")},
        }],
    }})
}

fn tcp(name: &str, cluster: &str) -> Value {
    json!({"name": "tcp", "typed_config": {
        "@type": kind("filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": name,
        "cluster": cluster,
    }})
}

/// Connects to the address that the client wanted, in the client's version of HTTP. The limits are out of the way.
fn cluster(name: &str) -> Value {
    let limit = 1_000_000;
    json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": limit, "max_pending_requests": limit, "max_requests": limit,
        }]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
            "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
        }},
    })
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{name}")
}
