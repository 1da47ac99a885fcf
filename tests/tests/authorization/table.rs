//! One table of verdicts, and every path that a connection may take: direct, mutual TLS on one node, mutual TLS between
//! two.

use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{Agent, AgentOptions, Bed, Pod, apps, requirements};

use crate::{apply, connect, line_at_the_server};

/// A policy for the server, and for each client and port what is decided, by which rule (`-`: by none).
struct Row {
    spec: &'static str,
    expected: [(&'static str, u16, bool, &'static str); 4],
}

/// The clients are `web`, of the server's namespace, and `job`, of the namespace `batch`; the server listens on 7001 and
/// 7002.
const TABLE: &[Row] = &[
    Row {
        spec: "{ rules: [{ from: [{ source: { principals: ['cluster.local/ns/default/sa/web'] } }] }] }",
        expected: [
            ("web", 7001, true, "0"),
            ("web", 7002, true, "0"),
            ("job", 7001, false, "-"),
            ("job", 7002, false, "-"),
        ],
    },
    Row {
        spec: "{ action: DENY, rules: [{ to: [{ operation: { ports: ['7002'] } }] }, { from: [{ source: { namespaces: [batch] } }] }] }",
        expected: [
            ("web", 7001, true, "-"),
            ("web", 7002, false, "0"),
            ("job", 7001, false, "1"),
            ("job", 7002, false, "0"),
        ],
    },
    Row {
        spec: "{ rules: [{ from: [{ source: { serviceAccounts: [batch/job] } }], to: [{ operation: { ports: ['7001'] } }] }, \
               { from: [{ source: { notNamespaces: ['bat*'] } }], to: [{ operation: { notPorts: ['7001'] } }] }] }",
        expected: [
            ("web", 7001, false, "-"),
            ("web", 7002, true, "1"),
            ("job", 7001, true, "0"),
            ("job", 7002, false, "-"),
        ],
    },
    Row {
        spec: "{ selector: { matchLabels: { app: server } }, action: DENY, \
               rules: [{ when: [{ key: source.namespace, values: ['*ult'] }, { key: destination.port, values: ['7001'] }] }] }",
        expected: [
            ("web", 7001, false, "0"),
            ("web", 7002, true, "-"),
            ("job", 7001, true, "-"),
            ("job", 7002, true, "-"),
        ],
    },
    Row {
        spec: "{ rules: [{ from: [{ source: { ipBlocks: [WEB4, WEB6] } }] }] }",
        expected: [
            ("web", 7001, true, "0"),
            ("web", 7002, true, "0"),
            ("job", 7001, false, "-"),
            ("job", 7002, false, "-"),
        ],
    },
    Row {
        spec: "{ rules: [{ to: [{ operation: { methods: [GET], ports: ['7001'] } }] }, { to: [{ operation: { ports: ['7002'] } }] }] }",
        expected: [
            ("web", 7001, false, "-"),
            ("web", 7002, true, "1"),
            ("job", 7001, false, "-"),
            ("job", 7002, true, "1"),
        ],
    },
    Row {
        spec: "{ action: DENY, rules: [{ to: [{ operation: { paths: ['/admin*'], ports: ['7001'] } }] }] }",
        expected: [
            ("web", 7001, false, "0"),
            ("web", 7002, true, "-"),
            ("job", 7001, false, "0"),
            ("job", 7002, true, "-"),
        ],
    },
    Row {
        spec: "{}",
        expected: [
            ("web", 7001, false, "-"),
            ("web", 7002, false, "-"),
            ("job", 7001, false, "-"),
            ("job", 7002, false, "-"),
        ],
    },
];

struct Stage {
    clients: [Pod; 2],
    server: Pod,
    agents: Vec<Agent>,
    bed: Bed,
}

