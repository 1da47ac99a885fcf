//! What the wire shows of a handshake, and which algorithms come of it.

use std::time::Duration;

use pillion_tests::peers::IstioEcho;
use pillion_tests::{AgentOptions, Bed, apps, requirements};

use super::credentials::identity;
use super::hello::{Hello, X25519, X25519MLKEM768};
use super::{Stage, addresses, traffic};

/// Connections of HBONE, from the first packet.
const HBONE: &str = "tcp port 15008";

// proves: ID-1
#[test]
fn two_agents_agree_on_post_quantum_keys_and_name_nobody_in_plain() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("hellos").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let client = n1.pod("client").captured().create().unwrap();
    let web = n2.pod("web").captured().create().unwrap();
    apps::nginx(&web, 80).unwrap();
    let (a1, a2) = (
        n1.start_agent(&AgentOptions::default()).unwrap(),
        n2.start_agent(&AgentOptions::default()).unwrap(),
    );
    a1.wait_serving(&client).unwrap();
    a2.wait_serving(&web).unwrap();
    a1.wait_known(&web).unwrap();
    let recording = n1.record_wire("").unwrap();
    for to in addresses(&web, 80) {
        let said = client.command("curl").args(["-sS", "-m10", &format!("http://{to}/hello")]).run().unwrap();
        assert_eq!(said, "hello\n");
    }
    let packets = recording.stop().unwrap();
    let flows: Vec<_> =
        packets.flows().into_iter().filter(|flow| flow.whole && !flow.bytes.is_empty()).collect();
    assert_eq!(flows.len(), 4, "a connection a family, and nothing else");
    assert!(flows.iter().all(|flow| flow.tls_records().is_some()));
    for plain in ["hello\n", "GET /", &identity("client"), &identity("web")] {
        assert!(!packets.contain(plain.as_bytes()), "{plain:?} is on the wire");
    }
    for hello in Hello::all(&packets).unwrap() {
        assert_eq!(hello.server_name(), None);
        assert!(!hello.is_retry);
        match hello.from_client {
            true => assert_eq!(hello.offered()[..2], [X25519MLKEM768, X25519]),
            false => assert_eq!(hello.group(), Some(X25519MLKEM768)),
        }
    }
}

// proves: ID-1
#[test]
fn servers_without_post_quantum_keys_are_reached_in_one_round_trip() {
    let stage = Stage::new("hellos-server", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    for (groups, group) in [("X25519", X25519), ("X25519MLKEM768", X25519MLKEM768)] {
        let args = ["--tls-curve-preferences", groups];
        let echo = IstioEcho::start(&stage.foreign, &own.certificate, &own.key, &args).unwrap();
        let recording = stage.pod.record(HBONE).unwrap();
        let url = format!("http://{}:8080/", stage.foreign.ip4());
        stage.pod.command("curl").args(["-sS", "-m10", &url]).run().unwrap();
        let hellos = Hello::all(&recording.stop().unwrap()).unwrap();
        let server = hellos.iter().find(|hello| !hello.from_client).unwrap();
        assert_eq!((server.group(), server.is_retry), (Some(group), false));
        assert!(hellos.iter().all(|hello| hello.server_name().is_none()));
        echo.0.kill().unwrap();
        let pool =
            |dump: &serde_json::Value| dump["workers"][0]["pool"].as_array().is_some_and(Vec::is_empty);
        stage.agent.wait_config("that the dead connection is forgotten", pool).unwrap();
    }
}

// proves: ID-1
#[test]
fn openssl_clients_agree_on_x25519() {
    let stage = Stage::new("hellos-client", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    for to in addresses(&stage.pod, 15008) {
        let openssl = stage.foreign.command("openssl").args(["s_client", "-groups", "X25519", "-alpn", "h2"]);
        let openssl = openssl.arg("-cert").arg(&own.certificate).arg("-key").arg(&own.key);
        let openssl =
            openssl.arg("-CAfile").arg(&stage.authority.root).args(["-verify_return_error", "-connect"]);
        let said = openssl.arg(to.to_string()).run().unwrap();
        for line in
            ["Server Temp Key: X25519", "New, TLSv1.3", "ALPN protocol: h2", "Verify return code: 0 (ok)"]
        {
            assert!(said.contains(line), "{line:?} is not in {said}");
        }
    }
}

// proves: ID-1
#[test]
fn servers_that_speak_something_else_are_told_apart() {
    let stage = Stage::new("hellos-other", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let app = addresses(&stage.foreign, 80)[0];
    let reason = || {
        let seen = stage.agent.access_log().unwrap().len();
        assert_eq!(traffic::attempt(&stage.pod, app).unwrap(), "reset");
        let log = stage.agent.process().wait_for("a line of the access log", Duration::from_secs(10), || {
            Ok(stage.agent.access_log()?.get(seen).cloned())
        });
        log.unwrap()["error"].as_str().unwrap().to_owned()
    };
    let openssl = stage.foreign.command("openssl").args(["s_server", "-tls1_2", "-accept", "15008", "-cert"]);
    let old = openssl.arg(&own.certificate).arg("-key").arg(&own.key).log("old").start().unwrap();
    old.wait_listening(15008).unwrap();
    let said = reason();
    assert!(said.contains("it does not speak TLS 1.3"), "{said}");
    old.kill().unwrap();
    let plain = apps::nginx(&stage.foreign, 15008).unwrap();
    let said = reason();
    assert!(said.contains("what it sent is not TLS"), "{said}");
    plain.kill().unwrap();
}
