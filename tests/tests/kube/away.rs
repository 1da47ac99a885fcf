//! An API server that is away, comes back, and has forgotten.

use std::time::Duration;

use crate::{Standing, write};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn while_the_api_server_is_away_the_mesh_stays_and_the_agent_says_since_when() {
    let Standing { api, agent, _bed } = Standing::new("away", &[]).unwrap();
    write::pod(&api, "web", "10.1.0.2", &json!({})).unwrap();
    agent.wait_config("the pod", |dump| write::pods(dump) == ["web"]).unwrap();
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("pillion_kube_watch_connected", &[("resource", "pods")]), 1.0);

    api.kill().unwrap();
    let dump = agent.wait_config("no watch", |dump| write::watch(dump, "pods") == "disconnected").unwrap();
    assert_eq!(write::pods(&dump), ["web"]);
    let metrics = agent.metrics().unwrap();
    assert_eq!(metrics.sum("pillion_kube_watch_connected", &[("resource", "pods")]), 0.0);
    assert!(metrics.sum("pillion_kube_watch_since_timestamp_seconds", &[("resource", "pods")]) > 1e9);

    api.restart().unwrap();
    write::pod(&api, "late", "10.1.0.3", &json!({})).unwrap();
    let dump = agent.wait_config("the watch", |dump| write::pods(dump) == ["late", "web"]).unwrap();
    assert_eq!(write::watch(&dump, "pods"), "connected");
}

#[test]
fn what_changed_while_nobody_listened_is_heard_of_an_api_server_that_has_forgotten_it() {
    let Standing { api, agent, _bed } = Standing::new("gone", &[]).unwrap();
    for (name, ip) in [("stays", "10.1.0.2"), ("goes", "10.1.0.3")] {
        write::pod(&api, name, ip, &json!({})).unwrap();
    }
    agent.wait_config("the pods", |dump| write::pods(dump) == ["goes", "stays"]).unwrap();
    agent.signal(Signal::SIGSTOP).unwrap();
    api.delete("/api/v1/namespaces/default/pods/goes").unwrap();
    write::pod(&api, "comes", "10.1.0.4", &json!({})).unwrap();
    // What it has now is what its memory of changes begins with.
    api.restart().unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    agent.wait_config("the pods as they are now", |dump| write::pods(dump) == ["comes", "stays"]).unwrap();
    agent.process().wait_log("all is heard anew", Duration::from_secs(15)).unwrap();
}
