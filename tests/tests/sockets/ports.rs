//! The address and port that a client has, by its own account and by its server's.

use std::net::IpAddr;

use pillion_tests::security::DIRECT;
use pillion_tests::{Pair, Pod, SameNode};

use crate::{ask, mirror, outside, own_address};

/// Clients that bind a port alone, several one after the other, over each family and by a mapped address.
fn binds_ports_alone(client: &Pod, server: &Pod) {
    let mapped = format!("::ffff:{}", server.ip4());
    let mut port = 700;
    for ip in server.addresses() {
        let own = own_address(client, ip);
        let names: &[String] =
            if ip.is_ipv4() { &[ip.to_string(), mapped.clone()] } else { &[ip.to_string()] };
        for name in names {
            for _ in 0..2 {
                port += 1;
                let said = ask(client, "", port, name).unwrap();
                assert_eq!(
                    said,
                    format!("{own} {port}, {own} {port}"),
                    "a client bound to port {port}, to {name}"
                );
            }
            // bind() to port 0: the kernel chooses a port there and then.
            let said = ask(client, "", 0, name).unwrap();
            let (by_client, by_server) = said.split_once(", ").unwrap();
            assert!(by_client == by_server && by_client.starts_with(&format!("{own} ")), "to {name}: {said}");
        }
    }
}

// proves: CAP-4, TCP-3
#[test]
fn a_client_that_binds_a_port_alone_has_its_pods_address_and_that_port_through_the_mesh() {
    let pair = Pair::new("port-mesh").unwrap();
    let _mirror = mirror(&pair.server).unwrap();
    binds_ports_alone(&pair.client, &pair.server);
}

// proves: CAP-4, TCP-3
#[test]
fn a_client_that_binds_a_port_alone_has_its_pods_address_and_that_port_on_the_direct_path() {
    let same_node = SameNode::new("port-direct").unwrap();
    let _mirror = mirror(&same_node.server).unwrap();
    binds_ports_alone(&same_node.client, &same_node.server);
    // The first goes through the mesh, the others do not.
    let directly = |metrics: &pillion_tests::metrics::Metrics| {
        metrics.opened("source", &same_node.client, &same_node.server, DIRECT) >= 6.0
    };
    same_node.agent.wait_metrics("direct connections", directly).unwrap();
}

// proves: CAP-4, TCP-3
#[test]
fn a_client_that_binds_a_port_alone_has_its_pods_address_and_that_port_outside() {
    let pair = Pair::new("port-outside").unwrap();
    let outside = outside(&pair);
    let _mirror = mirror(&outside).unwrap();
    binds_ports_alone(&pair.client, &outside);
}

// proves: CAP-4, TCP-3
#[test]
fn a_client_that_binds_address_and_port_is_seen_by_them() {
    let pair = Pair::new("bound").unwrap();
    let outside = outside(&pair);
    let mirrors = [mirror(&pair.server).unwrap(), mirror(&outside).unwrap()];
    for (server, base) in [(&pair.server, 710), (&outside, 720)] {
        for (ip, port) in server.addresses().iter().zip(base..) {
            let own = own_address(&pair.client, ip);
            let said = ask(&pair.client, &own.to_string(), port, &ip.to_string()).unwrap();
            assert_eq!(said, format!("{own} {port}, {own} {port}"));
        }
    }
    drop(mirrors);
}

// proves: CAP-4, TCP-3
#[test]
fn another_address_of_the_pods_is_kept_outside_and_its_port_everywhere() {
    let pair = Pair::new("second").unwrap();
    let outside = outside(&pair);
    // On the direct path what a pod sends under an address that the mesh does not know is dropped.
    let client = pair.near.node().pod("with-two").captured().annotation("pillion.dev/direct", "disabled");
    let client = client.create().unwrap();
    pair.near.wait_serving(&client).unwrap();
    pair.far.wait_known(&client).unwrap();
    let mirrors = [mirror(&pair.server).unwrap(), mirror(&outside).unwrap()];
    let second = |first: &IpAddr| match first {
        IpAddr::V4(_) => ("10.88.1.200", "10.88.1.200/24"),
        IpAddr::V6(_) => ("fd88:1::200", "fd88:1::200/64"),
    };
    let servers = pair.server.addresses().iter().zip(outside.addresses());
    for (port, (through_mesh, beyond)) in (730..).zip(servers) {
        let own = own_address(&client, through_mesh);
        let (second, network) = second(&own);
        let add = ["addr", "add", network, "dev", "eth0"];
        let add = client.command("ip").args(add).args(own.is_ipv6().then_some("nodad"));
        add.run().unwrap();
        for bound in [port, 0] {
            let said = ask(&client, second, bound, &through_mesh.to_string()).unwrap();
            let (by_client, by_server) = said.split_once(", ").unwrap();
            let used = by_client.strip_prefix(&format!("{second} ")).expect(&said);
            assert_eq!(by_server, format!("{own} {used}"), "peers know the pod by its own address");
            let said = ask(&client, second, bound, &beyond.to_string()).unwrap();
            let (by_client, by_server) = said.split_once(", ").unwrap();
            assert_eq!(by_client, by_server, "outside");
        }
    }
    drop(mirrors);
}

// proves: CAP-4, TCP-3
#[test]
fn a_port_is_used_again_at_once() {
    let pair = Pair::new("again").unwrap();
    let _mirror = mirror(&pair.server).unwrap();
    for ip in pair.server.addresses() {
        let own = own_address(&pair.client, ip);
        for _ in 0..3 {
            assert_eq!(ask(&pair.client, "", 740, &ip.to_string()).unwrap(), format!("{own} 740, {own} 740"));
        }
    }
}
