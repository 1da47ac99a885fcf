//! What the tests make of pods.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pillion_tests::cluster::{LoneNode, images};
use pillion_tests::cri::{Cri, PodSpec};
use serde_json::json;

pub const CAPTURE: &str = "pillion.dev/capture";

/// A kubelet goes on for as long as a pod is to run.
const KUBELET_TRIES: Duration = Duration::from_secs(60);

/// Does it on a machine of that name, whose logs are shown where it fails.
pub fn on_a_node(name: &str, test: impl FnOnce(&LoneNode) -> Result<()>) {
    let node = LoneNode::up(name).unwrap();
    test(&node).unwrap();
}

/// A pod that is labelled for the mesh.
pub fn labelled(name: &str) -> PodSpec {
    PodSpec::new(name).label(CAPTURE, "enabled")
}

/// nginx in the mesh, which takes nothing but what the mesh vouches for.
pub struct Server {
    pub sandbox: String,
    pub address: IpAddr,
}

impl Server {
    pub fn start(node: &LoneNode) -> Result<Self> {
        let strict = json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": "default", "namespace": "istio-system"}, "spec": {"mtls": {"mode": "STRICT"}}});
        node.put("strict", &strict)?;
        let (cri, pod) = (node.cri()?, labelled("server"));
        node.put_pod(&pod, true, None)?;
        let sandbox = cri.run_sandbox(&pod)?;
        let address = cri.address(&sandbox)?;
        node.put_pod(&pod, true, Some(address))?;
        create(&cri, &sandbox, &pod, images::NGINX, &[])?;
        let server = Self { sandbox, address };
        // It listens once a member of the mesh has been answered.
        let probe = labelled("probe");
        node.put_pod(&probe, true, None)?;
        let sandbox = cri.run_sandbox(&probe)?;
        let url = format!("http://{address}/hello");
        let command = ["sh", "-c", &format!("until wget -q -O /dev/null {url}; do sleep 0.05; done")];
        let container = create(&cri, &sandbox, &probe, images::BUSYBOX, &command)?;
        cri.wait_exit(&container, KUBELET_TRIES).context("nginx does not answer")?;
        cri.remove_sandbox(&sandbox)?;
        node.remove_object("pod-probe")?;
        Ok(server)
    }

    /// Connections that came to it in plain: refused, since it is STRICT, and counted.
    pub fn plain(&self, node: &LoneNode) -> Result<f64> {
        Ok(node.metrics()?.sum("pillion_inbound_plaintext_total", &[("pod", "server")]))
    }
}

/// Runs a pod whose first and only act is to ask the server, as a kubelet would, which tries again what the runtime refuses.
/// Gives how often the program itself ran in vain.
pub fn ask_first(node: &LoneNode, pod: &PodSpec, server: &Server) -> Result<usize> {
    let begun = Instant::now();
    let mut pod = pod.clone();
    let mut in_vain = 0;
    loop {
        let tried = once(node, &pod, server);
        match tried {
            Ok(0) => return Ok(in_vain),
            Ok(_) => in_vain += 1,
            Err(error) if begun.elapsed() > KUBELET_TRIES => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)),
        }
        pod.attempt += 1;
    }
}

/// One sandbox with one container, which asks the server; gives its exit code. Nothing is left of it.
pub fn once(node: &LoneNode, pod: &PodSpec, server: &Server) -> Result<i32> {
    let (cri, url) = (node.cri()?, format!("http://{}/hello", server.address));
    let sandbox = cri.run_sandbox(pod)?;
    let command = ["wget", "-q", "-O", "/dev/null", &url];
    let run = || {
        let container = cri.start_container(&sandbox, pod, images::BUSYBOX, &command)?;
        cri.wait_exit(&container, Duration::from_secs(30))
    };
    let exit = run();
    let begun = Instant::now();
    while let Err(error) = cri.remove_sandbox(&sandbox) {
        // The runtime may be away.
        if begun.elapsed() > KUBELET_TRIES {
            return Err(error);
        }
        sleep(Duration::from_millis(100));
    }
    exit
}

/// Makes a container as a kubelet does, which tries again what is refused.
pub fn create(cri: &Cri, sandbox: &str, pod: &PodSpec, image: &str, command: &[&str]) -> Result<String> {
    let begun = Instant::now();
    loop {
        match cri.start_container(sandbox, pod, image, command) {
            Err(_) if begun.elapsed() < KUBELET_TRIES => sleep(Duration::from_millis(100)),
            result => return result,
        }
    }
}
