//! One pod's wishes beyond its share of a table: that pod alone does without, and its neighbours get what is theirs.

use crate::common::Bed;
use crate::common::node::{Pod, on_node, wait_for};
use crate::scene::{PORT, Pair, is_refused, map, pair, pair_with};
use ipnet::IpNet;
use pillion_agent::kernel::{Inbound, InboundMode, KernelConfig, PlainRules, PodCapture, SourceRules, Usage};
use pillion_ebpf_common::quota;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// Ports with a mode of their own, beginning with 10,000.
fn ports(count: u16) -> Inbound {
    let ports = (10_000..10_000 + count).map(|port| (port, InboundMode::Refuse));
    Inbound { ports: ports.collect(), ..Inbound::default() }
}

/// Everybody but as many addresses, which begin with `first`.
fn all_but(first: Ipv4Addr, count: u32) -> SourceRules {
    let all = ["0.0.0.0/0", "::/0"].map(|all| (all.parse().unwrap(), true));
    let some = (u32::from(first)..)
        .take(count as usize)
        .map(|ip| (IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(ip))), false));
    some.chain(all).collect()
}

// proves: SEC-3, ID-3
#[test]
fn ports_beyond_a_pods_share_close_that_pod_to_plaintext_and_no_neighbour() {
    let bed = Bed::new();
    pair_with(&bed, &[("INBOUND_PORTS", 2_000)], |pair| {
        let greedy_app = pair.client.listen(PORT);
        let to_greedy = SocketAddr::new(pair.client.ipv4.into(), PORT);
        pair.capture_client(&PodCapture { inbound: ports(1_995), ..pair.client.capture() });
        pair.capture_server(ports(500));
        assert!(pair.third.connect(pair.address4()).is_ok(), "the neighbour takes plaintext");
        let closed = SocketAddr::new(pair.server.ipv4.into(), 10_499);
        assert!(is_refused(&pair.third.connect(closed)), "but for its own exceptions");
        assert!(is_refused(&pair.third.connect(to_greedy)), "the pod itself takes none");
        assert!(pair.client.connect(pair.address4()).is_ok(), "what the kernel vouches for goes on");

        pair.capture_client(&PodCapture { inbound: ports(1_000), ..pair.client.capture() });
        assert!(pair.third.connect(to_greedy).is_ok(), "within its share it is as it says");
        greedy_app.accept().unwrap();
    });
}

// proves: SEC-3, POL-3
#[test]
fn sources_beyond_a_pods_share_let_nobody_into_that_pod_and_close_no_neighbour() {
    let bed = Bed::new();
    pair_with(&bed, &[("SOURCES", 6_000)], |pair| {
        let rules = |default| Inbound {
            rules: PlainRules { default: Some(default), ports: [].into() },
            ..Inbound::default()
        };
        let greedy_app = pair.client.listen(PORT);
        let to_greedy = SocketAddr::new(pair.client.ipv4.into(), PORT);
        let many = all_but(Ipv4Addr::new(192, 168, 0, 0), 5_900);
        pair.capture_client(&PodCapture { inbound: rules(many), ..pair.client.capture() });
        pair.capture_server(rules(all_but(Ipv4Addr::new(10, 11, 0, 0), 500)));
        assert!(pair.third.connect(pair.address4()).is_ok(), "the neighbour's rules hold");
        assert!(is_refused(&pair.third.connect(to_greedy)), "nobody connects to the pod itself");

        let few = all_but(Ipv4Addr::new(192, 168, 0, 0), 500);
        pair.capture_client(&PodCapture { inbound: rules(few), ..pair.client.capture() });
        assert!(pair.third.connect(to_greedy).is_ok(), "within its share it is as it says");
        greedy_app.accept().unwrap();
    });
}

