//! Options of a client's socket that concern the network beyond the pod.

use pillion_tests::{Pair, SameNode, apps};

use crate::{SECONDS_10, outside};

/// Sets options, connects, and shows what the kernel says of the pod's sockets to that address.
const CLIENT: &str = "
import socket, subprocess, sys, time
server = sys.argv[1]
six = ':' in server
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
s.settimeout(10)
s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x77)
if six: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x28)
else: s.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 700)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 70)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 7)
s.connect((server, 7))
s.sendall(b'word'); s.recv(4)
# The answer's acknowledgement is not outstanding any more: what is left is the timer of keep-alive.
for _ in range(100):
    said = subprocess.run(['ss', '-Htneo', '--tos', 'dst', f'[{server}]' if six else server], capture_output=True, text=True).stdout
    if 'keepalive' in said: break
    time.sleep(0.05)
print(said)
";

// proves: TCP-3
#[test]
fn mark_traffic_class_device_and_keepalive_are_kept_outside() {
    let pair = Pair::new("options").unwrap();
    let outside = outside(&pair);
    let echo = apps::echo(&outside, 7).unwrap();
    for ip in outside.addresses() {
        let said = apps::python(&pair.client, CLIENT, [ip.to_string()]).run().unwrap();
        let class = if ip.is_ipv4() { "tos:0x28" } else { "tclass:0x28" };
        for kept in ["fwmark:0x77", class, "%eth0:"] {
            assert!(said.contains(kept), "{kept} is not in {said}");
        }
        let idle = said.split_once("timer:(keepalive,").expect(&said).1;
        assert!(idle.starts_with("11min"), "the app's 700 s: {said}");
    }
    drop(echo);
}

// proves: TCP-3
#[test]
fn a_user_timeout_holds_outside() {
    const SCRIPT: &str = "
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET); s.settimeout(60)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000)
s.connect((sys.argv[1], 7))
s.sendall(b'word'); s.recv(4); print('ready', flush=True)
sys.stdin.readline()
begun = time.monotonic()
s.sendall(b'lost')
try: print(s.recv(4))
except OSError as error: print(type(error).__name__, time.monotonic() - begun < 10)
";
    let pair = Pair::new("user-timeout").unwrap();
    let outside = outside(&pair);
    let echo = apps::echo(&outside, 7).unwrap();
    let client = apps::python(&pair.client, SCRIPT, [outside.ip4().to_string()]).start().unwrap();
    client.wait_log("ready", SECONDS_10).unwrap();
    pair.near.node().set_route(pair.far.node(), false).unwrap();
    client.write_line("go").unwrap();
    assert!(client.wait(std::time::Duration::from_secs(70)).unwrap().success());
    let said = client.log();
    assert!(said.contains("ConnectionResetError True") || said.contains("TimeoutError True"), "{said}");
    drop(echo);
}

// proves: TCP-3
#[test]
fn urgent_data_goes_by_the_direct_path_alone_and_elsewhere_the_stream_is_whole_without_it() {
    const SERVER: &str = "
import select, socket
l = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    s = l.accept()[0]; s.sendall(b'go'); s.settimeout(20)
    got, urgent = b'', b''
    while True:
        readable, _, excepted = select.select([s], [], [s], 20)
        if excepted and not urgent:
            urgent = s.recv(1, socket.MSG_OOB); continue
        data = s.recv(99)
        if not data: break
        got += data
    s.sendall(got + b' ' + urgent); s.close()
";
    const CLIENT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9), 20)
s.recv(2); s.sendall(b'abc'); s.send(b'!', socket.MSG_OOB); s.sendall(b'def'); s.shutdown(socket.SHUT_WR)
print(s.makefile().read())
";
    let same_node = SameNode::new("urgent").unwrap();
    let outside = same_node.outsider("outside").unwrap();
    let mut servers = Vec::new();
    for pod in [&same_node.server, &outside] {
        let server = apps::python(pod, SERVER, [""; 0]).log("urgent").start().unwrap();
        server.wait_listening(9).unwrap();
        servers.push(server);
    }
    let ask =
        |ip: std::net::Ipv4Addr| apps::python(&same_node.client, CLIENT, [ip.to_string()]).run().unwrap();
    assert_eq!(ask(same_node.server.ip4()), "abcdef \n", "through the mesh");
    assert_eq!(ask(same_node.server.ip4()), "abcdef !\n", "direct");
    assert_eq!(ask(outside.ip4()), "abcdef \n", "outside");
}
