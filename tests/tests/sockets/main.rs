//! Sockets keep their meaning: what an app has set on a socket, and what either end sees of it, is the same on every path (HBONE,
//! direct, plain to the outside), for the first connection of a pair of pods and for every later one. What is not kept is in
//! docs/sockets.md.

mod families;
mod listeners;
mod options;
mod ports;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use pillion_tests::{Pair, Pod, Process, apps};

const SECONDS_10: Duration = Duration::from_secs(10);

/// Starts a server on port 9 that tells each client the address and port that it sees as the client's.
fn mirror(pod: &Pod) -> Result<Process> {
    const SCRIPT: &str = "
import socket
l = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    s, peer = l.accept()
    s.sendall(f\"{peer[0].removeprefix('::ffff:')} {peer[1]}\".encode()); s.close()
";
    let server = apps::python(pod, SCRIPT, [""; 0]).log("mirror").start()?;
    server.wait_listening(9)?;
    Ok(server)
}

/// Connects to a [`mirror`] from a socket that is bound to `from` (empty: to any address) and `port` (0: the kernel chooses).
/// Gives "own address own port, seen address seen port", or the name of the error of connect().
fn ask(client: &Pod, from: &str, port: u16, server: &str) -> Result<String> {
    const SCRIPT: &str = "
import errno, socket, sys, time
own, port, server = sys.argv[1], int(sys.argv[2]), sys.argv[3]
s = socket.socket(socket.AF_INET6 if ':' in server else socket.AF_INET)
s.settimeout(20)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((own, port))
begun = time.monotonic()
try: s.connect((server, 9))
except OSError as error: sys.exit(print(errno.errorcode.get(error.errno), 'late' if time.monotonic() - begun > 1 else 'at once'))
host, port = s.getsockname()[:2]
assert s.getpeername()[:2] == (server, 9), s.getpeername()
try: print(f\"{host.removeprefix('::ffff:')} {port}, {s.makefile().read()}\")
except OSError as error: print('connected, then', errno.errorcode.get(error.errno))
";
    let said = apps::python(client, SCRIPT, [from, &port.to_string(), server]).run()?;
    Ok(said.trim_end().to_owned())
}

/// A pod on the server's node that is not in the mesh: what goes there goes plain, by way of the client's worker.
fn outside(pair: &Pair) -> Pod {
    let outside = pair.far.node().pod("outside").create().unwrap();
    pair.near.wait_known(&outside).unwrap();
    outside
}

/// The address of the pod's that is of the other one's family.
fn own_address(pod: &Pod, other: &IpAddr) -> IpAddr {
    *pod.addresses().iter().find(|ip| ip.is_ipv4() == other.is_ipv4()).unwrap()
}
