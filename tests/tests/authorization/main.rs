//! AuthorizationPolicy, by what apps see of it: who gets in, on every path; what becomes of open connections; what is told.

mod ask;
mod bad;
mod open;
mod plaintext;
mod table;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use pillion_tests::{Agent, Bed, Pod, apps};
use serde_json::Value;

/// Puts the only policy of the mesh in force, `None` for none; gives its name.
fn apply(bed: &Bed, agents: &[&Agent], spec: Option<&str>) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("p{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let text = spec.map(|spec| policy(&name, spec));
    bed.write_manifest("policy.yaml", text.as_deref().unwrap_or("# no policy")).unwrap();
    let name = format!("default/{name}");
    let names: Vec<&str> = spec.iter().map(|_| name.as_str()).collect();
    for agent in agents {
        wait_policies(agent, &names);
    }
    name
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: default }}\nspec: {spec}\n"
    )
}

/// Waits until these are the policies that the agent has in force.
fn wait_policies(agent: &Agent, expected: &[&str]) {
    let names = |dump: &Value| -> Vec<String> {
        let policies = dump["authorization_policies"].as_array().into_iter().flatten();
        policies.filter_map(|policy| Some(policy["name"].as_str()?.to_owned())).collect()
    };
    agent.wait_config(&format!("the policies {expected:?}"), |dump| names(dump) == expected).unwrap();
}

/// What came of a connection.
#[derive(Debug)]
struct Outcome {
    /// "word", or the name of the error where nothing came back. One that came late says so.
    said: String,
    /// The client's own address, where the connection got as far as having one.
    local: Option<SocketAddr>,
}

/// One connection to an echo server, one word, and the word back.
fn connect(client: &Pod, server: IpAddr, port: u16) -> Result<Outcome> {
    const SCRIPT: &str = "
import errno, socket, sys, time
begun = time.monotonic()
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.settimeout(5)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b'word')
    try: s.shutdown(socket.SHUT_WR)
    # It has been reset already: reading says so.
    except OSError as error: assert error.errno == errno.ENOTCONN
    said = s.makefile().read() or 'nothing'
except OSError as error:
    said = type(error).__name__
host, port = s.getsockname()[:2]
local = f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
print(said if time.monotonic() - begun < 2 else said + ', late', local)
";
    let said = apps::python(client, SCRIPT, [server.to_string(), port.to_string()]).run()?;
    let (said, local) = said.trim().rsplit_once(' ').context("the client printed no two words")?;
    Ok(Outcome { said: said.to_owned(), local: local.parse().ok() })
}

/// The line that this connection has left in the access log of the server's agent.
fn line_at_the_server(agent: &Agent, client: SocketAddr) -> Value {
    let client = client.to_string();
    let is_it = |line: &Value| line["reporter"] == "destination" && line["source_address"] == *client;
    agent.wait_access(&format!("the connection from {client}"), is_it).unwrap()
}
