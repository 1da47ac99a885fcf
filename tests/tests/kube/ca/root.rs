//! The root in its Secret, and what everybody hears of it.

use std::time::Duration;

use super::ask::{Question, UNAVAILABLE, refusal};
use super::stage::{CONFIG_MAP, HOST, SECRET, Stage};
use pillion_tests::wait;
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(20);

// proves: ID-2
#[test]
fn the_root_outlives_its_server_and_is_rotated_under_it() {
    let stage = Stage::new("rotation").unwrap();
    let token = stage.token(("shop", "web"), "istio-ca", None).unwrap();
    let first = stage.wait_roots(1).unwrap();
    stage.stop().unwrap();
    stage.start(&[]).unwrap();
    assert_eq!(stage.wait_roots(1).unwrap(), first, "the Secret has it");
    let old = stage.ask(&token, None).unwrap();
    old.verify(&first).unwrap();

    let said = stage.operate(&["rotate", "begin"]).unwrap();
    assert!(said.contains("pillion ca rotate switch --secret pillion-system/pillion-ca"), "{said}");
    let both = stage.wait_roots(2).unwrap();
    stage.ask(&token, None).unwrap().verify(&first).unwrap();
    let early = stage.operate(&["rotate", "switch"]).unwrap_err().to_string();
    assert!(early.contains("--force"), "the Secret knows since when it has been trusted: {early}");
    stage.operate(&["rotate", "switch", "--force"]).unwrap();
    let new = wait::until("a certificate of the new root", WITHIN, || {
        let issued = stage.ask(&token, None)?;
        issued.verify(&both)?;
        Ok(issued.verify(&first).is_err().then_some(issued))
    })
    .unwrap();

    let serial = "7b12af00";
    stage.operate(&["revoke", serial]).unwrap();
    let shown = stage.operate(&["show"]).unwrap();
    assert!(shown.contains(serial) && shown.contains("trusted, former"), "{shown}");
    wait::until("the CRL", WITHIN, || {
        Ok(stage.published("ca-crl.pem")?.contains("BEGIN X509 CRL").then_some(()))
    })
    .unwrap();
    stage.operate(&["rotate", "finish", "--force"]).unwrap();
    let second = stage.wait_roots(1).unwrap();
    new.verify(&second).unwrap();
    assert!(old.verify(&second).is_err());
    // The server's own certificate is of the new root, too: it is asked under that alone.
    assert_eq!(stage.ask(&token, None).unwrap().chain.len(), 2);
    let keys = stage.object(SECRET).unwrap()["data"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(!keys.iter().any(|key| key.contains("former") || key.contains("next")), "{keys:?}");
}

// proves: ID-2
#[test]
fn several_servers_that_start_at_once_have_one_root() {
    let stage = Stage::without_authority("replicas").unwrap();
    let kubeconfig = format!("--kubeconfig={}", stage.api.kubeconfig().display());
    let other = |port: u16| {
        let ports = [
            format!("--addr=127.0.0.1:{port}"),
            format!("--metrics-addr=127.0.0.1:{}", port + 1),
            format!("--health-addr=127.0.0.1:{}", port + 2),
        ];
        stage.node.ca_command_with(["serve", &kubeconfig]).unwrap().args(ports).log("other").start().unwrap()
    };
    let others = [other(31000), other(32000), other(33000)];
    stage.start(&[]).unwrap();
    for process in &others {
        process.wait_log("the certificate authority serves", WITHIN).unwrap();
    }
    let roots = stage.wait_roots(1).unwrap();
    let token = stage.token(("shop", "web"), "istio-ca", None).unwrap();
    stage.ask(&token, None).unwrap().verify(&roots).unwrap();
    let made =
        others[0].log().matches("a root is made").count() + stage.log().matches("a root is made").count();
    assert_eq!(made, 1, "all log into one file but ours");
}

// proves: ID-2
#[test]
fn what_is_published_is_put_back_and_a_broken_secret_changes_nothing() {
    let stage = Stage::new("put-back").unwrap();
    let token = stage.token(("shop", "web"), "istio-ca", None).unwrap();
    let roots = stage.wait_roots(1).unwrap();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "pillion-ca-root-cert"}, "data": {"root-cert.pem": "mine"}});
    stage.api.apply(CONFIG_MAP, &object).unwrap();
    let is_back = || Ok((stage.published("root-cert.pem")? == roots).then_some(()));
    wait::until("the roots to be put back", WITHIN, is_back).unwrap();
    stage.api.delete(CONFIG_MAP).unwrap();
    wait::until("the ConfigMap to be put back", WITHIN, is_back).unwrap();

    let good = stage.object(SECRET).unwrap();
    let secret = |data| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pillion-ca"}, "data": data});
    stage.api.apply(SECRET, &secret(json!({"ca.pem": "YnJva2Vu"}))).unwrap();
    wait::until("the server to say that it has no good root", WITHIN, || {
        Ok((stage.health()?.0 == 503).then_some(()))
    })
    .unwrap();
    assert_eq!(refusal(stage.ask(&token, None)).0, UNAVAILABLE);
    assert_eq!(stage.published("root-cert.pem").unwrap(), roots, "what it has signed is good still");
    stage.api.apply(SECRET, &secret(json!({"ca.pem": good["data"]["ca.pem"]}))).unwrap();
    wait::until("the server to be ready", WITHIN, || Ok((stage.health()?.0 == 200).then_some(()))).unwrap();
    stage.ask(&token, None).unwrap().verify(&roots).unwrap();
    stage.api.delete(SECRET).unwrap();
    wait::until("the server to say that the Secret is gone", WITHIN, || {
        Ok(stage.log().contains("pillion-system/pillion-ca: it is gone").then_some(()))
    })
    .unwrap();
    stage.ask(&token, None).unwrap().verify(&roots).unwrap();
}

#[test]
fn while_the_api_server_is_away_nobody_is_known_and_then_all_is_as_before() {
    let stage = Stage::new("api-away").unwrap();
    let token = stage.agent("agent-1", "n1").unwrap();
    stage.pod("shop", "cart-1", "cart", "n1").unwrap();
    let cart = Some("spiffe://cluster.local/ns/shop/sa/cart");
    stage.ask(&token, cart).unwrap();
    let roots = stage.published("root-cert.pem").unwrap();
    stage.api.kill().unwrap();
    let question = Question { token: Some(&token), identity: cart, seconds: 60, ..Question::default() };
    let (code, said) = refusal(stage.node.visit(|| super::ask::ask(HOST, &question, &roots)));
    assert_eq!((code, said.contains("the API server does not say")), (UNAVAILABLE, true), "{said}");
    assert_eq!(stage.health().unwrap().0, 200, "it is not its own fault, and others cannot do better");
    stage.api.restart().unwrap();
    wait::until("a certificate", WITHIN, || Ok(stage.ask(&token, cart).ok())).unwrap();
}
