//! What apps and operators see of a direct connection.

use std::net::{IpAddr, SocketAddr};

use pillion_tests::metrics::Metrics;
use pillion_tests::pcap::{Flow, Packets};
use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{AgentOptions, SameNode, apps};
use serde_json::Value;

use crate::{SECONDS_10, ask, introduce, wait_direct};

// proves: CAP-4, TEL-1, TEL-2
#[test]
fn the_first_connection_goes_by_mutual_tls_and_the_next_are_direct() {
    let same_node = SameNode::new("direct").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::nginx(server, 80).unwrap();
    let fetch = |ip: IpAddr| {
        let url = format!("http://{}/addresses", SocketAddr::new(ip, 80));
        client
            .command("curl")
            .args(["-sS", "-m", "10", "-w", "%{remote_ip} %{local_ip}", &url])
            .run()
            .unwrap()
    };
    let first = fetch(server.ip4().into());
    let recording = server.record("tcp").unwrap();
    let ends = [(client.ip4().into(), server.ip4().into()), (client.ip6().into(), server.ip6().into())];
    let second = ends.map(|(_, to): (IpAddr, IpAddr)| fetch(to));
    // The first connection's last words to its tunnel may still be there.
    let is_direct = |flow: &Flow| ![flow.from.port(), flow.to.port()].contains(&15008);
    let direct = |packets: &Packets| -> Vec<Flow> { packets.flows().into_iter().filter(is_direct).collect() };
    let is_whole = |packets: &Packets| {
        let direct = direct(packets);
        let is_said = |flow: &Flow| flow.whole && !flow.bytes.is_empty();
        (direct.len() == 4 && direct.iter().all(is_said)).then_some(())
    };
    recording.wait_for("two connections, each way", is_whole).unwrap();
    let direct = direct(&recording.stop().unwrap());
    assert_eq!(direct.len(), 4, "two connections, each way");
    for flow in direct {
        let begins = if flow.to.port() == 80 { "GET /addresses HTTP/1.1\r\n" } else { "HTTP/1.1 200 OK\r\n" };
        assert!(flow.whole && flow.bytes.starts_with(begins.as_bytes()), "plain HTTP: {flow:?}");
    }

    for (said, (own, peer)) in [(&first, ends[0]), (&second[0], ends[0]), (&second[1], ends[1])] {
        let (addresses, seen_by_client) = said.split_once('\n').unwrap();
        let (from, to) = addresses.split_once(' ').unwrap();
        assert_eq!(from.rsplit_once(':').unwrap().0, own.to_string(), "the server sees the client");
        assert_eq!(to, format!("{peer}:80"), "the server sees itself");
        assert_eq!(seen_by_client, format!("{peer} {own}"), "the client sees the server, and itself");
    }
    wait_direct(&same_node, 2).unwrap();
    for reporter in ["source", "destination"] {
        let metrics = agent.metrics().unwrap();
        assert_eq!(metrics.opened(reporter, client, server, MUTUAL_TLS), 1.0);
        let line = agent.wait_access("a direct connection's end", |line| {
            line["reporter"] == reporter && line["connection_security_policy"] == DIRECT
        });
        let line = line.unwrap();
        assert_eq!(line["source_principal"], client.identity());
        assert_eq!(line["destination_principal"], server.identity());
        assert_eq!(line["response_flags"], "-");
        assert!(
            line["bytes_received"].as_u64().unwrap() > 50 && line["srtt_us"].as_u64().unwrap() > 0,
            "{line}"
        );
    }
}

// proves: TCP-2
#[test]
fn no_packet_of_a_direct_connection_passes_the_bridge_not_even_the_last() {
    // The client closes both directions at once, and is gone before the server has said its last.
    const CLIENT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9)); s.sendall(b'word'); assert s.recv(4) == b'WORD'; s.close()
";
    const SERVER: &str = "
import socket, time
l = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True); print('listening')
while True:
    s = l.accept()[0]; s.sendall(s.recv(4).upper()); assert s.recv(1) == b''; time.sleep(0.2); s.close()
