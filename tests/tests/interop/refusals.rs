//! What our server refuses, and how it says so.

use std::time::Duration;

use http::Method;
use pillion_tests::apps;
use time::Duration as Span;

use super::client::{self, Answer, HEADERS, RST_STREAM};
use super::credentials::{Authority, Leaf, identity};
use super::{Stage, addresses};

// proves: ID-1, SEC-2
#[test]
fn requests_that_lead_nowhere_get_the_status_that_says_why() {
    let stage = Stage::new("requests", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    apps::nginx(&stage.pod, 80).unwrap();
    let neighbour = stage.pod.node().pod("neighbour").captured().create().unwrap();
    stage.agent.wait_serving(&neighbour).unwrap();
    apps::nginx(&neighbour, 80).unwrap();
    let [v4, v6] = addresses(&stage.pod, 15008);
    let ask = |to, method, target: &str| {
        client::ask(&stage.foreign, to, client::tls(Some(&own)).unwrap(), method, target).unwrap()
    };
    let connect = |to, target: &str| ask(to, Method::CONNECT, target);
    let (ip4, ip6) = (stage.pod.ip4(), stage.pod.ip6());
    assert_eq!(connect(v4, &format!("{ip4}:80")), Answer::Status(200));
    assert_eq!(connect(v6, &format!("[{ip6}]:80")), Answer::Status(200));
    // No app there.
    assert_eq!(connect(v4, &format!("{ip4}:81")), Answer::Status(503));
    assert_eq!(connect(v6, &format!("[{ip6}]:81")), Answer::Status(503));
    // Other pods, the pod's other family, its own loopback: not what was connected to.
    let others = [
        neighbour.ip4().to_string(),
        stage.foreign.ip4().to_string(),
        format!("[{ip6}]"),
        "127.0.0.1".into(),
    ];
    for other in others {
        assert_eq!(connect(v4, &format!("{other}:80")), Answer::Status(400), "{other}");
    }
    assert_eq!(connect(v6, &format!("[{}]:80", neighbour.ip6())), Answer::Status(400));
    for reserved in [15001, 15006, 15008] {
        assert_eq!(connect(v4, &format!("{ip4}:{reserved}")), Answer::Status(400), "{reserved}");
        assert_eq!(connect(v6, &format!("[{ip6}]:{reserved}")), Answer::Status(400), "{reserved}");
    }
    let malformed =
        ["ours:80", "ours.default.svc.cluster.local:80", &format!("{ip4}"), &format!("user@{ip4}:80")];
    for authority in malformed {
        assert_eq!(connect(v4, authority), Answer::Status(400), "{authority}");
    }
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let url = format!("https://{ip4}:80/");
        assert_eq!(ask(v4, method.clone(), &url), Answer::Status(405), "{method}");
    }
    stage.agent.process().wait_log("HBONE asks by CONNECT", Duration::from_secs(5)).unwrap();
    stage
        .agent
        .process()
        .wait_log("is not this pod: the connection came to", Duration::from_secs(5))
        .unwrap();
}

// proves: SEC-2
#[test]
fn a_connect_with_scheme_path_or_without_authority_is_malformed() {
    let stage = Stage::new("malformed", false).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    apps::nginx(&stage.pod, 80).unwrap();
    let authority = &format!("{}:80", stage.pod.ip4());
    let to = addresses(&stage.pod, 15008)[0];
    let ask = |fields: &[(&str, &str)]| {
        client::ask_raw(&stage.foreign, to, client::tls(Some(&own)).unwrap(), fields).unwrap()
    };
    let connect = (":method", "CONNECT");
    assert_eq!(ask(&[connect, (":authority", authority)]), HEADERS);
    assert_eq!(ask(&[connect, (":scheme", "https"), (":authority", authority), (":path", "/")]), RST_STREAM);
    assert_eq!(ask(&[connect, (":authority", authority), (":path", "/")]), RST_STREAM);
    assert_eq!(ask(&[connect, (":scheme", "https"), (":authority", authority)]), RST_STREAM);
    assert_eq!(ask(&[connect, (":authority", authority), (":protocol", "websocket")]), RST_STREAM);
    // Without one it is answered: 400, as any other that is no ip:port.
    assert_eq!(ask(&[connect]), HEADERS);
    // The agent is as well as before.
    assert_eq!(ask(&[connect, (":authority", authority)]), HEADERS);
}