// proves: SEC-3
#[test]
fn exclusions_beyond_a_pods_share_are_captured_and_take_no_room_from_a_neighbour() {
    let bed = Bed::new();
    pair_with(&bed, &[("EXCLUDED_PORTS", 2_000), ("EXCLUDED_CIDRS", 2_000)], |pair| {
        let networks = |count: u32| -> Vec<IpNet> {
            (0..count).map(|i| IpNet::from(std::net::IpAddr::from(Ipv4Addr::from(0xc612_0000 + i)))).collect()
        };
        let exclude = |pod: &Pod, count: u16| PodCapture {
            excluded_ports: (10_000..10_000 + count).collect::<BTreeSet<u16>>(),
            excluded_cidrs: networks(count.into()),
            ..pod.capture()
        };
        let is_captured = |pair: &Pair, to: SocketAddr| {
            let connected = pair.client.connect(to);
            connected.is_ok() && pair.client_worker().destination() == Some(to)
        };
        pair.capture_client(&exclude(&pair.client, 1_990));
        pair.kernel.capture(pair.server.cookie, &exclude(&pair.server, 500)).unwrap();
        let by_port = SocketAddr::from(([192, 0, 2, 1], 10_000));
        let by_network = SocketAddr::from(([198, 18, 0, 0], 80));
        for to in [by_port, by_network] {
            assert!(is_captured(pair, to), "the pod itself keeps nothing out of the mesh: {to}");
        }
        pair.capture_client(&exclude(&pair.client, 500));
        for to in [by_port, by_network] {
            assert!(!is_captured(pair, to), "within its share it is as it says: {to}");
        }
    });
}

/// A pod that keeps the node's connections half open, as a server of many probes could.
// proves: SEC-3, POL-3
#[test]
fn the_nodes_connections_to_one_pod_leave_room_for_its_probes_of_others() {
    const MANY: usize = 4_200;
    let bed = Bed::new();
    on_node(|node| {
        let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 16_384, 16_384);
        let config = KernelConfig { map_sizes: vec![("NODE_FLOWS", MANY as u32)], ..bed.config() };
        let mut kernel = pillion_agent::kernel::Kernel::open(&config).unwrap();
        let [greedy, neighbour] = [2, 3].map(|host| node.pod(host));
        let inbound = Inbound { default: InboundMode::Refuse, probed: [PORT].into(), ..Inbound::default() };
        for pod in [&greedy, &neighbour] {
            pod.captured(&mut kernel, &PodCapture { inbound: inbound.clone(), ..pod.capture() });
        }
        let _never_accepts = greedy.listen(PORT);
        let probed = neighbour.listen(PORT);
        let to = SocketAddr::new(greedy.ipv4.into(), PORT);
        let open: Vec<Socket> = (0..MANY)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let _ = socket.connect(&to.into());
                socket
            })
            .collect();
        let probe = TcpStream::connect(SocketAddr::new(neighbour.ipv4.into(), PORT));
        assert!(probe.is_ok(), "{probe:?}");
        probed.accept().unwrap();

        // What is over gives its place back.
        drop(open);
        for _ in 0..2 {
            TcpStream::connect(SocketAddr::new(neighbour.ipv4.into(), PORT)).unwrap();
            probed.accept().unwrap();
        }
    });
}

// proves: SEC-3
#[test]
fn a_connection_that_only_its_server_keeps_counts_for_the_server() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let mut usage = map::<u64, Usage>(&bed, "USAGE");
        let nearly = Usage { flows: quota::FLOWS - 1, ..Usage::default() };
        usage.insert(pair.client.cookie, nearly, 0).unwrap();
        let mut kept = Vec::new();
        for count in 1..=3 {
            let [client, server] = pair.connect();
            drop(client);
            kept.push(server);
            let server = Usage { flows: count, ..Usage::default() };
            wait_for(&[nearly, server], || {
                [&pair.client, &pair.server].map(|pod| pair.kernel.usage(pod.cookie).unwrap().unwrap())
            });
        }
        kept.clear();
        wait_for(&Usage::default(), || pair.kernel.usage(pair.server.cookie).unwrap().unwrap());
        assert_eq!(pair.kernel.usage(pair.client.cookie).unwrap().unwrap(), nearly);
        pair.wait_for_no_flows();
    });
}
