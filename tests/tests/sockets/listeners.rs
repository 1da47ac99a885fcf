//! An app's listeners, and the worker's own sockets in the same pod.

use pillion_tests::{Pair, Pod, SameNode, apps};

use crate::{SECONDS_10, ask, outside};

/// The local ports of the pod's TCP sockets that fit a filter of ss(8) and belong to no app.
fn ports(pod: &Pod, filter: &str) -> Vec<u16> {
    let said = pod.command("ss").args(["-Htn"]).args(filter.split(' ')).run().unwrap();
    let local = |line: &str| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok();
    said.lines().filter_map(local).collect()
}

/// Listens as servers do (SO_REUSEADDR), at every address, and gives the error's name or "listens".
fn listen(pod: &Pod, port: u16) -> String {
    const SCRIPT: &str = "
import errno, socket, sys
for family, host in [(socket.AF_INET, ''), (socket.AF_INET6, '::')]:
    try: socket.create_server((host, int(sys.argv[1])), family=family).close()
    except OSError as error: sys.exit(print(errno.errorcode[error.errno], host))
print('listens')
";
    apps::python(pod, SCRIPT, [port.to_string()]).run().unwrap().trim_end().to_owned()
}

// proves: TCP-3
#[test]
fn an_app_listens_on_a_port_that_a_socket_of_the_worker_has() {
    let pair = Pair::new("beside").unwrap();
    let outside = outside(&pair);
    let echoes = [apps::echo(&pair.server, 7).unwrap(), apps::echo(&outside, 7).unwrap()];
    let mut talks = Vec::new();
    for ip in pair.server.addresses().iter().chain(outside.addresses()) {
        let talk = apps::converse(&pair.client, *ip, 7, &format!("talk-{}", talks.len())).unwrap();
        talk.say("word").unwrap();
        talks.push(talk);
    }
    let tunnels = ports(&pair.client, "dport = :15008");
    let beyond = [outside.ip4().to_string(), format!("[{}]", outside.ip6())];
    let beyond: Vec<u16> =
        beyond.iter().flat_map(|ip| ports(&pair.client, &format!("dst {ip} dport = :7"))).collect();
    let to_app = ports(&pair.server, "dport = :7");
    assert!(
        tunnels.len() >= 2 && beyond.len() == 2 && to_app.len() == 2,
        "{tunnels:?} {beyond:?} {to_app:?}"
    );
    for (pod, ports) in [(&pair.client, tunnels), (&pair.client, beyond), (&pair.server, to_app)] {
        for port in ports {
            assert_eq!(listen(pod, port), "listens", "{} at {port}", pod.name());
        }
    }
    for talk in talks {
        talk.close().unwrap();
    }
    drop(echoes);
}

// proves: TCP-3
#[test]
fn a_listener_that_is_bound_to_a_device_takes_direct_connections_and_others_are_reset_at_once() {
    const SCRIPT: &str = "
import socket, sys
l = socket.socket(socket.AF_INET6); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth0')
l.bind(('::', 9)); l.listen(); print('bound', flush=True)
while True:
    s, peer = l.accept()
    s.sendall(f\"{peer[0].removeprefix('::ffff:')} {peer[1]}\".encode()); s.close()
";
    let same_node = SameNode::new("device-listener").unwrap();
    let server = apps::python(&same_node.server, SCRIPT, [""; 0]).start().unwrap();
    server.wait_log("bound", SECONDS_10).unwrap();
    let mut answers =
        same_node.server.addresses().iter().map(|ip| ask(&same_node.client, "", 0, &ip.to_string()).unwrap());
    // Through the mesh connections come by `lo`. The next one of the pair is direct.
    assert_eq!(answers.next().unwrap(), "connected, then ECONNRESET");
    let direct = answers.next().unwrap();
    let (by_client, by_server) = direct.split_once(", ").unwrap();
    assert_eq!(by_client, by_server);
}
