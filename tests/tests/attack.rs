//! Attacks by a neighbour pod succeed on a bridge without a mesh: tests that show them failing (`tests/direct`) would prove
//! nothing otherwise.

use std::net::{IpAddr, SocketAddr};

use pillion_tests::attack::{Disguise, Impostor, Segment, last_words};
use pillion_tests::pcap::{ACK, Packets, SYN};
use pillion_tests::{Bed, Pod, apps, requirements};

/// Three pods on one node, none of them in a mesh.
struct Bridge {
    client: Pod,
    /// Echoes on port 7.
    server: Pod,
    mallory: Pod,
    _bed: Bed,
}

impl Bridge {
    fn new(name: &str) -> Self {
        requirements::ensure(requirements::APPS).unwrap();
        let bed = Bed::new(name).unwrap();
        let node = bed.node("n1").unwrap();
        let [client, server, mallory] =
            ["client", "server", "mallory"].map(|name| node.pod(name).create().unwrap());
        apps::echo(&server, 7).unwrap();
        Self { client, server, mallory, _bed: bed }
    }

    /// Client and server, in each family.
    fn ends(&self) -> [(IpAddr, IpAddr); 2] {
        let (client, server) = (self.client.addresses(), self.server.addresses());
        [(client[0], server[0]), (client[1], server[1])]
    }
}

fn with_flags(packets: &Packets, from: SocketAddr, to: SocketAddr, flags: u8) -> bool {
    packets.tcp().any(|tcp| tcp.from == from && tcp.to == to && tcp.flags & flags == flags)
}

#[test]
fn a_forged_syn_is_answered_in_every_disguise() {
    let bridge = Bridge::new("forged-syn");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    let recording = bridge.server.record("").unwrap();
    for (client, server) in bridge.ends() {
        for (number, disguise) in Disguise::ALL.into_iter().enumerate() {
            let (from, to) = (SocketAddr::new(client, 5000 + number as u16), SocketAddr::new(server, 7));
            impostor.inject(&bridge.server, &Segment::syn(from, to), disguise).unwrap();
            let answer = format!("an answer to the SYN from {client}, {disguise:?}");
            let answered = |packets: &Packets| with_flags(packets, to, from, SYN | ACK).then_some(());
            recording.wait_for(&answer, answered).unwrap();
        }
    }
}

/// Not over IPv4: there Linux takes no packet from outside that bears an own address.
#[test]
fn a_forged_syn_from_the_servers_own_ipv6_address_is_answered() {
    let bridge = Bridge::new("own-address");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    let recording = bridge.server.record_device("lo", "").unwrap();
    let own = IpAddr::from(bridge.server.ip6());
    let (from, to) = (SocketAddr::new(own, 5000), SocketAddr::new(own, 7));
    impostor.inject(&bridge.server, &Segment::syn(from, to), Disguise::None).unwrap();
    let answered = |packets: &Packets| with_flags(packets, to, from, SYN | ACK).then_some(());
    recording.wait_for("an answer, to itself", answered).unwrap();
}

#[test]
fn injected_data_is_believed_in_every_disguise() {
    let bridge = Bridge::new("injected");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    for (_, server) in bridge.ends() {
        for disguise in Disguise::ALL {
            let recording = bridge.server.record("").unwrap();
            let log = format!("{server}-{disguise:?}");
            let talk = apps::converse(&bridge.client, server, 7, &log).unwrap();
            talk.say("hello").unwrap();
            let (client, server) = (talk.local().unwrap(), SocketAddr::new(server, 7));
            let word = b"injected, and long enough for two fragments\n";
            let greeted = |packets: &Packets| last_words(packets, client, server, b"hello\n");
            let [last, answer] = recording.wait_for("the greeting's echo", greeted).unwrap();
            let segment = Segment::after(&last, &answer, word);
            impostor.inject(&bridge.server, &segment, disguise).unwrap();
            let believed = |packets: &Packets| {
                packets
                    .flows()
                    .iter()
                    .any(|flow| flow.from == server && flow.bytes.ends_with(word))
                    .then_some(())
            };
            recording.wait_for(&format!("the injected word's echo, {disguise:?}"), believed).unwrap();
        }
    }
}

#[test]
fn a_forged_reset_ends_a_connection() {
    let bridge = Bridge::new("forged-reset");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    for (_, server) in bridge.ends() {
        let recording = bridge.client.record("").unwrap();
        let talk = apps::converse(&bridge.client, server, 7, &format!("{server}")).unwrap();
        talk.say("hello").unwrap();
        let (client, server) = (talk.local().unwrap(), SocketAddr::new(server, 7));
        let greeted = |packets: &Packets| last_words(packets, client, server, b"hello\n");
        let [_, answer] = recording.wait_for("the greeting's echo", greeted).unwrap();
        let reset = Segment::reset_after(&answer);
        impostor.inject(&bridge.client, &reset, Disguise::None).unwrap();
        assert!(talk.wait_end().unwrap().starts_with("ConnectionResetError"));
    }
}

#[test]
fn a_poisoned_client_speaks_to_the_impostor() {
    let bridge = Bridge::new("poisoned");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    let before = bridge.ends().map(|(_, server)| {
        let talk = apps::converse(&bridge.client, server, 7, &format!("before-{server}")).unwrap();
        talk.say("hello").unwrap();
        talk
    });
    bridge.mallory.assume(&bridge.server).unwrap();
    let false_server = apps::echo(&bridge.mallory, 7).unwrap();
    for ((client, server), before) in bridge.ends().into_iter().zip(before) {
        assert_ne!(bridge.client.neighbour(server).unwrap(), Some(impostor.mac()));
        impostor.poison(&bridge.client, server).unwrap();
        let after = apps::converse(&bridge.client, server, 7, &format!("after-{server}")).unwrap();
        after.say("password").unwrap();
        false_server.wait_log(&client.to_string(), std::time::Duration::from_secs(5)).unwrap();
        // The open one is the impostor's, too: it knows no such connection, and says so.
        before.begin("anyone?").unwrap();
        assert!(before.wait_end().unwrap().starts_with("ConnectionResetError"));
    }
}

#[test]
fn an_impostor_is_taken_for_the_client() {
    let bridge = Bridge::new("taken-for");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    bridge.mallory.assume(&bridge.client).unwrap();
    for (client, server) in bridge.ends() {
        apps::converse(&bridge.client, server, 7, &format!("before-{server}")).unwrap().close().unwrap();
        impostor.poison(&bridge.server, client).unwrap();
        let said = speak_as(&bridge.mallory, client, server);
        assert_eq!(said, "word\n", "{client} → {server}");
    }
}

/// One connection from a given address, one word, and the word back.
fn speak_as(pod: &Pod, from: IpAddr, to: IpAddr) -> String {
    const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[2], 7), 10, (sys.argv[1], 0))
s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
";
    apps::python(pod, SCRIPT, [from.to_string(), to.to_string()]).run().unwrap()
}

#[test]
fn a_stolen_link_layer_address_brings_its_packets() {
    let bridge = Bridge::new("stolen-mac");
    let impostor = Impostor::in_pod(&bridge.mallory).unwrap();
    let overheard = bridge.mallory.record("").unwrap();
    let talk = apps::converse(&bridge.client, bridge.server.ip4().into(), 7, "talk").unwrap();
    talk.say("hello").unwrap();
    impostor.steal_mac(&bridge.server).unwrap();
    talk.begin("password").unwrap();
    overheard.wait_for("the password", |packets| packets.contain(b"password").then_some(())).unwrap();
}