";
    let same_node = SameNode::new("last-packets").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    let serving = apps::python(server, SERVER, [""; 0]).start().unwrap();
    serving.wait_log("listening", SECONDS_10).unwrap();
    let connect = |ip: IpAddr| apps::python(client, CLIENT, [ip.to_string()]).run().unwrap();
    // By mutual TLS, the first time.
    connect(server.ip4().into());
    let recording = same_node.node().record("br0", "tcp port 9").unwrap();
    server.addresses().iter().for_each(|ip| drop(connect(*ip)));
    agent
        .wait_metrics("the end of both connections at the server's end", |metrics| {
            let labels = [("pod", server.name()), ("connection_security_policy", DIRECT)];
            metrics.sum("istio_tcp_connections_closed_total", &labels) == 2.0
        })
        .unwrap();
    assert_eq!(recording.stop().unwrap().tcp().count(), 0);
}

// proves: CAP-4
#[test]
fn a_direct_ipv4_connection_of_an_ipv6_socket_sees_mapped_addresses() {
    const SCRIPT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6)
s.connect(('::ffff:' + sys.argv[1], 7))
print(s.getpeername()[0], s.getsockname()[0])
s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
";
    let same_node = SameNode::new("mapped").unwrap();
    let SameNode { client, server, .. } = &same_node;
    let echo = apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let said = apps::python(client, SCRIPT, [server.ip4().to_string()]).run().unwrap();
    assert_eq!(said, format!("::ffff:{} ::ffff:{}\nword\n", server.ip4(), client.ip4()));
    assert!(echo.log().lines().last().unwrap().starts_with(&format!("{}:", client.ip4())), "{}", echo.log());
    wait_direct(&same_node, 1).unwrap();
}

// proves: CAP-4, TEL-1
#[test]
fn a_cluster_ip_leads_directly_to_an_endpoint_on_the_node() {
    const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 70), 10)
print(s.getpeername()[0], s.getsockname()[0])
s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
";
    let same_node = SameNode::new("direct-service").unwrap();
    let SameNode { client, server, agent, bed, .. } = &same_node;
    let echo = apps::echo(server, 7).unwrap();
    let service = bed.service("echo", 70, 7, &[server]).unwrap();
    agent.wait_config("the service", |dump| dump["services"].to_string().contains("\"echo\"")).unwrap();
    introduce(&same_node, client, server).unwrap();
    let ends = [
        (IpAddr::from(service.ip4), client.ip4().into(), server.ip4().into()),
        (service.ip6.into(), client.ip6().into(), server.ip6().into()),
    ];
    for (cluster_ip, own, endpoint) in ends {
        let said = apps::python(client, SCRIPT, [cluster_ip.to_string()]).run().unwrap();
        assert_eq!(said, format!("{cluster_ip} {own}\nword\n"));
        let seen = echo.log().lines().last().unwrap().to_owned();
        let (from, to): (SocketAddr, SocketAddr) = {
            let (from, to) = seen.split_once(' ').unwrap();
            (from.parse().unwrap(), to.parse().unwrap())
        };
        assert_eq!((from.ip(), to), (own, SocketAddr::new(endpoint, 7)));
        let line = agent.wait_access("what was asked for, and where it went", |line| {
            line["reporter"] == "source"
                && line["destination_address"] == SocketAddr::new(cluster_ip, 70).to_string()
                && line["upstream_address"] == SocketAddr::new(endpoint, 7).to_string()
        });
        let line = line.unwrap();
        assert_eq!(line["connection_security_policy"], DIRECT);
        assert_eq!(line["destination_service"], "echo.default.svc.cluster.local");
    }
    wait_direct(&same_node, 2).unwrap();
}

