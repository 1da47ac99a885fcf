//! Connections that nobody opened: SYNs under others' addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pillion_tests::attack::{Disguise, Impostor, Segment};
use pillion_tests::pcap::{ACK, Packets, SYN};
use pillion_tests::security::DIRECT;
use pillion_tests::{Pod, SameNode, apps};

use crate::{ask, ask_from, introduce, introduced, wait_direct};

/// Addresses that are nobody's, in the node's networks.
const NOBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 88, 1, 200)), IpAddr::V6(Ipv6Addr::new(0xfd88, 1, 0, 0, 0, 0, 0, 200))];

fn accepts(packets: &Packets) -> usize {
    packets.tcp().filter(|tcp| tcp.from.port() == 7 && tcp.flags & (SYN | ACK) == SYN | ACK).count()
}

// proves: ID-1
#[test]
fn a_forged_syn_is_never_answered_with_a_connection() {
    let same_node = introduced("forged-syn");
    let SameNode { client, server, .. } = &same_node;
    let node = same_node.node();
    let mallory = same_node.outsider("mallory").unwrap();
    let insider = same_node.captured("insider").unwrap();
    let (outside, itself) = (server.record("").unwrap(), server.record_device("lo", "").unwrap());
    for attacker in [&mallory, &insider] {
        let impostor = Impostor::in_pod(attacker).unwrap();
        for (family, to) in server.addresses().iter().enumerate() {
            let node_ip = [IpAddr::from(node.ip4()), node.ip6().into()][family];
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()][family];
            let sources =
                [client.addresses()[family], *to, attacker.addresses()[family], NOBODY[family], node_ip];
            for (number, from) in sources.into_iter().chain([loopback]).enumerate() {
                for disguise in Disguise::ALL {
                    let from = SocketAddr::new(from, 5000 + number as u16);
                    let syn = Segment::syn(from, SocketAddr::new(*to, 7));
                    impostor.inject(server, &syn, disguise).unwrap();
                }
            }
        }
        impostor.wait_arrived(server, &outside).unwrap();
    }
    // What the mesh lets in comes after it, and is seen.
    for ip in server.addresses() {
        ask(client, *ip).unwrap();
    }
    assert_eq!(accepts(&outside.stop().unwrap()), 2, "the client's own two connections, no other");
    assert_eq!(accepts(&itself.stop().unwrap()), 0);
}

// proves: ID-1
#[test]
fn a_forged_syn_with_the_addresses_of_an_open_connection_never_arrives() {
    let same_node = introduced("forged-open");
    let SameNode { client, server, .. } = &same_node;
    let impostor = Impostor::in_pod(&same_node.outsider("mallory").unwrap()).unwrap();
    for ip in server.addresses() {
        let talk = apps::converse(client, *ip, 7, &format!("talk-{ip}")).unwrap();
        talk.say("hello").unwrap();
        let recording = server.record("").unwrap();
        let syn = Segment::syn(talk.local().unwrap(), SocketAddr::new(*ip, 7));
        for disguise in Disguise::ALL {
            impostor.inject(server, &syn, disguise).unwrap();
        }
        impostor.wait_arrived(server, &recording).unwrap();
        talk.say("still here").unwrap();
        let packets = recording.stop().unwrap();
        assert!(packets.tcp().all(|tcp| tcp.flags & SYN == 0), "{packets:?}");
        talk.close().unwrap();
    }
}

// proves: ID-1
#[test]
fn an_impostor_is_not_taken_for_the_client() {
    let same_node = introduced("impostor");
    let SameNode { client, server, .. } = &same_node;
    let mallory = same_node.outsider("mallory").unwrap();
    let impostor = Impostor::in_pod(&mallory).unwrap();
    let echo_lines = || apps_log(server);
    for from in client.addresses() {
        impostor.poison(server, *from).unwrap();
    }
    mallory.assume(client).unwrap();
    let before = echo_lines();
    for (from, to) in client.addresses().iter().zip(server.addresses()) {
        assert_eq!(ask_from(&mallory, &from.to_string(), *to).unwrap(), "ConnectionRefusedError", "{from}");
    }
    assert_eq!(echo_lines(), before, "the server's app has heard nothing");
    for ip in server.addresses() {
        ask(client, *ip).unwrap();
    }
    wait_direct(&same_node, 2).unwrap();
}

/// What the echo server of the pod has said of its connections.
fn apps_log(server: &Pod) -> String {
    std::fs::read_to_string(server.log("echo-7")).unwrap()
}

// proves: ID-1
#[test]
fn a_pod_of_the_mesh_under_anothers_address_is_not_attested_and_leaves_open_connections_alone() {
    // Not bound to the address: the kernel is made to choose it (CAP_NET_ADMIN), after the hook has looked.
    const CONNECT: &str = "
import socket, sys
s = socket.socket(); s.bind(('', int(sys.argv[2]))); s.settimeout(2)
try:
    s.connect((sys.argv[1], 7)); print('connected')
except OSError as error:
    print(type(error).__name__)
";
    let same_node = introduced("under-anothers");
    let SameNode { client, server, agent, .. } = &same_node;
    let insider = same_node.captured("insider").unwrap();
    introduce(&same_node, &insider, server).unwrap();
    let (ip, port) = (IpAddr::from(server.ip4()), 7);
    let talk = apps::converse(client, ip, port, "talk").unwrap();
    talk.say("hello").unwrap();

    insider.assume(client).unwrap();
    let route = format!("route replace 10.88.1.0/24 dev eth0 src {}", client.ip4());
    insider.command("ip").args(route.split(' ')).run().unwrap();
    let local = talk.local().unwrap();
    let said = apps::python(&insider, CONNECT, [ip.to_string(), local.port().to_string()]).run().unwrap();
    assert_ne!(said, "connected\n");

    // The open connection is still the client's alone: nobody else's segments get in.
    let impostor = Impostor::in_pod(&same_node.outsider("mallory").unwrap()).unwrap();
    let recording = server.record("").unwrap();
    impostor.inject(server, &Segment::syn(local, SocketAddr::new(ip, port)), Disguise::None).unwrap();
    impostor.wait_arrived(server, &recording).unwrap();
    assert!(recording.stop().unwrap().tcp().all(|tcp| tcp.flags & SYN == 0));
    talk.say("still here").unwrap();
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.opened("destination", &insider, server, DIRECT), 0.0);
    talk.close().unwrap();
}