// proves: ID-1
#[test]
fn strangers_do_not_come_in_and_the_log_says_why() {
    let stage = Stage::new("strangers", false).unwrap();
    apps::nginx(&stage.pod, 80).unwrap();
    let mesh = &stage.authority;
    let stranger = Authority::stranger(&stage.bed).unwrap();
    let sign = |name: &str, leaf: Leaf| mesh.sign(name, &leaf).unwrap();
    let foreign = || Leaf::of("foreign");
    let elsewhere = "spiffe://other.example/ns/default/sa/foreign";
    let cases = [
        (None, "it showed no certificate"),
        (Some(stranger.issue("foreign").unwrap()), "comes from an authority that is not this mesh's"),
        (
            Some(sign("elsewhere", foreign().uris([elsewhere]))),
            "it is spiffe://other.example/ns/default/sa/foreign, which is not of trust domain cluster.local",
        ),
        (Some(sign("early", foreign().shifted(Span::HOUR))), "this machine's clock says"),
        (Some(sign("late", foreign().shifted(-3 * Span::HOUR))), "its certificate was valid until"),
        (
            Some(sign("two", foreign().uris([&identity("foreign"), &identity("other")]))),
            "one URI, but names 2",
        ),
        (Some(sign("none", foreign().uris([]))), "one URI, but names 0"),
        (Some(sign("web", foreign().uris(["https://cluster.local/"]))), "names no workload of a mesh"),
        (Some(sign("user", foreign().uris(["spiffe://cluster.local/user"]))), "names no workload of a mesh"),
    ];
    let [to, _] = addresses(&stage.pod, 15008);
    let app = format!("{}:80", stage.pod.ip4());
    let log = |text: &str| stage.agent.process().wait_log(text, Duration::from_secs(5)).unwrap();
    for (credentials, reason) in &cases {
        let tls = client::tls(credentials.as_ref()).unwrap();
        let answer = client::ask(&stage.foreign, to, tls, Method::CONNECT, &app).unwrap();
        assert_eq!(answer, Answer::NoConnection, "{reason}");
        log(reason);
    }
    log("is not valid before");
    log("check the clocks of both nodes");
    // Sound certificates do not help who speaks something else.
    let own = mesh.issue("foreign").unwrap();
    let mut tls = client::tls(Some(&own)).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec(), b"istio".to_vec()];
    let answer = client::ask(&stage.foreign, to, tls, Method::CONNECT, &app).unwrap();
    assert_eq!(answer, Answer::NoConnection);
    log("no protocol in common: HBONE is HTTP/2 (ALPN h2)");
    assert_eq!(client::ask_plain(&stage.foreign, to).unwrap(), Answer::NoConnection);
    log("what it sent is not TLS");
    let old = stage.foreign.command("openssl").args(["s_client", "-tls1_2", "-alpn", "h2", "-cert"]);
    let old = old.arg(&own.certificate).arg("-key").arg(&own.key).args(["-connect", &to.to_string()]);
    let output = old.output().unwrap();
    assert!(!output.status.success() && output.stderr.contains("alert protocol version"), "{output:?}");
    log("it does not speak TLS 1.3");
    let labels = [("role", "server"), ("result", "failed")];
    let refused = cases.len() as f64 + 3.0;
    stage
        .agent
        .wait_metrics("all failed", |m| m.sum("pillion_handshakes_total", &labels) == refused)
        .unwrap();
    let good = client::tls(Some(&own)).unwrap();
    let answer = client::ask(&stage.foreign, to, good, Method::CONNECT, &app).unwrap();
    assert_eq!(answer, Answer::Status(200));
}
