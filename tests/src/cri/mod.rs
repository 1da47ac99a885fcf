//! A container runtime, asked as a kubelet asks it (CRI), for tests that need pods and no cluster; and one that is none
//! ([`FakeRuntime`]), for tests of what the agent makes of its answers.

mod fake;
mod messages;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::grpc;
use crate::wait;

pub use crate::grpc::Refused;
pub use fake::{FakeRuntime, Mood};
use messages::*;

/// The runtime behind a socket.
pub struct Cri {
    socket: PathBuf,
}

/// A pod, as a kubelet would have it.
#[derive(Clone)]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    pub labels: HashMap<String, String>,
    /// Which of its sandboxes, from 0.
    pub attempt: u32,
    /// The runtime's handler that its RuntimeClass names; empty: the default.
    pub handler: String,
}

impl PodSpec {
    pub fn new(name: &str) -> Self {
        Self {
            namespace: "default".into(),
            name: name.into(),
            labels: HashMap::new(),
            attempt: 0,
            handler: String::new(),
        }
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn uid(&self) -> String {
        format!("uid-{}", self.name)
    }

    fn config(&self) -> PodSandboxConfig {
        let option = NamespaceOption { network: 0, pid: 1, ipc: 0 };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid(),
                namespace: self.namespace.clone(),
                attempt: self.attempt,
            }),
            hostname: self.name.clone(),
            log_directory: format!("/var/log/pods/{}", self.name),
            labels: self.labels.clone(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/pods/{}", self.uid()),
                security_context: Some(LinuxSandboxSecurityContext { namespace_options: Some(option) }),
            }),
        }
    }
}

impl Cri {
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Makes the pod's sandbox, network included; gives its id.
    pub fn run_sandbox(&self, pod: &PodSpec) -> Result<String> {
        let request =
            RunPodSandboxRequest { config: Some(pod.config()), runtime_handler: pod.handler.clone() };
        let response: RunPodSandboxResponse = self.ask("RunPodSandbox", &request)?;
        Ok(response.pod_sandbox_id)
    }

    /// The address of a sandbox.
    pub fn address(&self, sandbox: &str) -> Result<IpAddr> {
        let request = SandboxId { pod_sandbox_id: sandbox.to_owned() };
        let response: PodSandboxStatusResponse = self.ask("PodSandboxStatus", &request)?;
        let network = response.status.and_then(|status| status.network).context("no network status")?;
        network.ip.parse().with_context(|| format!("no address: {:?}", network.ip))
    }

    /// Makes a container and starts it; gives its id. An empty command is the image's own.
    pub fn start_container(
        &self,
        sandbox: &str,
        pod: &PodSpec,
        image: &str,
        command: &[&str],
    ) -> Result<String> {
        let option = NamespaceOption { network: 0, pid: 1, ipc: 0 };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "app".into(), attempt: pod.attempt }),
            image: Some(ImageSpec { image: image.to_owned() }),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: format!("app-{}.log", pod.attempt),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext { namespace_options: Some(option) }),
            }),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.config()),
        };
        let created: ContainerId = self.ask("CreateContainer", &request)?;
        let Empty {} = self.ask("StartContainer", &created)?;
        Ok(created.container_id)
    }

    /// Waits for a container's end; gives its exit code.
    pub fn wait_exit(&self, container: &str, within: Duration) -> Result<i32> {
        const EXITED: i32 = 2;
        wait::until(&format!("the end of the container {container:.12}"), within, || {
            let request = ContainerId { container_id: container.to_owned() };
            // The runtime may be away for a moment.
            let Ok(response) = self.ask::<_, ContainerStatusResponse>("ContainerStatus", &request) else {
                return Ok(None);
            };
            let status = response.status.filter(|status| status.state == EXITED);
            Ok(status.map(|status| status.exit_code))
        })
    }

    /// Asks a container to end, and kills it if it has not within `grace`.
    pub fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs())?;
        let request = StopContainerRequest { container_id: container.to_owned(), timeout };
        let Empty {} = self.ask("StopContainer", &request)?;
        Ok(())
    }

    /// Ends a pod as a kubelet does: all that is in it is removed first. (containerd 2.4.2 removes containers with a sandbox, too,
    /// and stands still for ever where an NRI plugin comes just then: `RemovePodSandbox` blocks plugins, and the `RemoveContainer` in
    /// it waits for the one that waits.)
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        let request = SandboxId { pod_sandbox_id: sandbox.to_owned() };
        let Empty {} = self.ask("StopPodSandbox", &request)?;
        let filter = ContainerFilter { pod_sandbox_id: sandbox.to_owned() };
        let listed: ListContainersResponse =
            self.ask("ListContainers", &ListContainersRequest { filter: Some(filter) })?;
        for ListedContainer { id } in listed.containers {
            let Empty {} = self.ask("RemoveContainer", &ContainerId { container_id: id })?;
        }
        let Empty {} = self.ask("RemovePodSandbox", &request)?;
        Ok(())
    }

    fn ask<Q: prost::Message, A: prost::Message + Default>(&self, method: &str, request: &Q) -> Result<A> {
        grpc::call(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), request)
            .with_context(|| format!("{method} failed"))
    }
}
