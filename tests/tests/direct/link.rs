//! A neighbour on the same bridge that lies about who is where, and that joins in open connections.

use std::net::SocketAddr;

use pillion_tests::attack::{Disguise, Impostor, Segment, last_words};
use pillion_tests::pcap::Packets;
use pillion_tests::{SameNode, apps};

use crate::{introduce, wait_direct};

fn introduced(name: &str) -> SameNode {
    let same_node = SameNode::new(name).unwrap();
    apps::echo(&same_node.server, 7).unwrap();
    introduce(&same_node, &same_node.client, &same_node.server).unwrap();
    same_node
}

// proves: ID-1
#[test]
fn poisoned_neighbours_change_nothing_for_open_and_new_direct_connections() {
    let same_node = introduced("poisoned");
    let SameNode { client, server, .. } = &same_node;
    let mallory = same_node.outsider("mallory").unwrap();
    let impostor = Impostor::in_pod(&mallory).unwrap();
    let open = [0, 1].map(|family| {
        let talk = apps::converse(client, server.addresses()[family], 7, &format!("open-{family}")).unwrap();
        talk.say("hello").unwrap();
        talk
    });
    mallory.assume(server).unwrap();
    let false_server = apps::echo(&mallory, 7).unwrap();
    for (family, open) in open.into_iter().enumerate() {
        let (own, peer) = (client.addresses()[family], server.addresses()[family]);
        for (victim, address) in [(client, peer), (server, own)] {
            impostor.poison(victim, address).unwrap();
        }
        open.say("password").unwrap();
        open.close().unwrap();
        let new = apps::converse(client, peer, 7, &format!("new-{family}")).unwrap();
        new.say("password").unwrap();
        new.close().unwrap();
    }
    assert_eq!(false_server.log(), "", "nobody came to the impostor");
    wait_direct(&same_node, 4).unwrap();
}

// proves: ID-1
#[test]
fn a_stolen_link_layer_address_brings_nothing_of_direct_connections() {
    let same_node = introduced("stolen-mac");
    let SameNode { client, server, .. } = &same_node;
    let mallory = same_node.outsider("mallory").unwrap();
    let impostor = Impostor::in_pod(&mallory).unwrap();
    let overheard = mallory.record("").unwrap();
    for ip in server.addresses() {
        let talk = apps::converse(client, *ip, 7, &format!("talk-{ip}")).unwrap();
        talk.say("hello").unwrap();
        impostor.steal_mac(server).unwrap();
        impostor.steal_mac(client).unwrap();
        talk.say("password").unwrap();
        talk.close().unwrap();
    }
    assert!(!overheard.stop().unwrap().contain(b"password"));
    wait_direct(&same_node, 2).unwrap();
}

// proves: ID-1
#[test]
fn injected_segments_are_dropped_and_the_connection_goes_on_byte_for_byte() {
    const WORD: &[u8] = b"injected, and long enough for two fragments\n";
    let same_node = introduced("injected");
    let SameNode { client, server, .. } = &same_node;
    let attackers = [same_node.outsider("mallory").unwrap(), same_node.captured("insider").unwrap()];
    let impostors = attackers.each_ref().map(|pod| Impostor::in_pod(pod).unwrap());
    for ip in server.addresses() {
        let recordings = [client, server].map(|pod| (pod, pod.record("").unwrap()));
        let talk = apps::converse(client, *ip, 7, &format!("talk-{ip}")).unwrap();
        talk.say("hello").unwrap();
        let (from, to) = (talk.local().unwrap(), SocketAddr::new(*ip, 7));
        let greeted = |packets: &Packets| last_words(packets, from, to, b"hello\n");
        let [asked, answered] = recordings[0].1.wait_for("the greeting's echo", greeted).unwrap();
        let forged = [
            (client, Segment::after(&answered, &asked, WORD)),
            (client, Segment::reset_after(&answered)),
            (server, Segment::after(&asked, &answered, WORD)),
            (server, Segment::reset_after(&asked)),
        ];
        for impostor in &impostors {
            for (victim, segment) in &forged {
                for disguise in Disguise::ALL {
                    impostor.inject(victim, segment, disguise).unwrap();
                }
            }
            for (pod, recording) in &recordings {
                impostor.wait_arrived(pod, recording).unwrap();
            }
        }
        talk.say("still here").unwrap();
        talk.close().unwrap();
        for (pod, recording) in recordings {
            let packets = recording.stop().unwrap();
            assert!(!packets.contain(b"injected"), "{}", pod.name());
            let flows = packets.flows();
            let flows: Vec<_> = flows.iter().filter(|flow| [flow.from, flow.to].contains(&from)).collect();
            assert_eq!(flows.len(), 2);
            assert!(flows.iter().all(|flow| flow.bytes == b"hello\nstill here\n"));
        }
    }
    wait_direct(&same_node, 2).unwrap();
}
