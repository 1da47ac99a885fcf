//! Pillion's agents under istiod.

use std::time::Duration;

use super::stage::{BOTH, PILLION, Stage};
use pillion_tests::{apps, requirements};

/// An agent asks again with growing pauses.
const SAID_WITHIN: Duration = Duration::from_secs(30);

// proves: ID-1, ID-2
#[test]
fn istiod_signs_for_the_pods_of_two_nodes_and_they_speak_mutual_tls() {
    requirements::ensure(requirements::APPS).unwrap();
    let stage = Stage::new("istiod-pair").unwrap();
    let _istiod = stage.istiod(BOTH).unwrap();
    let client = stage.n1.pod("client").namespace("shop").captured().create().unwrap();
    let server = stage.n2.pod("server").namespace("shop").captured().create().unwrap();
    apps::nginx(&server, 80).unwrap();
    stage.publish(&client).unwrap();
    stage.publish(&server).unwrap();
    let near = stage.n1.start_agent(&stage.options(&stage.n1, PILLION).unwrap()).unwrap();
    let far = stage.n2.start_agent(&stage.options(&stage.n2, PILLION).unwrap()).unwrap();
    for (agent, own, other) in [(&near, &client, &server), (&far, &server, &client)] {
        agent.wait_serving(own).unwrap();
        agent.wait_known(other).unwrap();
        let certificate = agent.worker(own).unwrap().unwrap()["certificate"].clone();
        assert_eq!(certificate["identity"], own.identity());
        let dump = agent.config_dump().unwrap();
        let root = &dump["authority"]["roots"][0]["subject"];
        assert_eq!(&certificate["issuer"], root, "istiod's own root signs: {dump}");
        assert_eq!(dump["authority"]["errors"], serde_json::json!([]));
    }

    let url = format!("http://{}/hello", server.ip4());
    assert_eq!(client.command("curl").args(["-sS", "-m", "10", &url]).run().unwrap(), "hello\n");
    for agent in [&near, &far] {
        let line = agent
            .wait_access("the request", |line| line["destination_principal"] == server.identity())
            .unwrap();
        assert_eq!(line["connection_security_policy"], "mutual_tls");
        assert_eq!(line["source_principal"], client.identity());
    }
}

// proves: SEC-2
#[test]
fn an_agent_that_istiod_refuses_says_what_to_look_at() {
    let stage = Stage::new("istiod-refusals").unwrap();
    let _istiod = stage.istiod(BOTH).unwrap();
    let client = stage.n1.pod("client").namespace("shop").captured().create().unwrap();
    stage.publish(&client).unwrap();
    let stranger = ("pillion-system", "stranger");
    let elsewhere = stage.options(&stage.n1, PILLION).unwrap().arg("--cluster-id=elsewhere");
    let untrusted = stage.options(&stage.n1, stranger).unwrap();
    for (options, says) in [
        (elsewhere, "check that --cluster-id elsewhere is istiod's own CLUSTER_ID"),
        (untrusted, "check that istiod's CA_TRUSTED_NODE_ACCOUNTS lists this agent's service account"),
    ] {
        let agent = stage.n1.start_agent_that_waits(&options, "the worker of pod shop/client").unwrap();
        agent.process().wait_log(says, SAID_WITHIN).unwrap();
        agent
            .wait_metrics("a refusal", |metrics| {
                metrics.sum("pillion_ca_requests_total", &[("result", "refused")]) > 0.0
            })
            .unwrap();
        assert_eq!(agent.worker(&client).unwrap().unwrap()["state"], "starting");
        agent.stop().unwrap();
    }
    let agent = stage.n1.start_agent(&stage.options(&stage.n1, PILLION).unwrap()).unwrap();
    agent.wait_serving(&client).unwrap();
}
