//! What might go out in plain by accident, and is refused or goes by mutual TLS.

use std::time::Duration;

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{AgentOptions, SameNode, apps};

use crate::{STRICT, ask, introduce};

/// The pod keeps port 8080 out of the mesh, and asks for a Service, which is in it.
// proves: SEC-3
#[test]
fn a_service_stays_in_the_mesh_where_its_endpoints_port_is_excluded() {
    let same_node = SameNode::with("excluded-endpoint", &AgentOptions::default(), &[STRICT]).unwrap();
    let SameNode { server, agent, bed, .. } = &same_node;
    let picky = same_node.node().pod("picky").captured();
    let picky = picky.annotation("pillion.dev/exclude-outbound-ports", "8080").create().unwrap();
    agent.wait_serving(&picky).unwrap();
    apps::nginx(server, 8080).unwrap();
    let service = bed.service("web", 80, 8080, &[server]).unwrap();
    agent.wait_config("the service", |dump| dump["services"].to_string().contains("\"web\"")).unwrap();
    for turn in 1..=4 {
        let url = format!("http://{}/hello", service.ip4);
        let output = picky.command("curl").args(["-sS", "-m", "8", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "connection {turn}");
    }
    agent
        .wait_metrics("four connections under both identities", |metrics| {
            let opened = |security| metrics.opened("source", &picky, server, security);
            opened(MUTUAL_TLS) + opened(DIRECT) == 4.0
        })
        .unwrap();
}

// proves: SEC-3
#[test]
fn a_process_on_the_workers_port_gets_nothing_while_no_agent_runs() {
    const THIEF: &str = "
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 15001)); s.listen(8); print('listens', flush=True)
while True:
    c, peer = s.accept(); print('got a connection', flush=True)
";
    let same_node = SameNode::with("thief", &AgentOptions::default(), &[STRICT]).unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    agent.kill().unwrap();
    let thief = apps::python(client, THIEF, [""; 0]).start().unwrap();
    thief.wait_log("listens", Duration::from_secs(10)).unwrap();
    let error = ask(client, server.ip4().into()).unwrap_err().to_string();
    assert!(error.contains("PermissionError"), "{error}");
    assert!(!thief.log().contains("got a connection"));
}
