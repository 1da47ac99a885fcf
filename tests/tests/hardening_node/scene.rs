//! What these tests begin with.

use std::time::Duration;

use pillion_tests::{Agent, AgentOptions, Pod, SameNode, apps};

/// A STRICT server.
pub const STRICT: &str = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: strict, \
    namespace: default}, spec: {selector: {matchLabels: {app: server}}, mtls: {mode: STRICT}}}";

/// A client and a STRICT server in the mesh, and a pod that is not.
pub struct Scene {
    pub mesh: SameNode,
    pub outsider: Pod,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        Self::with(name, &AgentOptions::default().access_log())
    }

    pub fn with(name: &str, options: &AgentOptions) -> Self {
        let mesh = SameNode::with(name, options, &[STRICT]).unwrap();
        let outsider = mesh.outsider("outsider").unwrap();
        for pod in [&mesh.server, &outsider] {
            apps::nginx(pod, 80).unwrap();
        }
        let scene = Self { mesh, outsider };
        assert!(answers(&scene.mesh.client, &scene.mesh.server), "the mesh serves");
        assert!(!answers(&scene.outsider, &scene.mesh.server), "and takes nothing in plain");
        scene
    }

    pub fn agent(&self) -> &Agent {
        &self.mesh.agent
    }

    /// Whether anything of the server goes plain: what it takes, and what it opens. The latter is known by the agent's record.
    pub fn server_is_plain(&self) -> bool {
        let records = || {
            let records = self.agent().access_log().unwrap();
            records
                .iter()
                .filter(|record| record["pod"] == "default/server" && record["reporter"] == "source")
                .count()
        };
        let before = records();
        let went_out = answers(&self.mesh.server, &self.outsider);
        if went_out && records() == before {
            // The record is written when the connection is over, which curl does not wait for.
            let recorded =
                self.agent().process().wait_for("the server's record", Duration::from_secs(5), || {
                    Ok((records() > before).then_some(()))
                });
            if recorded.is_err() {
                return true;
            }
        }
        answers(&self.outsider, &self.mesh.server)
    }
}

pub fn answers(client: &Pod, server: &Pod) -> bool {
    let url = format!("http://{}/hello", server.ip4());
    client.command("curl").args(["-sS", "-m", "3", &url]).output().unwrap().status.success()
}

/// Waits until the agent's mesh has the pod's object no more.
pub fn wait_unknown(agent: &Agent, pod: &Pod) {
    let is_unknown = |dump: &serde_json::Value| {
        let mut known = dump["workloads"].as_array().into_iter().flatten();
        !known.any(|workload| workload["name"]["name"] == pod.name())
    };
    agent.wait_config("that the object is gone", is_unknown).unwrap();
}

/// Waits until the kernel has this many members of the mesh.
pub fn wait_members(agent: &Agent, count: usize) {
    agent
        .process()
        .wait_for(&format!("{count} members"), Duration::from_secs(15), || {
            Ok((agent.members()?.len() == count).then_some(()))
        })
        .unwrap();
}