#[test]
fn a_service_that_prefers_the_same_node_is_direct_as_long_as_it_has_an_endpoint_there() {
    // Endpoints as addresses with their node; the cluster IP is known to nobody but the mesh.
    fn manifest(endpoints: &[(IpAddr, &str)]) -> String {
        let endpoints: Vec<String> = endpoints
            .iter()
            .map(|(ip, node)| {
                format!("{{addresses: ['{ip}'], nodeName: {node}, conditions: {{ready: true}}}}")
            })
            .collect();
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: near, namespace: default}}, spec: {{clusterIP: 10.97.0.1, \
             trafficDistribution: PreferSameNode, ports: [{{port: 7, protocol: TCP}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [{}], \
             metadata: {{name: near-1, namespace: default, labels: {{kubernetes.io/service-name: near}}}}, \
             ports: [{{name: '', port: 7, protocol: TCP}}]}}\n",
            endpoints.join(", ")
        )
    }
    let same_node = SameNode::new("near").unwrap();
    let SameNode { client, server, agent, bed, .. } = &same_node;
    let elsewhere = bed.node("n2").unwrap();
    let far = elsewhere.pod("far").captured().create().unwrap();
    let far_agent = elsewhere.start_agent(&AgentOptions::default()).unwrap();
    far_agent.wait_serving(&far).unwrap();
    for pod in [server, &far] {
        apps::echo(pod, 7).unwrap();
    }
    agent.wait_known(&far).unwrap();
    introduce(&same_node, client, server).unwrap();
    let (here, there) = ((server.ip4().into(), "n1"), (far.ip4().into(), "n2"));
    let endpoints = |count: usize| {
        move |dump: &Value| {
            let slices = dump["services"][0]["slices"].as_array().into_iter().flatten();
            slices.filter_map(Value::as_array).flatten().count() == count
        }
    };
    bed.write_manifest("near.yaml", &manifest(&[here, there])).unwrap();
    agent.wait_config("both endpoints", endpoints(2)).unwrap();
    let cluster_ip: IpAddr = [10, 97, 0, 1].into();
    for _ in 0..8 {
        ask(client, cluster_ip).unwrap();
    }
    wait_direct(&same_node, 8).unwrap();

    bed.write_manifest("near.yaml", &manifest(&[there])).unwrap();
    agent.wait_config("the endpoint that is left", endpoints(1)).unwrap();
    ask(client, cluster_ip).unwrap();
    agent
        .wait_metrics("a connection to the other node", |metrics| {
            metrics.opened("source", client, &far, MUTUAL_TLS) == 1.0
        })
        .unwrap();
}

// proves: TCP-2, TEL-1
#[test]
fn bulk_redis_and_half_closed_connections_go_directly_and_the_metrics_agree() {
    let same_node = SameNode::new("direct-apps").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::nginx(server, 80).unwrap();
    apps::redis(server, 6379).unwrap();
    apps::echo(server, 7).unwrap();
    let (ip4, ip6) = (server.ip4().to_string(), server.ip6().to_string());
    let redis = |args: &[&str]| client.command("redis-cli").args(["-h", &ip6]).args(args).run().unwrap();
    // The first to each port takes the slow path.
    let url = |path: &str| format!("http://{ip4}/{path}");
    client.command("curl").args(["-sS", &url("hello")]).run().unwrap();
    redis(&["ping"]);
    introduce(&same_node, client, server).unwrap();

    let size = client.command("curl").args(["-sS", &url("16m")]).output().unwrap().stdout.len();
    assert_eq!(size, 16 << 20);
    redis(&["set", "key", "value"]);
    assert_eq!(redis(&["get", "key"]), "value\n");
    // The client closes its direction and hears the rest.
    ask(client, server.ip6().into()).unwrap();
    wait_direct(&same_node, 4).unwrap();

    // curl's headers vary; what is sent by one end is received by the other.
    let agree = |metrics: &Metrics| {
        BYTES.iter().all(|name| {
            let [source, destination] = ["source", "destination"].map(|end| bytes(metrics, name, end));
            source == destination && source > 0.0
        })
    };
    let metrics = agent.wait_metrics("the same bytes at both ends", agree).unwrap();
    assert!(bytes(&metrics, "istio_tcp_sent_bytes_total", "source") >= f64::from(16 << 20));
}

