//! The Istio echo application: its client against our server, our client against its server.

use std::time::Duration;

use pillion_tests::apps;
use pillion_tests::peers::{self, IstioEcho};
use serde_json::Value;

use super::credentials::{Authority, Credentials, Leaf, identity};
use super::{Stage, addresses, traffic};

// proves: ID-1
#[test]
fn istios_client_reaches_apps_through_our_server() {
    let stage = Stage::new("istio-client", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    apps::nginx(&stage.pod, 80).unwrap();
    apps::redis(&stage.pod, 6379).unwrap();
    apps::echo(&stage.pod, 7).unwrap();
    for ip in addresses(&stage.pod, 0).map(|address| address.ip()) {
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let run = |url: &str, args: &[&str]| {
            let server = format!("{host}:15008");
            let client = peers::client(&stage.foreign, &server, &own.certificate, &own.key, url).unwrap();
            client.args(args).run().unwrap()
        };
        let said = run(&format!("http://{host}/addresses"), &["--count", "50"]);
        let seen =
            if ip.is_ipv6() { stage.foreign.ip6().to_string() } else { stage.foreign.ip4().to_string() };
        assert_eq!(said.matches(&format!(" body] {seen}:")).count(), 50, "{said}");
        // Redis closes first.
        let said = run(&format!("tcp://{host}:6379"), &["--msg", "PING\nQUIT", "--expect", "+PONG"]);
        assert!(said.contains("+OK"), "{said}");
        let long = "0123456789abcdef".repeat(6_000);
        run(&format!("tcp://{host}:7"), &["--count", "20", "--msg", &long, "--expect", &long]);
    }
    let closed = "istio_tcp_connections_closed_total";
    let labels = [
        ("reporter", "destination"),
        ("source_principal", &identity("foreign")),
        ("destination_principal", &identity("ours")),
        ("source_workload", "foreign"),
        ("connection_security_policy", "mutual_tls"),
    ];
    stage.agent.wait_metrics("every connection closed", |m| m.sum(closed, &labels) >= 142.0).unwrap();
}

// proves: ID-1
#[test]
fn our_client_reaches_apps_through_istios_server() {
    let stage = Stage::new("istio-server", true).unwrap();
    let theirs = stage.authority.issue("foreign").unwrap();
    let _echo = IstioEcho::start(&stage.foreign, &theirs.certificate, &theirs.key, &[]).unwrap();
    traffic::server(&stage.foreign).unwrap();
    for address in addresses(&stage.foreign, IstioEcho::HTTP) {
        let said =
            stage.pod.command("curl").args(["-sS", "-m10", &format!("http://{address}/")]).run().unwrap();
        assert!(said.contains("Method=GET") && said.contains("Proto=HTTP/1.1"), "{said}");
    }
    for address in addresses(&stage.foreign, IstioEcho::TCP) {
        let script = "import socket,sys; s=socket.create_connection((sys.argv[1],9090),10); s.sendall(b'ping'); \
                      s.shutdown(1); print(s.makefile().read())";
        let said = apps::python(&stage.pod, script, [address.ip().to_string()]).run().unwrap();
        assert!(said.contains("Proto=TCP") && said.ends_with("ping\n"), "{said}");
    }
    for address in addresses(&stage.foreign, traffic::PORT) {
        traffic::bulk(&stage.pod, address).unwrap();
        traffic::many(&stage.pod, address).unwrap();
    }
    let line =
        stage.agent.wait_access("a connection", |line| line["destination_workload"] == "foreign").unwrap();
    assert_eq!(line["destination_principal"], identity("foreign"));
    assert_eq!(line["connection_security_policy"], "mutual_tls");
}

// proves: ID-1, CAP-5
#[test]
fn a_server_that_is_not_who_it_should_be_gets_nothing() {
    let stage = Stage::new("istio-wrong", true).unwrap();
    let mesh = &stage.authority;
    let stranger = Authority::stranger(&stage.bed).unwrap();
    let hours = time::Duration::hours;
    let impostor = "spiffe://cluster.local/ns/default/sa/impostor";
    let sign = |name: &str, leaf: Leaf| mesh.sign(name, &leaf).unwrap();
    let foreign = || Leaf::of("foreign");
    let cases: [(&str, Credentials, &[&str]); 6] = [
        (
            "impostor",
            sign("impostor", Leaf::of("impostor")),
            &[impostor, "spiffe://cluster.local/ns/default/sa/foreign was expected at this address"],
        ),
        (
            "stranger",
            stranger.issue("foreign").unwrap(),
            &["comes from an authority that is not this mesh's"],
        ),
        (
            "early",
            sign("early", foreign().shifted(hours(3))),
            &[
                "its certificate is not valid before",
                "this machine's clock says",
                "check the clocks of both nodes",
            ],
        ),
        (
            "late",
            sign("late", foreign().shifted(hours(-3))),
            &["its certificate was valid until", "check the clocks of both nodes"],
        ),
        (
            "two",
            sign("two", foreign().uris([&identity("foreign"), impostor])),
            &["exactly one URI, but names 2"],
        ),
        ("none", sign("none", foreign().uris([])), &["exactly one URI, but names 0"]),
    ];
    for (name, credentials, reasons) in cases {
        let echo = IstioEcho::start(&stage.foreign, &credentials.certificate, &credentials.key, &[]).unwrap();
        let seen = stage.agent.access_log().unwrap().len();
        let to = addresses(&stage.foreign, IstioEcho::TCP)[0];
        assert_eq!(traffic::attempt(&stage.pod, to).unwrap(), "reset", "{name}");
        let fails = |line: &&Value| line["error"].is_string();
        let line =
            stage.agent.process().wait_for("a line of the access log", Duration::from_secs(10), || {
                Ok(stage.agent.access_log()?.iter().skip(seen).find(fails).cloned())
            });
        let line = line.unwrap();
        assert_eq!(line["response_flags"], "UF", "{line}");
        let error = line["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("mutual TLS with {} at 10.88.", identity("foreign"))), "{error}");
        for reason in reasons {
            assert!(error.contains(reason), "{name}: {reason:?} is not in {error:?}");
        }
        echo.0.kill().unwrap();
    }
    let labels = [("reporter", "source"), ("response_flags", "UF"), ("destination_workload", "foreign")];
    let failed = "istio_tcp_connections_failed_total";
    stage.agent.wait_metrics("six failures", |metrics| metrics.sum(failed, &labels) == 6.0).unwrap();
    let labels = [("role", "client"), ("result", "failed")];
    stage
        .agent
        .wait_metrics("six handshakes", |m| m.sum("pillion_handshakes_total", &labels) == 6.0)
        .unwrap();
}