/// Clients and server, on nodes of these names, with an agent each.
fn stage(name: &str, options: &AgentOptions, [near, far]: [&str; 2]) -> Stage {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new(name).unwrap();
    let node = bed.node(near).unwrap();
    let other = if near == far { node.clone() } else { bed.node(far).unwrap() };
    let clients = [
        node.pod("web").captured().create().unwrap(),
        node.pod("job").namespace("batch").captured().create().unwrap(),
    ];
    let server = other.pod("server").captured().create().unwrap();
    let mut agents = vec![other.start_agent(options).unwrap()];
    if near != far {
        agents.push(node.start_agent(options).unwrap());
    }
    let at_clients = agents.last().unwrap();
    clients.iter().for_each(|client| at_clients.wait_serving(client).unwrap());
    agents[0].wait_serving(&server).unwrap();
    for agent in &agents {
        clients.iter().chain([&server]).for_each(|pod| agent.wait_known(pod).unwrap());
    }
    for port in [7001, 7002] {
        apps::echo(&server, port).unwrap();
    }
    Stage { clients, server, agents, bed }
}

fn holds(stage: &Stage, security: &str) {
    let Stage { clients, server, agents, bed } = stage;
    let all: Vec<&Agent> = agents.iter().collect();
    for Row { spec, expected } in TABLE {
        let spec = spec
            .replace("WEB4", &clients[0].ip4().to_string())
            .replace("WEB6", &clients[0].ip6().to_string());
        let policy = apply(bed, &all, Some(&spec));
        for (client, port, allowed, rule) in expected {
            let what = format!("{client} to {port} under {spec}");
            let pod = clients.iter().find(|pod| pod.name() == *client).unwrap();
            let ask = || connect(pod, server.ip4().into(), *port).unwrap();
            let mut outcome = ask();
            if *allowed && security == DIRECT {
                // The first one has asked; from then on the kernel knows.
                assert_eq!(outcome.said, "word", "{what}");
                line_at_the_server(&agents[0], outcome.local.unwrap());
                outcome = ask();
            }
            assert_eq!(outcome.said, if *allowed { "word" } else { "ConnectionResetError" }, "{what}");
            let line = line_at_the_server(&agents[0], outcome.local.unwrap());
            let said = &line["authorization"];
            let path = if *allowed { security } else { MUTUAL_TLS };
            assert_eq!(line["connection_security_policy"], path, "{what}: {line}");
            assert_eq!(line["response_flags"], if *allowed { "-" } else { "DENY" }, "{what}: {line}");
            // Where a pod is open no policy has said anything.
            if *allowed && *rule == "-" {
                assert!(said.is_null(), "{what}: {line}");
                continue;
            }
            assert_eq!(said["decision"], if *allowed { "ALLOW" } else { "DENY" }, "{what}: {line}");
            match rule.parse::<u64>() {
                Ok(rule) => {
                    assert_eq!(
                        (&said["policy"], &said["rule"]),
                        (&policy.as_str().into(), &rule.into()),
                        "{what}: {line}"
                    );
                }
                Err(_) => assert!(said["policy"].is_null(), "{what}: {line}"),
            }
        }
    }
}

// proves: POL-1
#[test]
fn verdicts_on_the_direct_path() {
    let stage = stage("table-direct", &AgentOptions::default().access_log(), ["n1", "n1"]);
    holds(&stage, DIRECT);
}

// proves: POL-1
#[test]
fn verdicts_on_mutual_tls_within_a_node() {
    let options = AgentOptions::default().access_log().arg("--direct").arg("off");
    holds(&stage("table-mtls", &options, ["n1", "n1"]), MUTUAL_TLS);
}

// proves: POL-1, L7-7
#[test]
fn verdicts_on_mutual_tls_between_nodes() {
    let stage = stage("table-nodes", &AgentOptions::default().access_log(), ["n1", "n2"]);
    holds(&stage, MUTUAL_TLS);
    // The client's end is told, too, and counts; so does the server's, by the policy.
    let denied = |line: &serde_json::Value| line["reporter"] == "source" && line["response_flags"] == "DENY";
    let line = stage.agents[1].wait_access("a denied connection at the source", denied).unwrap();
    assert!(line["error"].as_str().unwrap().contains("401"), "{line}");
    let flags = [("response_flags", "DENY")];
    for agent in &stage.agents {
        assert!(agent.metrics().unwrap().sum("istio_tcp_connections_failed_total", &flags) > 0.0);
    }
    let metrics = stage.agents[0].metrics().unwrap();
    assert!(metrics.sum("pillion_authorization_total", &[("result", "denied"), ("policy", "")]) > 0.0);
    assert!(metrics.sum("pillion_authorization_total", &[("result", "allowed"), ("pod", "server")]) > 0.0);
}
