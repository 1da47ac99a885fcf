//! Services: a cluster IP leads to a ready endpoint.

use std::net::IpAddr;

use pillion_tests::{Pair, Pod, apps};

/// curl's exit status (7: could not connect, 56: reset) and what the server said of the addresses it saw.
fn addresses(client: &Pod, host: IpAddr, port: u16) -> (Option<i32>, String) {
    let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
    let url = format!("http://{host}:{port}/addresses");
    let output = client.command("curl").args(["-sS", "-m", "8", &url]).output().unwrap();
    (output.status.code(), output.stdout())
}

// proves: CAP-4, TEL-1
#[test]
fn a_cluster_ip_leads_to_a_ready_endpoint() {
    let pair = Pair::new("service").unwrap();
    let other = pair.near.node().pod("other").captured().create().unwrap();
    let plain = pair.far.node().pod("plain").create().unwrap();
    let servers = [&pair.server, &other, &plain];
    servers.iter().for_each(|pod| drop(apps::nginx(pod, 8080).unwrap()));
    let service = pair.bed.service("web", 80, 8080, &servers).unwrap();
    pair.near.wait_serving(&other).unwrap();
    pair.near.wait_config("the service", |dump| dump["services"].to_string().contains("\"web\"")).unwrap();

    // Each endpoint's turn comes: 60 tries miss one of three with a chance of 10^-10.
    for host in [IpAddr::from(service.ip4), service.ip6.into()] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let (status, said) = addresses(&pair.client, host, 80);
            assert_eq!(status, Some(0));
            assert!(
                said.contains(&format!("{}", pair.client.addresses()[usize::from(host.is_ipv6())])),
                "{said}"
            );
            for pod in servers {
                if said.contains(&format!("{}", pod.addresses()[usize::from(host.is_ipv6())])) {
                    seen.insert(pod.name().to_owned());
                }
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    }
    let line = pair
        .near
        .wait_access("a line that names the Service, the cluster IP and the endpoint", |line| {
            line["direction"] == "outbound"
                && line["destination_service"] == "web.default.svc.cluster.local"
                && line["destination_address"] == format!("{}:80", service.ip4)
                && line["upstream_address"] == format!("{}:8080", pair.server.ip4())
        })
        .unwrap();
    assert_eq!(line["connection_security_policy"], "mutual_tls");
    // Those to the endpoint on the client's own node are direct but for the first, and told of a moment later.
    let labels = [("destination_service_name", "web"), ("reporter", "source")];
    pair.near
        .wait_metrics("all connections", |metrics| {
            metrics.sum("istio_tcp_connections_opened_total", &labels) == 120.0
        })
        .unwrap();
}

/// The app hears of it before curl has looked at its connection (7), or after (56); a hang would be 28.
fn is_reset(status: Option<i32>) -> bool {
    matches!(status, Some(7 | 56))
}

// proves: CAP-5
#[test]
fn an_endpoint_that_is_not_ready_gets_none_and_without_any_the_connection_is_reset() {
    let pair = Pair::new("ready").unwrap();
    apps::nginx(&pair.server, 8080).unwrap();
    let service = pair.bed.service("web", 80, 8080, &[&pair.server]).unwrap();
    let endpoints = |count: usize| {
        move |dump: &serde_json::Value| {
            let slices = dump["services"][0]["slices"].as_array().into_iter().flatten();
            slices.filter_map(serde_json::Value::as_array).flatten().count() == count
        }
    };
    pair.near.wait_config("both endpoints", endpoints(2)).unwrap();
    assert_eq!(addresses(&pair.client, service.ip4.into(), 80).0, Some(0));

    pair.server.set_ready(false).unwrap();
    pair.near.wait_config("no endpoint", endpoints(0)).unwrap();
    assert!(is_reset(addresses(&pair.client, service.ip4.into(), 80).0));
    let failed = |flags: &str| {
        pair.near.metrics().unwrap().sum("istio_tcp_connections_failed_total", &[("response_flags", flags)])
    };
    assert_eq!(failed("UH"), 1.0);

    pair.server.set_ready(true).unwrap();
    pair.near.wait_config("both endpoints again", endpoints(2)).unwrap();
    assert_eq!(addresses(&pair.client, service.ip6.into(), 80).0, Some(0));
    assert!(is_reset(addresses(&pair.client, service.ip4.into(), 81).0), "no such port");
    assert_eq!(failed("NR"), 1.0);
}
