//! Whom istiod lets ask for what: the rules that docs/install.md tells, held against istiod itself.

use super::stage::{BOTH, PILLION, Stage, ZTUNNEL};
use pillion_tests::peers::Istiod;
use pillion_tests::peers::istio_ca::{UNAUTHENTICATED, refusal};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const CLUSTER: Option<&str> = Some(Istiod::CLUSTER_ID);

/// What istiod says to a caller whom it does not let ask in another's name.
const NOT_FOR_OTHERS: &str = "request impersonation authentication failure";
/// What istiod says to a caller whom it does not know.
const UNKNOWN: &str = "request authenticate failure";

// proves: ID-2
#[test]
fn pillions_agents_and_ztunnels_get_certificates_for_pods_of_their_own_node_only() {
    let stage = Stage::new("istiod-callers").unwrap();
    let istiod = stage.istiod(BOTH).unwrap();
    stage.pod(("shop", "web"), &stage.n2).unwrap();
    let cart = stage.token(("shop", "cart"), &stage.n1).unwrap();
    let (near, far) = (stage.token(PILLION, &stage.n1).unwrap(), stage.token(PILLION, &stage.n2).unwrap());
    let ztunnel = stage.token(ZTUNNEL, &stage.n1).unwrap();

    // Each positive answer shows that istiod knows the pods that a negative one is about.
    let roots = stage.roots().unwrap();
    for (token, identity) in [(&near, CART), (&ztunnel, CART), (&far, WEB)] {
        let issued = stage.wait_issued(token, identity).unwrap();
        assert_eq!(issued.identity(), identity);
        issued.verify(&roots).unwrap();
    }
    let unbound = stage.request_token(PILLION, None).unwrap();
    for (caller, token, identity) in [
        ("an agent, of a pod of the other node", &near, WEB),
        ("the other node's agent, of a pod of this one", &far, CART),
        ("ztunnel, of a pod of the other node", &ztunnel, WEB),
        ("an agent whose token is bound to no pod", &unbound, CART),
        ("an account that is no node's", &cart, WEB),
    ] {
        let (code, said) = refusal(stage.ask(token, CLUSTER, Some(identity)));
        assert_eq!((code, said.as_str()), (UNAUTHENTICATED, NOT_FOR_OTHERS), "{caller}");
    }
    assert!(istiod.log().contains("found on node"), "istiod tells the reason in its own log");
    assert_eq!(stage.ask(&cart, CLUSTER, None).unwrap().identity(), CART, "it gets its own");

    // Where istiod is looser than `pillion ca serve`: docs/install.md says so.
    stage.pod_that_is(("shop", "proxy"), &stage.n1, "Running", true).unwrap();
    stage.pod_that_is(("shop", "job"), &stage.n1, "Succeeded", false).unwrap();
    for identity in ["proxy", "job"].map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}")) {
        stage.wait_issued(&near, &identity).unwrap();
    }
    stage.wait_issued(&near, "spiffe://another.domain/ns/shop/sa/cart").unwrap();

    // Without the cluster's name nobody may ask in another's name, and a name that istiod does not know is worse.
    let (code, said) = refusal(stage.ask(&near, None, Some(CART)));
    assert_eq!((code, said.as_str()), (UNAUTHENTICATED, NOT_FOR_OTHERS));
    let (code, said) = refusal(stage.ask(&near, Some("elsewhere"), Some(CART)));
    assert_eq!((code, said.as_str()), (UNAUTHENTICATED, UNKNOWN));
    stage.ask(&near, CLUSTER, Some(CART)).unwrap();
}

#[test]
fn the_list_of_trusted_accounts_is_replaced_and_not_added_to() {
    let stage = Stage::new("istiod-accounts").unwrap();
    stage.pod(("shop", "cart"), &stage.n1).unwrap();
    let pillion = stage.token(PILLION, &stage.n1).unwrap();
    let ztunnel = stage.token(ZTUNNEL, &stage.n1).unwrap();
    let istiod = stage.istiod("pillion-system/pillion").unwrap();
    stage.wait_issued(&pillion, CART).unwrap();
    let (code, said) = refusal(stage.ask(&ztunnel, CLUSTER, Some(CART)));
    assert_eq!((code, said.as_str()), (UNAUTHENTICATED, NOT_FOR_OTHERS), "who is not listed is cut off");
    istiod.stop().unwrap();

    let _istiod = stage.istiod(BOTH).unwrap();
    stage.wait_issued(&pillion, CART).unwrap();
    stage.wait_issued(&ztunnel, CART).unwrap();
}
