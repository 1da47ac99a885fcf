//! What comes into the mesh, and what stays as it was.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use pillion_tests::metrics::Metrics;
use pillion_tests::{Agent, Pair, Pod, Process, apps};

const OPENED: &str = "istio_tcp_connections_opened_total";

/// How many connections of its pods the agent has had, whatever became of them.
fn opened(agent: &Agent) -> f64 {
    agent.metrics().unwrap().sum(OPENED, &[])
}

/// A client that sends a line for each that it reads, over one connection, and says what came back.
fn lines(client: &Pod, host: &str, port: u16) -> Result<Process> {
    const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
f = s.makefile('rw')
print('connected')
for line in sys.stdin:
    f.write(line); f.flush()
    print('back', f.readline(), end='')
";
    let process = apps::python(client, SCRIPT, [host, &port.to_string()]).log("lines").start()?;
    process.wait_log("connected", Duration::from_secs(10))?;
    Ok(process)
}

fn say(process: &Process, word: &str) -> Result<()> {
    process.write_line(word)?;
    process.wait_log(&format!("back {word}\n"), Duration::from_secs(10))
}

/// One connection, one word, and the word back.
fn ask(client: &Pod, host: IpAddr, port: u16) -> Result<String> {
    const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
print(s.makefile().read(), end='')
";
    apps::python(client, SCRIPT, [host.to_string(), port.to_string()]).run()
}

// proves: CAP-1
#[test]
fn the_label_decides_for_running_pods_and_open_connections_go_on() {
    let pair = Pair::new("label").unwrap();
    let Pair { client, server, near, .. } = &pair;
    let echo = apps::echo(server, 7).unwrap();
    let server_ip = server.ip4();

    let captured = lines(client, &server_ip.to_string(), 7).unwrap();
    say(&captured, "captured").unwrap();
    assert_eq!(opened(near), 1.0);

    client.release().unwrap();
    near.wait_released(client).unwrap();
    say(&captured, "still-captured").unwrap();
    let plain = lines(client, &server_ip.to_string(), 7).unwrap();
    say(&plain, "plain").unwrap();

    client.capture().unwrap();
    near.wait_serving(client).unwrap();
    let again = lines(client, &server_ip.to_string(), 7).unwrap();
    for (process, word) in [(&captured, "one"), (&plain, "two"), (&again, "three")] {
        say(process, word).unwrap();
        process.close_input();
        assert!(process.wait(Duration::from_secs(10)).unwrap().success());
    }
    assert_eq!(echo.log().lines().count(), 3);
    near.wait_access("the first connection's end, after its pod had left the mesh and come back", |line| {
        line["direction"] == "outbound" && line["bytes_received"] == "captured\nstill-captured\none\n".len()
    })
    .unwrap();
}

