//! An end that vanishes without a word holds nothing for long.

use std::time::Duration;

use nix::sys::signal::Signal;
use pillion_tests::{Agent, Pair, Process, apps};

const CONNECTIONS: usize = 50;

/// Many connections that say nothing more, to an echo server on port 7.
fn silent_connections(pair: &Pair) -> Process {
    const SCRIPT: &str = "
import socket, sys
all = [socket.create_connection((sys.argv[1], 7), 10) for _ in range(int(sys.argv[2]))]
for s in all: s.sendall(b'x')
for s in all: s.recv(1)
print('open')
sys.stdin.read()
";
    let args = [pair.server.ip4().to_string(), CONNECTIONS.to_string()];
    let process = apps::python(&pair.client, SCRIPT, args).start().unwrap();
    process.wait_log("open", Duration::from_secs(20)).unwrap();
    process
}

fn open(agent: &Agent) -> f64 {
    agent.metrics().unwrap().sum("pillion_open_connections", &[])
}

fn tasks(agent: &Agent) -> u64 {
    let dump = agent.config_dump().unwrap();
    dump["workers"].as_array().unwrap().iter().map(|worker| worker["tasks"].as_u64().unwrap()).sum()
}

/// Until the agent has neither a connection nor a task nor a descriptor more than before.
fn wait_clean(agent: &Agent, before: (u64, usize), within: Duration) {
    agent
        .process()
        .wait_for("everything of the connections to be gone", within, || {
            let now = (tasks(agent), agent.fds()?);
            Ok((open(agent) == 0.0 && now.0 <= before.0 && now.1 <= before.1).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\nopen {}, tasks {}, before {before:?}", open(agent), tasks(agent)));
}

// proves: TCP-2
#[test]
fn a_node_that_vanishes_is_given_up_and_nothing_is_left() {
    let pair = Pair::new("vanish").unwrap();
    apps::echo(&pair.server, 7).unwrap();
    let before = [&pair.near, &pair.far].map(|agent| (tasks(agent), agent.fds().unwrap()));
    let client = silent_connections(&pair);
    assert_eq!((open(&pair.near), open(&pair.far)), (50.0, 50.0));
    let (n1, n2) = (pair.near.node().clone(), pair.far.node().clone());
    n1.set_route(&n2, false).unwrap();
    n2.set_route(&n1, false).unwrap();
    // Keep-alive towards a peer: 15 s, then 3 probes 5 s apart.
    wait_clean(&pair.near, before[0], Duration::from_secs(60));
    wait_clean(&pair.far, before[1], Duration::from_secs(60));
    client.close_input();
}

// proves: TCP-2
#[test]
fn an_app_that_is_gone_is_noticed_though_its_peer_says_nothing() {
    let pair = Pair::new("gone").unwrap();
    // A server that never closes: to it, a client that ended its direction may still be reading.
    const SCRIPT: &str = "
import socket, threading
l = socket.create_server(('0.0.0.0', 7), backlog=1024)
kept = []
def serve(s):
    s.sendall(s.recv(1)); kept.append(s)
while True: threading.Thread(target=serve, args=(l.accept()[0],)).start()
";
    let server = apps::python(&pair.server, SCRIPT, [""; 0]).start().unwrap();
    server.wait_listening(7).unwrap();
    let before = (tasks(&pair.near), pair.near.fds().unwrap());
    let client = silent_connections(&pair);
    client.signal(Signal::SIGKILL).unwrap();
    // The kernel keeps the app's orphans for a minute (tcp_fin_timeout); keep-alive asks after a minute, 15 s apart.
    wait_clean(&pair.near, (before.0 + 8, before.1 + 8), Duration::from_secs(180));
}

/// Tries a new connection every half second, each by itself; for every line that it is told, prints how long a new one took until
/// it carried a byte there and back.
const TRY_ON: &str = "
import socket, sys, threading, time
def once():
    began = time.monotonic()
    try:
        with socket.create_connection((sys.argv[1], 7), 30) as s:
            s.sendall(b'x'); s.recv(1)
    except OSError: return
    return time.monotonic() - began
def background():
    while True:
        threading.Thread(target=once, daemon=True).start()
        time.sleep(0.5)
once()
print('warm', flush=True)
for line in sys.stdin:
    if 'begin' in line: threading.Thread(target=background, daemon=True).start()
    else: print('took', once(), flush=True)
";

/// What waits for the old connection's next try would wait for seconds.
// proves: ISO-1
#[test]
fn after_a_hole_heals_new_connections_work_within_a_second() {
    let pair = Pair::new("heal").unwrap();
    apps::echo(&pair.server, 7).unwrap();
    let client = apps::python(&pair.client, TRY_ON, [pair.server.ip4().to_string()]).start().unwrap();
    client.wait_log("warm", Duration::from_secs(20)).unwrap();
    let (n1, n2) = (pair.near.node().clone(), pair.far.node().clone());
    let set_path = |up| {
        n1.set_route(&n2, up).unwrap();
        n2.set_route(&n1, up).unwrap();
    };
    set_path(false);
    client.write_line("begin").unwrap();
    // As long as the hole lasts. TCP waits twice as long after each try: by now for several seconds.
    std::thread::sleep(Duration::from_secs(8));
    set_path(true);
    client.write_line("try").unwrap();
    client.wait_log("took", Duration::from_secs(60)).unwrap();
    let said = client.log();
    let took: f64 = said.trim().rsplit(' ').next().unwrap().parse().expect("it came up");
    assert!(took < 1.0, "a new connection took {took:.1} s");
    client.close_input();
}