// proves: CAP-5
#[test]
fn a_direct_connection_to_a_closed_port_is_refused_as_without_a_mesh() {
    const SCRIPT: &str = "
import socket, sys
try:
    socket.create_connection((sys.argv[1], 81), 5).recv(1)
    print('accepted')
except OSError as error:
    print(type(error).__name__)
";
    let same_node = SameNode::new("direct-refused").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    let ask = || apps::python(client, SCRIPT, [server.ip4().to_string()]).run().unwrap();
    // The slow path cannot say it in connect(); it decides all the same.
    assert_ne!(ask(), "accepted\n");
    assert_eq!(ask(), "ConnectionRefusedError\n");
    let failed = |line: &Value| {
        line["connection_security_policy"] == DIRECT
            && line["reporter"] == "source"
            && line["response_flags"] == "UF"
    };
    agent.wait_access("a direct connection that failed", failed).unwrap();
}

// proves: TEL-1
#[test]
fn no_direct_connection_goes_uncounted_under_load() {
    let same_node = SameNode::new("direct-load").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::nginx(server, 80).unwrap();
    let url = format!("http://{}/hello", server.ip4());
    client.command("curl").args(["-sS", &url]).run().unwrap();
    let wrk = client.command("wrk").args(["-t1", "-c16", "-d3s", "-H", "Connection: close", &url]);
    let wrk = wrk.start().unwrap();
    assert!(wrk.wait(SECONDS_10).unwrap().success());
    let said = wrk.log();
    assert!(!said.contains("Socket errors"), "{said}");
    let requests: f64 =
        said.lines().find_map(|line| line.trim().split_once(" requests in ")).unwrap().0.parse().unwrap();
    let at_rest = |metrics: &Metrics| {
        let counted = ["source", "destination"].map(|reporter| {
            let labels = [("reporter", reporter), ("connection_security_policy", DIRECT)];
            ["opened", "closed"]
                .map(|what| metrics.sum(&format!("istio_tcp_connections_{what}_total"), &labels))
        });
        counted.iter().flatten().all(|count| *count == counted[0][0] && *count >= requests)
    };
    let metrics = agent.wait_metrics("as many closed as opened, at both ends", at_rest).unwrap();
    assert_eq!(metrics.sum("pillion_direct_events_lost_total", &[]), 0.0);
}

// proves: TEL-1
#[test]
fn bytes_of_a_direct_connection_are_counted_while_it_is_open() {
    let same_node = SameNode::new("direct-open").unwrap();
    let SameNode { client, server, agent, .. } = &same_node;
    apps::echo(server, 7).unwrap();
    introduce(&same_node, client, server).unwrap();
    let talk = apps::converse(client, server.ip4().into(), 7, "talk").unwrap();
    let said = "a word that is long enough to be told from a handshake";
    talk.say(said).unwrap();
    let counted = |metrics: &Metrics| {
        let of = |reporter: &str| BYTES.map(|name| bytes(metrics, name, reporter));
        [of("source"), of("destination")]
    };
    let closed = |metrics: &Metrics| {
        metrics.sum("istio_tcp_connections_closed_total", &[("connection_security_policy", DIRECT)])
    };
    // With the line's end.
    let length = said.len() as f64 + 1.0;
    let open = agent.wait_metrics("the bytes of both ends", |metrics| counted(metrics) == [[length; 2]; 2]);
    assert_eq!(closed(&open.unwrap()), 0.0);
    talk.say(said).unwrap();
    talk.close().unwrap();
    let over = agent.wait_metrics("both ends closed", |metrics| closed(metrics) == 2.0).unwrap();
    assert_eq!(counted(&over), [[2.0 * length; 2]; 2]);
}

const BYTES: [&str; 2] = ["istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"];

/// What one end counts of direct connections.
fn bytes(metrics: &Metrics, name: &str, reporter: &str) -> f64 {
    metrics.sum(name, &[("reporter", reporter), ("connection_security_policy", DIRECT)])
}