// proves: CAP-1
#[test]
fn the_label_changes_under_load_without_an_error() {
    let pair = Pair::new("label-load").unwrap();
    let Pair { client, server, near, .. } = &pair;
    apps::nginx(server, 80).unwrap();
    let url = format!("http://{}/1k", server.ip4());
    let wrk =
        client.command("wrk").args(["-t1", "-c8", "-d8s", "-H", "Connection: close", &url]).start().unwrap();
    for _ in 0..20 {
        client.release().unwrap();
        near.wait_released(client).unwrap();
        client.capture().unwrap();
        near.wait_serving(client).unwrap();
    }
    assert!(wrk.wait(Duration::from_secs(30)).unwrap().success());
    let said = wrk.log();
    assert!(said.contains("Requests/sec"), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

// proves: CAP-3
#[test]
fn unlabelled_pods_talk_as_before() {
    let pair = Pair::new("unlabelled").unwrap();
    let Pair { client, server, near, far, .. } = &pair;
    let outside = near.node().pod("outside").create().unwrap();
    let inside = far.node().pod("inside").create().unwrap();
    near.wait_known(&inside).unwrap();
    for pod in [server, &inside] {
        apps::echo(pod, 7).unwrap();
    }
    let recording = near.node().record_wire("tcp port 7").unwrap();
    for ip in inside.addresses().iter().chain(server.addresses()) {
        assert_eq!(ask(&outside, *ip, 7).unwrap(), "word");
    }
    let packets = recording.stop().unwrap();
    assert_eq!(packets.flows().len(), 8, "four connections in plain, each way");
    // Out of the mesh's pod to one that is not in it: plain on the wire, and counted as such.
    assert_eq!(ask(client, inside.ip4().into(), 7).unwrap(), "word");
    let plain = [("reporter", "source"), ("connection_security_policy", "none")];
    near.wait_metrics("the plain connection", |metrics| metrics.sum(OPENED, &plain) == 1.0).unwrap();
}

// proves: CAP-3
#[test]
fn localhost_and_the_pods_own_address_are_left_alone() {
    let pair = Pair::new("own").unwrap();
    let Pair { client, near, .. } = &pair;
    apps::echo(client, 7).unwrap();
    let loopback = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.8.8"].map(|ip| ip.parse().unwrap());
    for ip in client.addresses().iter().chain(&loopback) {
        assert_eq!(ask(client, *ip, 7).unwrap(), "word", "{ip}");
    }
    assert_eq!(opened(near), 0.0);
}

// proves: CAP-3
#[test]
fn excluded_ports_and_networks_are_left_alone() {
    let pair = Pair::new("excluded").unwrap();
    let Pair { server, near, far, .. } = &pair;
    let client = near.node().pod("picky").captured();
    let client = client.annotation("pillion.dev/exclude-outbound-ports", "7,8");
    let client = client.annotation("pillion.dev/exclude-outbound-cidrs", "fd88:2::/64").create().unwrap();
    near.wait_serving(&client).unwrap();
    far.wait_known(&client).unwrap();
    let echoes: Vec<Process> = [7, 8, 9].map(|port| apps::echo(server, port).unwrap()).into();
    let recording = near.node().record_wire("tcp port 15008").unwrap();
    for port in [7, 8] {
        assert_eq!(ask(&client, server.ip4().into(), port).unwrap(), "word");
    }
    assert_eq!(ask(&client, server.ip6().into(), 9).unwrap(), "word");
    assert_eq!(recording.stop().unwrap().0.len(), 0, "nothing of it went through the mesh");
    assert_eq!(opened(near), 0.0);
    // The others are captured as ever.
    assert_eq!(ask(&client, server.ip4().into(), 9).unwrap(), "word");
    assert_eq!(opened(near), 1.0);
    drop(echoes);
}

// proves: CAP-3
#[test]
fn an_excluded_inbound_port_is_reached_in_plain_by_the_mesh() {
    let pair = Pair::new("inbound").unwrap();
    let Pair { client, near, far, .. } = &pair;
    let server = far.node().pod("metrics").captured().annotation("pillion.dev/exclude-inbound-ports", "9090");
    let server = server.create().unwrap();
    far.wait_serving(&server).unwrap();
    near.wait_known(&server).unwrap();
    apps::echo(&server, 9090).unwrap();
    let recording = near.node().record_wire("tcp port 15008").unwrap();
    assert_eq!(ask(client, server.ip4().into(), 9090).unwrap(), "word");
    assert_eq!(recording.stop().unwrap().0.len(), 0);
}

// proves: CAP-3
#[test]
fn udp_is_left_alone() {
    const SERVER: &str = "
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 53)); print('bound')
while True:
    data, peer = s.recvfrom(2048); s.sendto(data, peer)
";
    const CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10); s.connect((sys.argv[1], 53)); s.send(b'ping')
print(s.recv(99).decode(), s.getpeername()[0] == sys.argv[1])
";
    let pair = Pair::new("udp").unwrap();
    let server = apps::python(&pair.server, SERVER, [""; 0]).start().unwrap();
    server.wait_log("bound", Duration::from_secs(10)).unwrap();
    for ip in pair.server.addresses() {
        assert_eq!(apps::python(&pair.client, CLIENT, [ip.to_string()]).run().unwrap(), "ping True\n");
    }
}

// proves: CAP-3
#[test]
fn the_nodes_own_programs_are_left_alone() {
    let pair = Pair::new("host").unwrap();
    let Pair { server, near, far, .. } = &pair;
    apps::nginx(server, 80).unwrap();
    for node in [near.node(), far.node()] {
        let url = format!("http://{}/hello", server.ip4());
        assert_eq!(node.command("curl").args(["-sS", "-m", "10", &url]).run().unwrap(), "hello\n");
    }
    assert_eq!(opened(near), 0.0);
}

// proves: CAP-5
#[test]
fn a_closed_port_is_refused_at_once() {
    const SCRIPT: &str = "
import socket, sys, time
begun = time.monotonic()
try:
    s = socket.create_connection((sys.argv[1], 81), 30)
    s.settimeout(30)
    print(len(s.recv(1)))
except ConnectionError as error:
    print(type(error).__name__, time.monotonic() - begun < 5)
";
    let pair = Pair::new("refused").unwrap();
    for ip in pair.server.addresses() {
        let said = apps::python(&pair.client, SCRIPT, [ip.to_string()]).run().unwrap();
        assert!(
            ["ConnectionResetError True\n", "ConnectionRefusedError True\n"].contains(&said.as_str()),
            "{said}"
        );
    }
    let failed = |metrics: &Metrics| {
        metrics.sum("istio_tcp_connections_failed_total", &[("reporter", "source"), ("response_flags", "UF")])
            == 2.0
    };
    pair.near.wait_metrics("two connections that failed upstream", failed).unwrap();
}

// proves: CAP-5
#[test]
fn an_address_that_does_not_answer_is_an_error_within_the_connect_timeout() {
    const SCRIPT: &str = "
import socket, sys, time
begun = time.monotonic()
try:
    s = socket.create_connection((sys.argv[1], 80), 30); s.settimeout(30); s.recv(1)
except OSError as error:
    print(type(error).__name__, time.monotonic() - begun < 15)
";
    let pair = Pair::new("silent").unwrap();
    pair.near.node().set_route(pair.far.node(), false).unwrap();
    let said = apps::python(&pair.client, SCRIPT, [pair.server.ip4().to_string()]).run().unwrap();
    assert_eq!(said, "ConnectionResetError True\n");
}
