//! Address families that a pod has, has not, or gets later.

use std::net::IpAddr;

use pillion_tests::{AgentOptions, Bed, Pair, Pod, requirements};

use crate::{ask, mirror, outside};

/// A captured pod on the client's node that has an address of one family alone.
fn lone(pair: &Pair, name: &str, address: IpAddr) -> Pod {
    // On the direct path what a pod sends under an address that the mesh does not know is dropped.
    let lone = pair.near.node().pod(name).captured().annotation("pillion.dev/direct", "disabled");
    let lone = lone.addresses(&[address]).create().unwrap();
    pair.near.wait_serving(&lone).unwrap();
    pair.far.wait_known(&lone).unwrap();
    lone
}

// proves: CAP-5, TCP-3
#[test]
fn a_pod_without_a_family_is_told_so_by_connect_at_once() {
    let pair = Pair::new("no-family").unwrap();
    let outside = outside(&pair);
    let mirrors = [mirror(&pair.server).unwrap(), mirror(&outside).unwrap()];
    let four = lone(&pair, "four", "10.88.1.100".parse().unwrap());
    let six = lone(&pair, "six", "fd88:1::100".parse().unwrap());
    for server in [&pair.server, &outside] {
        // Twice: the first connection of a pair of pods, and a later one.
        for _ in 0..2 {
            for (client, has, has_not) in [
                (&four, IpAddr::from(server.ip4()), IpAddr::from(server.ip6())),
                (&six, server.ip6().into(), server.ip4().into()),
            ] {
                assert_eq!(ask(client, "", 0, &has_not.to_string()).unwrap(), "ENETUNREACH at once");
                let own = client.addresses()[0].to_string();
                let said = ask(client, "", 0, &has.to_string()).unwrap();
                assert!(said.starts_with(&own), "{said}");
            }
        }
    }
    drop(mirrors);
}

// proves: SEC-3, TCP-3
#[test]
fn a_family_that_comes_later_is_never_plain_and_is_served_from_the_next_audit_on() {
    let options = AgentOptions::default().access_log().arg("--audit-interval=1h");
    let pair = Pair::with("late-family", &options).unwrap();
    let _mirror = mirror(&pair.server).unwrap();
    let four = lone(&pair, "four", "10.88.1.100".parse().unwrap());
    let server = pair.server.ip6().to_string();
    assert_eq!(ask(&four, "", 0, &server).unwrap(), "ENETUNREACH at once");
    add_ipv6(&four, &pair, "fd88:1::100");
    let recording = pair.near.node().record_wire("tcp port 9").unwrap();
    assert_eq!(ask(&four, "", 0, &server).unwrap(), "ENETUNREACH at once");
    pair.near.audit().unwrap();
    // The mesh does not know the address: the server sees the tunnel's.
    let said = ask(&four, "", 0, &server).unwrap();
    assert!(said.contains(", fd88:1::100 "), "{said}");
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing in plain");
}

// proves: TCP-3
#[test]
fn ipv6_that_was_off_when_the_worker_started_is_served_once_it_is_on() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("ipv6-on").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let client = n1.pod("client").captured().create().unwrap();
    let server = n2.pod("server").captured().create().unwrap();
    for pod in [&client, &server] {
        switch_ipv6(pod, false);
    }
    let options = AgentOptions::default().access_log().arg("--audit-interval=1h");
    let (near, far) = (n1.start_agent(&options).unwrap(), n2.start_agent(&options).unwrap());
    let pair = Pair { client, server, near, far, bed };
    pair.settle().unwrap();
    let _mirror = mirror(&pair.server).unwrap();
    let (ip4, ip6) = (pair.server.ip4().to_string(), pair.server.ip6().to_string());
    let asks = |ip: &str| ask(&pair.client, "", 0, ip).unwrap();
    let works = |ip: &str, own: IpAddr| {
        let said = asks(ip);
        let logs = [&pair.near, &pair.far].map(|agent| agent.access_log().unwrap());
        assert!(said.starts_with(&format!("{own} ")), "to {ip}: {said} {logs:#?}");
    };
    works(&ip4, pair.client.ip4().into());
    assert_eq!(asks(&ip6), "ENETUNREACH at once");
    for pod in [&pair.client, &pair.server] {
        switch_ipv6(pod, true);
        add_ipv6(pod, &pair, &pod.ip6().to_string());
    }
    for agent in [&pair.near, &pair.far] {
        agent.audit().unwrap();
    }
    works(&ip6, pair.client.ip6().into());
    works(&ip4, pair.client.ip4().into());
}

/// Switches IPv6 on or off; off, the pod's addresses of it are gone.
fn switch_ipv6(pod: &Pod, is_on: bool) {
    let script = "for i in all default; do echo $1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done";
    pod.command("sh").args(["-c", script, "sh", if is_on { "0" } else { "1" }]).run().unwrap();
}

/// Gives a pod an IPv6 address and a way out.
fn add_ipv6(pod: &Pod, pair: &Pair, address: &str) {
    let node = if pod.node().name() == pair.near.node().name() { pair.near.node() } else { pair.far.node() };
    let script = "ip addr add $1/64 dev eth0 nodad && ip route replace default via $2 dev eth0 onlink";
    pod.command("sh").args(["-ec", script, "sh", address, &node.ip6().to_string()]).run().unwrap();
}
