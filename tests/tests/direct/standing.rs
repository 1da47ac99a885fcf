//! A pod's standing ends with the pod, or when it leaves the mesh; its addresses and ports are worth nothing.

use std::net::IpAddr;

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{Pod, SameNode, apps, wait};

use crate::{SECONDS_10, ask, ask_from, introduced, wait_direct};

/// As [`ask_from`], from this very port of the pod's.
fn ask_from_port(client: &Pod, port: u16, server: IpAddr) -> String {
    const SCRIPT: &str = "
import socket, sys
try:
    s = socket.create_connection((sys.argv[2], 7), 5, ('', int(sys.argv[1])))
    s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
    print(s.makefile().read(), end='')
except OSError as error:
    print(type(error).__name__, end='')
";
    apps::python(client, SCRIPT, [port.to_string(), server.to_string()]).run().unwrap()
}

// proves: ID-1, CAP-1
#[test]
fn a_pod_that_leaves_the_mesh_loses_its_standing_and_keeps_its_open_connections() {
    let same_node = introduced("leaves");
    let SameNode { client, server, agent, .. } = &same_node;
    let open = apps::converse(client, server.ip6().into(), 7, "open").unwrap();
    open.say("hello").unwrap();
    client.release().unwrap();
    agent.wait_released(client).unwrap();
    for ip in server.addresses() {
        assert_eq!(ask_from(client, "", *ip).unwrap(), "ConnectionRefusedError");
    }
    open.say("still here").unwrap();

    client.capture().unwrap();
    agent.wait_serving(client).unwrap();
    ask(client, server.ip4().into()).unwrap();
    open.say("and again").unwrap();
    open.close().unwrap();
}

// proves: ID-1
#[test]
fn a_server_that_leaves_the_mesh_is_reached_in_plain_and_keeps_its_open_connections() {
    let same_node = introduced("server-leaves");
    let SameNode { client, server, agent, .. } = &same_node;
    let open = apps::converse(client, server.ip4().into(), 7, "open").unwrap();
    open.say("hello").unwrap();
    wait_direct(&same_node, 1).unwrap();
    server.release().unwrap();
    agent.wait_released(server).unwrap();
    let outsider = same_node.outsider("outsider").unwrap();
    ask(&outsider, server.ip4().into()).unwrap();
    ask(client, server.ip4().into()).unwrap();
    wait_direct(&same_node, 1).unwrap();
    open.say("still here").unwrap();
    open.close().unwrap();
}

// proves: ID-1
#[test]
fn the_address_and_port_of_a_dead_pod_are_not_trusted() {
    let same_node = introduced("dead");
    let SameNode { client, server, agent, .. } = &same_node;
    let ip = IpAddr::from(server.ip4());
    let open = apps::converse(client, ip, 7, "open").unwrap();
    open.say("hello").unwrap();
    let (port, addresses) = (open.local().unwrap().port(), client.addresses().to_vec());
    client.delete().unwrap();

    // At once, before the agent can have heard of it.
    let heir = same_node.node().pod("heir").addresses(&addresses).create().unwrap();
    let said = ask_from_port(&heir, port, ip);
    assert_ne!(said, "word", "the heir is nobody");
    agent.wait_known(&heir).unwrap();
    assert_eq!(ask_from_port(&heir, port, ip), "ConnectionRefusedError");
    heir.delete().unwrap();

    // A third at the same addresses is in the mesh, as itself.
    let third = same_node.node().pod("third").captured().addresses(&addresses).create().unwrap();
    agent.wait_serving(&third).unwrap();
    assert_eq!(ask_from_port(&third, port, ip), "word");
    agent
        .wait_metrics("the third's own identity, first by mutual TLS", |metrics| {
            metrics.opened("destination", &third, server, MUTUAL_TLS) == 1.0
                && metrics.opened("destination", &third, server, DIRECT) == 0.0
        })
        .unwrap();
    ask(&third, ip).unwrap();
    agent
        .wait_metrics("the third's own identity, directly", |metrics| {
            metrics.opened("destination", &third, server, DIRECT) == 1.0
        })
        .unwrap();
}

// proves: ID-1
#[test]
fn a_server_at_a_dead_servers_address_gets_nothing_on_its_credit() {
    let same_node = introduced("dead-server");
    let SameNode { client, server, agent, .. } = &same_node;
    ask(client, server.ip4().into()).unwrap();
    wait_direct(&same_node, 1).unwrap();
    let addresses = server.addresses().to_vec();
    server.delete().unwrap();
    let heir = same_node.node().pod("heir").captured().addresses(&addresses).create().unwrap();
    apps::echo(&heir, 7).unwrap();
    agent.wait_serving(&heir).unwrap();
    // A new pod's CNI plugin tells the neighbours that the address has moved.
    let told = || {
        heir.greet(client.ip4().into())?;
        Ok((client.neighbour(addresses[0])? == Some(heir.mac()?)).then_some(()))
    };
    wait::until("the client to have heard of the move", SECONDS_10, told).unwrap();
    ask(client, addresses[0]).unwrap();
    agent
        .wait_metrics("the heir under its own identity, first by mutual TLS", |metrics| {
            metrics.opened("source", client, &heir, MUTUAL_TLS) == 1.0
                && metrics.opened("source", client, &heir, DIRECT) == 0.0
        })
        .unwrap();
}
