//! A pod that talks to itself.

use pillion_tests::{AgentOptions, SameNode, apps};

use crate::{STRICT, ask};

// proves: CAP-3, ID-3
#[test]
fn a_pod_that_talks_to_itself_is_never_in_the_way_of_strict() {
    let same_node = SameNode::with("itself", &AgentOptions::default(), &[STRICT]).unwrap();
    let SameNode { server, agent, bed, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    let loopback = ["127.0.0.1", "::1", "127.8.8.8", "::ffff:127.0.0.1"].map(|ip| ip.parse().unwrap());
    for ip in server.addresses().iter().chain(&loopback) {
        ask(server, *ip).unwrap_or_else(|error| panic!("{ip}: {error:#}"));
    }
    // Through its own Service: it may be its own endpoint.
    let service = bed.service("echo", 7, 7, &[server]).unwrap();
    agent.wait_config("the service", |dump| dump["services"].to_string().contains("\"echo\"")).unwrap();
    for ip in [std::net::IpAddr::from(service.ip4), service.ip6.into()] {
        for _ in 0..3 {
            ask(server, ip).unwrap_or_else(|error| panic!("{ip}: {error:#}"));
        }
    }
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("pillion_inbound_plaintext_total", &[("result", "refused")]), 0.0);
}
