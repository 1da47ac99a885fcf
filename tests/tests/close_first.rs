//! The side that closes first waits (TIME-WAIT), the other one is done: with a mesh between them, too.

use std::net::IpAddr;
use std::time::Duration;

use pillion_tests::{Pair, apps, wait};

/// Answers a connection with its end, a while after the client's own: the client's kernel has nothing left but a
/// TIME-WAIT to answer that with.
const SERVER: &str = "
import socket, time
listener = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    stream, _ = listener.accept()
    assert stream.recv(1) == b''
    time.sleep(0.3)
    stream.close()
";

/// Closes first; gives the port.
const CLIENT: &str = "
import socket, sys
stream = socket.create_connection((sys.argv[1], 7), 10)
print(stream.getsockname()[1])
stream.close()
";

// proves: TCP-2
#[test]
fn a_client_that_closes_first_leaves_nobody_waiting_for_its_last_word() {
    let pair = Pair::new("close-first").unwrap();
    let server = apps::python(&pair.server, SERVER, [""; 0]).start().unwrap();
    server.wait_listening(7).unwrap();
    for host in [IpAddr::V4(pair.server.ip4()), pair.server.ip6().into()] {
        let port = apps::python(&pair.client, CLIENT, [host.to_string()]).run().unwrap();
        let port = port.trim();
        for (pod, port) in [(&pair.client, port), (&pair.server, "7")] {
            let sockets = |state: &str| {
                let filter = format!("( sport = {port} or dport = {port} )");
                pod.command("ss").args(["-Htan", "state", state, &filter]).run()
            };
            wait::until("the end of the connection", Duration::from_secs(5), || {
                let left = sockets("connected")?;
                let ended = left.lines().all(|line| line.contains("TIME-WAIT"));
                Ok(ended.then_some(()))
            })
            .unwrap();
            assert_eq!(sockets("last-ack").unwrap(), "", "{} to {host}", pod.name());
        }
    }
}

/// A port that a connection used stays taken for a minute on the side that closed first; one app has 28,000 of them
/// for each address that connects to it. To the app every connection of the mesh comes from its own pod.
// proves: TCP-2
#[test]
fn clients_that_close_first_do_not_use_up_the_servers_ports() {
    const CLIENT: &str = "
import socket, sys
for _ in range(int(sys.argv[2])):
    stream = socket.create_connection((sys.argv[1], 7), 10)
    stream.shutdown(socket.SHUT_WR)
    assert stream.recv(1) == b''
    stream.close()
print('done')
";
    const SERVER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 7), backlog=1024)
while True:
    stream, _ = listener.accept()
    stream.recv(1)
    stream.close()
";
    let pair = Pair::new("ports").unwrap();
    let server = apps::python(&pair.server, SERVER, [""; 0]).start().unwrap();
    server.wait_listening(7).unwrap();
    let client = apps::python(&pair.client, CLIENT, [pair.server.ip4().to_string(), "30000".into()]);
    // They are many, and a busy machine takes its time.
    let said = client.timeout(Duration::from_secs(300)).run();
    assert_eq!(said.unwrap(), "done\n");
    let opened = [("reporter", "destination")];
    assert_eq!(pair.far.metrics().unwrap().sum("istio_tcp_connections_opened_total", &opened), 30_000.0);
}
