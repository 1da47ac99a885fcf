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
