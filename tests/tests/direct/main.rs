//! The direct path: two captured pods on one node talk in plain TCP that the kernel vouches for, and nobody else passes
//! for one of them. That the attacks in here succeed where nothing stands against them is shown by `tests/attack.rs`.

mod evidence;
mod forged;
mod inbound;
mod itself;
mod limits;
mod link;
mod loss;
mod others;
mod path;
mod policy;
mod refused;
mod standing;
mod switch;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use pillion_tests::security::{DIRECT, MUTUAL_TLS};
use pillion_tests::{AgentOptions, Pod, SameNode, apps};

const SECONDS_10: Duration = Duration::from_secs(10);

/// For every workload of the namespace.
const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: default }
spec: { mtls: { mode: STRICT } }
";

/// Client and server under STRICT, with an echo server on port 7 and a verdict that lets the client in.
fn introduced(name: &str) -> SameNode {
    let same_node = SameNode::with(name, &AgentOptions::default().access_log(), &[STRICT]).unwrap();
    apps::echo(&same_node.server, 7).unwrap();
    introduce(&same_node, &same_node.client, &same_node.server).unwrap();
    same_node
}

/// One connection, one word, and the word back: from an echo server on port 7.
fn ask(client: &Pod, server: IpAddr) -> Result<()> {
    let said = ask_from(client, "", server)?;
    ensure!(said == "word", "{} asked {server}: {said}", client.name());
    Ok(())
}

/// As [`ask`], from a given address; gives the word, or the error's name where connect() fails or nothing comes back. An
/// error that came late says so: nobody is refused by silence.
fn ask_from(client: &Pod, from: &str, server: IpAddr) -> Result<String> {
    const SCRIPT: &str = "
import socket, sys, time
begun = time.monotonic()
try:
    s = socket.create_connection((sys.argv[2], 7), 5, (sys.argv[1], 0) if sys.argv[1] else None)
    s.sendall(b'word'); s.shutdown(socket.SHUT_WR)
    print(s.makefile().read(), end='')
except OSError as error:
    print(type(error).__name__, '' if time.monotonic() - begun < 1 else ', late', sep='', end='')
";
    apps::python(client, SCRIPT, [from.to_string(), server.to_string()]).run()
}

/// Lets the agent decide that `client` may connect to `server`'s port 7 directly: the first connection takes the slow path,
/// and asks.
fn introduce(same_node: &SameNode, client: &Pod, server: &Pod) -> Result<()> {
    ask(client, server.ip4().into())?;
    let what = format!("the first connection from {} to {}", client.name(), server.name());
    same_node.agent.wait_metrics(&what, |metrics| {
        metrics.opened("destination", client, server, MUTUAL_TLS) >= 1.0
            || metrics.opened("destination", client, server, DIRECT) >= 1.0
    })?;
    Ok(())
}

/// Waits until both ends have reported exactly so many direct connections from client to server.
fn wait_direct(same_node: &SameNode, count: u32) -> Result<()> {
    let SameNode { client, server, agent, .. } = same_node;
    let count = f64::from(count);
    agent.wait_metrics(&format!("{count} direct connections at both ends"), |metrics| {
        ["source", "destination"]
            .iter()
            .all(|reporter| metrics.opened(reporter, client, server, DIRECT) == count)
    })?;
    Ok(())
}
