//! What policies among the manifests say reaches the workers.

use pillion_tests::{Agent, Bed, Pair, apps};
use serde_json::{Value, json};

/// The line of the access log that a connection to this port of the server leaves at the client's agent.
fn security(pair: &Pair, port: u16) -> String {
    let address = format!("{}:{port}", pair.server.ip4());
    let said = apps::python(
        &pair.client,
        "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); s.sendall(b'word'); \
         s.shutdown(1); print(s.recv(9).decode())",
        [pair.server.ip4().to_string(), port.to_string()],
    );
    assert_eq!(said.run().unwrap().trim(), "word");
    let line =
        pair.near.wait_access("the connection", |line| line["destination_address"] == *address).unwrap();
    line["connection_security_policy"].as_str().unwrap_or_default().to_owned()
}

/// What the agent has resolved for the pod `server`.
fn mtls(dump: &Value) -> Value {
    let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
    let server = workloads.into_iter().find(|w| w["name"]["name"] == "server");
    server.map(|server| server["mtls"].clone()).unwrap_or_default()
}

fn wait_mtls(agent: &Agent, expected: &Value) {
    agent.wait_config("the policy", |dump| mtls(dump) == *expected).unwrap();
}

fn write(bed: &Bed, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: server}}\nspec: {spec}\n"
    );
    bed.write_manifest("policy.yaml", &text).unwrap();
}

// proves: ID-3
#[test]
fn a_port_whose_mode_is_disable_is_reached_in_plain_and_the_others_by_mutual_tls() {
    let pair = Pair::new("disable").unwrap();
    for port in [7001, 7002] {
        apps::echo(&pair.server, port).unwrap();
    }
    write(&pair.bed, "{selector: {matchLabels: {app: server}}, portLevelMtls: {7001: {mode: DISABLE}}}");
    wait_mtls(&pair.near, &json!({"default": "PERMISSIVE", "ports": {"7001": "DISABLE"}}));
    assert_eq!(security(&pair, 7001), "none");
    assert_eq!(security(&pair, 7002), "mutual_tls");
}

// proves: ID-3, SEC-2
#[test]
fn a_policy_that_cannot_be_read_is_named_and_the_last_good_one_stays() {
    let pair = Pair::new("policy").unwrap();
    let strict = json!({"default": "STRICT", "ports": {}});
    write(&pair.bed, "{mtls: {mode: STRICT}}");
    wait_mtls(&pair.far, &strict);
    write(&pair.bed, "{mtls: {mode: STRICKT}}");
    let dump = pair
        .far
        .wait_config("the error", |dump| dump["manifests"]["refused"][0]["field"] == "spec.mtls.mode")
        .unwrap();
    assert_eq!(mtls(&dump), strict);
}

// proves: ID-3, SEC-3
#[test]
fn a_mode_that_is_new_and_cannot_be_read_is_strict_before_a_restart_and_after_it() {
    let pair = Pair::new("new-mode").unwrap();
    wait_mtls(&pair.far, &json!({"default": "PERMISSIVE", "ports": {}}));
    write(&pair.bed, "{mtls: {mode: STRICKT}}");
    let strict = json!({"default": "STRICT", "ports": {}});
    wait_mtls(&pair.far, &strict);
    pair.far.restart().unwrap();
    wait_mtls(&pair.far, &strict);
    let dump = pair.far.config_dump().unwrap();
    assert_eq!(dump["manifests"]["refused"][0]["in_force"], "stand_in");
}
