//! Who gets which identity.

use std::time::Duration;

use super::ask::{INVALID_ARGUMENT, PERMISSION_DENIED, Question, UNAUTHENTICATED, refusal};
use super::stage::Stage;
use pillion_tests::wait;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

// proves: ID-2
#[test]
fn a_nodes_agent_gets_certificates_for_the_pods_of_its_node_and_for_no_others() {
    let stage = Stage::new("node-token").unwrap();
    let token = stage.agent("agent-1", "n1").unwrap();
    stage.pod("shop", "web-1", "web", "n2").unwrap();
    stage.pod("shop", "cart-1", "cart", "n1").unwrap();
    // At once: the watch may not have brought the pod yet.
    let issued = stage.ask(&token, Some(CART)).unwrap();
    assert_eq!(issued.identity(), CART);
    let roots = stage.published("root-cert.pem").unwrap();
    issued.verify(&roots).unwrap();
    assert_eq!(issued.chain.len(), 2, "the leaf first, the root last");

    let (code, said) = refusal(stage.ask(&token, Some(WEB)));
    assert_eq!(code, PERMISSION_DENIED, "{said}");
    assert!(said.contains("no pod of shop/web is on n1"), "{said}");
    let denied = |identity: &str| refusal(stage.ask(&token, Some(identity)));
    assert_eq!(denied("spiffe://cluster.local/ns/kube-system/sa/cart").0, PERMISSION_DENIED);
    assert_eq!(denied("spiffe://other.domain/ns/shop/sa/cart").0, PERMISSION_DENIED);
    assert_eq!(denied("shop/cart").0, INVALID_ARGUMENT);
    // Without a wish it is itself.
    assert_eq!(
        stage.ask(&token, None).unwrap().identity(),
        "spiffe://cluster.local/ns/pillion-system/sa/pillion"
    );

    // Once the pod has finished, or is gone, so is the right.
    for (pod, end) in [("cart-1", "Succeeded"), ("cart-2", "")] {
        stage.pod("shop", pod, "cart", "n1").unwrap();
        stage.ask(&token, Some(CART)).unwrap();
        match end {
            "" => stage.delete_pod("shop", pod).unwrap(),
            phase => stage.phase("shop", pod, phase).unwrap(),
        }
        wait::until("a refusal", Duration::from_secs(10), || {
            let answer = stage.ask(&token, Some(CART));
            Ok(answer.is_err().then(|| refusal(answer).0))
        })
        .map(|code| assert_eq!(code, PERMISSION_DENIED, "{pod}"))
        .unwrap();
    }
    let metrics = stage.metrics().unwrap();
    assert!(metrics.contains("pillion_ca_answers_total{code=\"PERMISSION_DENIED\"}"), "{metrics}");
    let log = stage.log();
    assert!(log.contains("no pod of shop/web is on n1"), "{log}");
    assert!(!log.contains(&token), "a token is not for the log");
}

#[test]
fn a_pod_of_the_nodes_own_network_lends_its_identity_to_nobody() {
    let stage = Stage::new("host-network").unwrap();
    let token = stage.agent("agent-1", "n1").unwrap();
    stage.token(("shop", "proxy"), "istio-ca", None).unwrap();
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "proxy"}, "spec": {
        "nodeName": "n1", "serviceAccountName": "proxy", "hostNetwork": true,
        "containers": [{"name": "app", "image": "app"}]}});
    stage.api.apply("/api/v1/namespaces/shop/pods/proxy", &pod).unwrap();
    let (code, said) = refusal(stage.ask(&token, Some("spiffe://cluster.local/ns/shop/sa/proxy")));
    assert_eq!(code, PERMISSION_DENIED, "{said}");
}

// proves: ID-2
#[test]
fn a_token_that_is_not_a_living_agents_gets_nothing_of_a_node() {
    let stage = Stage::new("bad-tokens").unwrap();
    let uid = stage.pod("pillion-system", "agent-1", "pillion", "n1").unwrap();
    stage.pod("shop", "cart-1", "cart", "n1").unwrap();
    let agent = ("pillion-system", "pillion");
    let bound = Some(("agent-1", uid.as_str()));

    let unbound = stage.token(agent, "istio-ca", None).unwrap();
    let (code, said) = refusal(stage.ask(&unbound, Some(CART)));
    assert_eq!((code, said.contains("bound to no pod")), (PERMISSION_DENIED, true), "{said}");

    let elsewhere = stage.token(agent, "https://kubernetes.default.svc", bound).unwrap();
    assert_eq!(refusal(stage.ask(&elsewhere, Some(CART))).0, UNAUTHENTICATED);
    assert_eq!(refusal(stage.ask("no.token.atall", Some(CART))).0, UNAUTHENTICATED);
    let nobody = Question { identity: Some(CART), seconds: 60, ..Question::default() };
    assert_eq!(refusal(stage.ask_for(&nobody)).0, UNAUTHENTICATED);

    // The pod of that name is another now, on another node.
    let former = stage.token(agent, "istio-ca", bound).unwrap();
    stage.ask(&former, Some(CART)).unwrap();
    stage.delete_pod("pillion-system", "agent-1").unwrap();
    wait::until("a refusal", Duration::from_secs(10), || {
        Ok(stage.ask(&former, Some(CART)).is_err().then_some(()))
    })
    .unwrap();
    stage.pod("pillion-system", "agent-1", "pillion", "n1").unwrap();
    let (code, said) = refusal(stage.ask(&former, Some(CART)));
    assert!([PERMISSION_DENIED, UNAUTHENTICATED].contains(&code), "{code} {said}");
}

// proves: ID-2
#[test]
fn a_workload_gets_its_own_identity_and_no_other() {
    let stage = Stage::new("workload-token").unwrap();
    let uid = stage.pod("shop", "web-1", "web", "n1").unwrap();
    stage.pod("shop", "cart-1", "cart", "n1").unwrap();
    let token = stage.token(("shop", "web"), "istio-ca", Some(("web-1", &uid))).unwrap();
    assert_eq!(stage.ask(&token, None).unwrap().identity(), WEB, "whatever the CSR says");
    assert_eq!(stage.ask(&token, Some(WEB)).unwrap().identity(), WEB);
    let (code, said) = refusal(stage.ask(&token, Some(CART)));
    assert_eq!((code, said.contains("no identity but its own")), (PERMISSION_DENIED, true), "{said}");
}

#[test]
fn a_request_that_is_no_good_says_what_is_wrong() {
    let stage = Stage::new("bad-requests").unwrap();
    let token = stage.token(("shop", "web"), "istio-ca", None).unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let huge = "x".repeat(100 << 10);
    let empty = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
    for (csr, part) in
        [("", "PEM"), (key.as_str(), "PRIVATE KEY"), (empty, "cannot be signed"), (&huge, "cannot be read")]
    {
        let question = Question { token: Some(&token), seconds: 60, csr: Some(csr), ..Question::default() };
        let (code, said) = refusal(stage.ask_for(&question));
        assert_eq!(code, INVALID_ARGUMENT, "{said}");
        assert!(said.contains(part), "{said}");
    }
}
