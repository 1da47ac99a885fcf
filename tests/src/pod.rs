//! A pod: a network namespace behind its node's bridge, a cgroup, and a Kubernetes object that says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::ip::{self, netns_path};
use crate::manifest::{PodKey, PodObject};
use crate::node::Node;
use crate::process::{Command, Spot};
use crate::{cgroup, sweep, sys};

/// The label that brings a pod into the mesh.
pub const CAPTURE: &str = "pillion.dev/capture";

/// A pod that is to be. Made by [`Node::pod`].
pub struct PodBuilder {
    node: Node,
    object: PodObject,
    addresses: Option<Vec<IpAddr>>,
    is_posted: bool,
    sysctls: Vec<(String, String)>,
}

/// A pod of the bed. Its programs live as long as it does.
#[derive(Clone)]
pub struct Pod {
    node: Node,
    key: PodKey,
    service_account: String,
    addresses: Vec<IpAddr>,
    /// The veth's end on the node.
    device: String,
}

impl Node {
    /// A pod to be made on this node.
    pub fn pod(&self, name: &str) -> PodBuilder {
        let object = PodObject::new(name, self.name());
        PodBuilder { node: self.clone(), object, addresses: None, is_posted: true, sysctls: Vec::new() }
    }
}

impl PodBuilder {
    /// The Kubernetes namespace; `default` unless given.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.object.key.namespace = namespace.to_owned();
        self
    }

    /// The service account, which is the pod's identity; the pod's name unless given.
    pub fn service_account(mut self, name: &str) -> Self {
        self.object.service_account = name.to_owned();
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.object.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The pod opts into the mesh from the start.
    pub fn captured(self) -> Self {
        self.label(CAPTURE, "enabled")
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The app has a readiness probe (httpGet) at this port: the kubelet connects to it, from the node.
    pub fn probed(mut self, port: u16) -> Self {
        self.object.probed_port = Some(port);
        self
    }

    /// The object does not say where the pod's network namespace is: a container runtime has to.
    pub fn known_to_a_runtime(mut self) -> Self {
        self.object.names_netns = false;
        self
    }

    /// Addresses that another pod has left; those of the node's networks that were never used unless given.
    pub fn addresses(mut self, addresses: &[IpAddr]) -> Self {
        self.addresses = Some(addresses.to_vec());
        self
    }

    /// The object says nothing of the pod's network namespace, which is its runtime's to say, nor of its addresses until [`Pod::post_addresses`]: a kubelet posts them a second or two after
    /// the sandbox is there.
    pub fn unposted(mut self) -> Self {
        self.is_posted = false;
        self
    }

    /// A sysctl of the pod's network namespace, as a path below `/proc/sys`.
    pub fn sysctl(mut self, path: &str, value: &str) -> Self {
        self.sysctls.push((path.to_owned(), value.to_owned()));
        self
    }

    /// Makes the pod, and writes its object once it has a network: the order of a real node.
    pub fn create(self) -> Result<Pod> {
        let Self { node, mut object, addresses, is_posted, sysctls } = self;
        let key = object.key.clone();
        let (host, own_addresses) = node.next_addresses()?;
        let addresses = addresses.unwrap_or(own_addresses);
        let service_account = object.service_account.clone();
        let pod = Pod { node, key, service_account, addresses, device: format!("veth{host}") };
        pod.lay_out(&sysctls).with_context(|| format!("cannot make the pod {}", pod.key))?;
        if is_posted {
            object.addresses = pod.addresses.clone();
        }
        if is_posted {
            object.netns = pod.netns();
        }
        pod.node.shared.manifests.put_pod(object)?;
        Ok(pod)
    }
}

impl Pod {
    fn lay_out(&self, sysctls: &[(String, String)]) -> Result<()> {
        cgroup::create(&self.cgroup())?;
        let (netns, device) = (self.netns_name(), &self.device);
        ip::add_netns(&netns, false)?;
        let sysctls: Vec<_> = sysctls.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
        ip::set_sysctls(&netns, &sysctls)?;
        let veth = format!(
            "link add {device} type veth peer name eth0 netns {netns}\nlink set {device} master br0 up\n"
        );
        ip::batch(&self.node.netns_name(), &veth)?;
        let mut eth0 = "link set eth0 up\n".to_owned();
        for address in &self.addresses {
            eth0 += &match address {
                IpAddr::V4(ip) => {
                    format!(
                        "addr add {ip}/24 dev eth0\nroute add default via {} dev eth0 onlink\n",
                        self.node.ip4()
                    )
                }
                IpAddr::V6(ip) => {
                    format!(
                        "addr add {ip}/64 dev eth0 nodad\nroute add default via {} dev eth0 onlink\n",
                        self.node.ip6()
                    )
                }
            };
        }
        ip::batch(&netns, &eth0)
    }

    pub fn name(&self) -> &str {
        &self.key.name
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    /// Namespace and name, as in the agent's `namespace` and `pod` labels.
    pub(crate) fn key(&self) -> &PodKey {
        &self.key
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The pod's SPIFFE identity in the trust domain `cluster.local`.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.key.namespace, self.service_account)
    }

    /// The IPv4 address first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The pod's IPv4 address; unspecified where it was made without one.
    pub fn ip4(&self) -> Ipv4Addr {
        let ip4 = |address: &IpAddr| if let IpAddr::V4(ip) = address { Some(*ip) } else { None };
        self.addresses.iter().find_map(ip4).unwrap_or(Ipv4Addr::UNSPECIFIED)
    }

    /// The pod's IPv6 address; unspecified where it was made without one.
    pub fn ip6(&self) -> Ipv6Addr {
        let ip6 = |address: &IpAddr| if let IpAddr::V6(ip) = address { Some(*ip) } else { None };
        self.addresses.iter().find_map(ip6).unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The device of the pod's veth on the node.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// A program in the pod.
    pub fn command(&self, program: &str) -> Command {
        Command::new(program, self.spot())
    }

    /// Runs `work` on a thread in the pod's network namespace. Its sockets are the pod's, but never captured:
    /// the thread is in this process's cgroup. For what a pod's program does, use [`Pod::command`].
    pub fn visit<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        sys::in_netns(&self.netns(), work)
    }

    /// A directory for an application's files, readable by all.
    pub(crate) fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.node.shared.dir.join("pods").join(self.key.file_stem()).join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Sets the label `pillion.dev/capture: enabled`.
    pub fn capture(&self) -> Result<()> {
        self.label(CAPTURE, Some("enabled"))
    }

    /// Takes the label off again.
    pub fn release(&self) -> Result<()> {
        self.label(CAPTURE, None)
    }

    /// Sets a label, or takes it off.
    pub fn label(&self, key: &str, value: Option<&str>) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |pod| {
            match value {
                Some(value) => pod.labels.insert(key.to_owned(), value.to_owned()),
                None => pod.labels.remove(key),
            };
        })
    }

    /// Sets an annotation, or takes it off.
    pub fn annotate(&self, key: &str, value: Option<&str>) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |pod| {
            match value {
                Some(value) => pod.annotations.insert(key.to_owned(), value.to_owned()),
                None => pod.annotations.remove(key),
            };
        })
    }

    /// The object's UID.
    pub fn uid(&self) -> Result<String> {
        self.node.shared.manifests.of_pod(&self.key, |pod| pod.uid.clone())
    }

    /// Writes the pod's addresses into its object, as its kubelet does.
    pub fn post_addresses(&self) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |pod| pod.addresses = self.addresses.clone())
    }

    /// Says whether the pod's endpoints are ready (it passes its readiness probe).
    pub fn set_ready(&self, ready: bool) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |pod| pod.ready = ready)
    }

    /// Begins the pod's end as the API server does: it has a deletion timestamp, and its programs run on.
    pub fn terminate(&self) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |pod| pod.terminating = true)
    }

    /// Takes the pod's object away while its programs run on, as `kubectl delete --force` does.
    pub fn hide_object(&self) -> Result<()> {
        self.node.shared.manifests.hide_pod(&self.key)
    }

    /// Brings back an object that [`Pod::hide_object`] took away.
    pub fn show_object(&self) -> Result<()> {
        self.node.shared.manifests.change_pod(&self.key, |_| {})
    }

    /// Ends the pod's programs and its network, and makes the network anew under the same names and addresses, as a node that
    /// boots does. The object stays as it is.
    pub fn remake(&self) -> Result<()> {
        self.end()?;
        self.lay_out(&[]).with_context(|| format!("cannot make the pod {} again", self.key))
    }

    /// Ends the pod as a node does: programs, then network, then object. Its name and addresses are free.
    pub fn delete(&self) -> Result<()> {
        self.end()?;
        self.remove_object()
    }

    /// Ends the pod's programs and its network. Its object stays, if it is there.
    pub fn end(&self) -> Result<()> {
        cgroup::remove(&self.cgroup())?;
        ip::batch(&self.node.netns_name(), &format!("link del {}", self.device))?;
        sweep::remove_netns(&self.netns_name())
    }

    /// Removes the pod's object and nothing else, as when an API server forgets a pod that still runs.
    pub fn remove_object(&self) -> Result<()> {
        self.node.shared.manifests.remove_pod(&self.key)
    }

    /// The network namespace's name: `ip -n NAME …`.
    pub fn netns_name(&self) -> String {
        format!("{}-{}", self.node.shared.id, self.key.file_stem())
    }

    /// The network namespace's path: `nsenter --net=PATH …`.
    pub fn netns(&self) -> PathBuf {
        netns_path(&self.netns_name())
    }

    /// The cgroup of the pod's programs. Another process is in the pod for the node's hooks once it is in both.
    pub fn cgroup(&self) -> PathBuf {
        self.node.cgroup().join("pods").join(self.key.file_stem())
    }

    /// Where a program of the pod writes its log under this name.
    pub fn log(&self, name: &str) -> PathBuf {
        self.spot().log(name)
    }

    fn spot(&self) -> Spot {
        let logs = self.node.shared.log_dir();
        Spot { netns: self.netns(), cgroup: self.cgroup(), logs, owner: self.key.file_stem() }
    }
}
