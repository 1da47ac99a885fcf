//! A changed policy is for open connections, too.

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::wait::now;
use pillion_tests::{Agent, Pair, Pod, SameNode, apps};
use serde_json::Value;
use std::time::Duration;

use crate::{apply, connect};

const DENY_CLIENT: &str = "{ action: DENY, rules: [{ from: [{ source: { serviceAccounts: [client] } }] }] }";
const ALLOW_OTHER: &str = "{ rules: [{ from: [{ source: { serviceAccounts: [other] } }] }] }";

/// Conversations of `client` and `other`, over IPv4 and IPv6, with an echo server; then a policy that denies the client:
/// its conversations are cut, the other's go on.
fn cuts(
    agents: &[&Agent],
    bed: &pillion_tests::Bed,
    [client, other, server]: [&Pod; 3],
    security: &str,
    spec: &str,
) {
    apps::echo(server, 7).unwrap();
    let at_server = agents[0];
    // Where the direct path is, the first connections have asked for it: it is there once one has taken it.
    for pod in [client, other] {
        at_server
            .process()
            .wait_for("a connection by that path", Duration::from_secs(10), || {
                assert_eq!(connect(pod, server.ip4().into(), 7)?.said, "word");
                let opened = at_server.metrics()?.opened("destination", pod, server, security);
                Ok((opened >= 1.0).then_some(()))
            })
            .unwrap();
    }
    let open = |pod: &Pod, name: &str| {
        [0, 1].map(|family| {
            let talk =
                apps::converse(pod, server.addresses()[family], 7, &format!("{name}-{family}")).unwrap();
            talk.say("hello").unwrap();
            talk
        })
    };
    let (talks, spared) = (open(client, "cut"), open(other, "spared"));
    let begun = now();
    let policy = apply(bed, agents, Some(spec));
    for talk in &talks {
        let end = talk.wait_end().unwrap();
        let (how, at) = end.split_once(' ').unwrap();
        println!(
            "{security}: cut {:.0} ms after the policy was written",
            (at.parse::<f64>().unwrap() - begun) * 1e3
        );
        // A direct connection's own socket is destroyed, which the app sees as this.
        let expected = if security == DIRECT { "ConnectionAbortedError" } else { "ConnectionResetError" };
        assert!(how == "ConnectionResetError" || how == expected, "{how}");
    }
    for talk in spared {
        talk.say("still here").unwrap();
        talk.close().unwrap();
    }
    let cut = at_server
        .wait_metrics("that they were cut", |metrics| {
            metrics.sum("pillion_connections_cut_total", &[("reason", "denied")]) >= 2.0
        })
        .unwrap();
    assert_eq!(cut.sum("pillion_connections_cut_total", &[("reason", "denied"), ("pod", other.name())]), 0.0);
    let log = at_server.log();
    let named = if spec == DENY_CLIENT { policy.as_str() } else { "none of them matches" };
    assert!(
        log.lines().filter(|line| line.contains("cut an open connection") && line.contains(named)).count()
            >= 2,
        "{log}"
    );
    // Nobody comes back in.
    assert_eq!(connect(client, server.ip4().into(), 7).unwrap().said, "ConnectionResetError");
    assert_eq!(connect(other, server.ip4().into(), 7).unwrap().said, "word");
}

// proves: POL-2
#[test]
fn a_policy_cuts_open_connections_between_nodes() {
    let pair = Pair::new("cut-nodes").unwrap();
    let other = pair.near.node().pod("other").captured().create().unwrap();
    pair.near.wait_serving(&other).unwrap();
    pair.far.wait_known(&other).unwrap();
    cuts(&[&pair.far, &pair.near], &pair.bed, [&pair.client, &other, &pair.server], MUTUAL_TLS, DENY_CLIENT);
    let is_cut = |line: &Value| {
        line["reporter"] == "destination" && line["response_flags"] == "DENY" && line["bytes_received"] == 6
    };
    let line = pair.far.wait_access("a connection that was cut", is_cut).unwrap();
    assert!(
        line["error"].as_str().unwrap().starts_with("denied by rule 0 of DENY policy default/"),
        "{line}"
    );
}

// proves: POL-2
#[test]
fn a_policy_cuts_open_direct_connections() {
    for (name, spec) in [("cut-direct", DENY_CLIENT), ("cut-direct-allow", ALLOW_OTHER)] {
        let same_node = SameNode::new(name).unwrap();
        let other = same_node.captured("other").unwrap();
        let SameNode { client, server, agent, bed } = &same_node;
        cuts(&[agent], bed, [client, &other, server], DIRECT, spec);
    }
}

// proves: POL-2
#[test]
fn policies_that_change_under_load_let_nobody_in_that_none_of_them_allows() {
    let same_node = SameNode::new("flap").unwrap();
    let other = same_node.captured("other").unwrap();
    let SameNode { client, server, agent, bed } = &same_node;
    apps::echo(server, 7).unwrap();
    apply(bed, &[agent], Some(ALLOW_OTHER));
    // Two clients without pause: one that every policy allows, and one that every policy denies.
    let [welcome, unwelcome] = [&other, client]
        .map(|pod| apps::python(pod, KNOCK, [server.ip4().to_string()]).log("knock").start().unwrap());
    for _ in 0..15 {
        for spec in [DENY_CLIENT, ALLOW_OTHER] {
            apply(bed, &[agent], Some(spec));
        }
    }
    welcome.close_input();
    unwelcome.close_input();
    let seconds_10 = std::time::Duration::from_secs(10);
    for (knocker, [answered, other]) in
        [(&welcome, ["answered", "denied"]), (&unwelcome, ["denied", "answered"])]
    {
        knocker.wait(seconds_10).unwrap();
        let log = knocker.log();
        let count = |what: &str| {
            log.lines().rev().find_map(|line| line.strip_prefix(what)?.trim().parse::<u32>().ok())
        };
        println!("{}", log.trim());
        assert!(count(answered).unwrap() > 20, "{log}");
        assert_eq!(count(other), Some(0), "{log}");
    }
}

/// Connects until its input ends, and counts what came of it.
const KNOCK: &str = "
import select, socket, sys
counts = {'answered': 0, 'denied': 0}
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        s = socket.create_connection((sys.argv[1], 7), 5)
        s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
        counts['answered' if s.makefile().read() == 'word' else 'denied'] += 1
        s.close()
    except OSError:
        counts['denied'] += 1
for what, count in counts.items():
    print(what, count)
";
