//! A node: a router with a bridge, its pods' networks behind it, and wires to the other nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};

use crate::ip::{self, netns_path};
use crate::process::{Command, Spot};
use crate::shared::Shared;
use crate::{cgroup, sys};

/// A node of the bed. Node number `n` has the pod networks 10.88.n.0/24 and fd88:n::/64; its pods reach it, and
/// the agent's ports, at the first address of these.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    name: Arc<str>,
    number: u8,
    /// The host number of the pod that was made last; 1 is the node's own.
    last_host: Arc<AtomicU16>,
    /// The devices of its wires.
    wires: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Makes the node and wires it to `others`.
    pub(crate) fn create(shared: &Arc<Shared>, name: &str, others: &[Node]) -> Result<Self> {
        let number = u8::try_from(others.len() + 1).context("a bed has up to 255 nodes")?;
        let node = Self {
            shared: shared.clone(),
            name: name.into(),
            number,
            last_host: Arc::new(1.into()),
            wires: Arc::default(),
        };
        ip::add_netns(&node.netns_name(), true)?;
        cgroup::create(&node.agent_cgroup())?;
        cgroup::create(&node.host_cgroup())?;
        // Multicast snooping would make IPv6 wait for listener reports; a bridge of a few ports needs none.
        let bridge = format!(
            "link add br0 address {} type bridge mcast_snooping 0\n\
             addr add {}/24 dev br0\naddr add {}/64 dev br0 nodad\nlink set br0 up\n",
            ip::BRIDGE,
            node.ip4(),
            node.ip6(),
        );
        ip::batch(&node.netns_name(), &bridge)?;
        others.iter().try_for_each(|other| node.wire(other))?;
        Ok(node)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program in the node's own network namespace, as a kubelet or a host-network pod is.
    pub fn command(&self, program: &str) -> Command {
        Command::new(program, self.spot())
    }

    /// Cuts what this node sends to `other`'s pods (`up` false), or mends it. Packets vanish without a word, as
    /// behind a broken switch: the route becomes a black hole.
    pub fn set_route(&self, other: &Node, up: bool) -> Result<()> {
        let routes = if up { self.routes_to(other) } else { self.black_holes_to(other) };
        ip::batch(&self.netns_name(), &routes)
    }

    /// Runs `work` on a thread in the node's network namespace: sockets made there are the node's.
    pub fn visit<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        sys::in_netns(&netns_path(&self.netns_name()), work)
    }

    /// The bridge's address, at which pods reach the node.
    pub fn ip4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, self.number, 1)
    }

    /// The bridge's address, at which pods reach the node.
    pub fn ip6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd88, self.number.into(), 0, 0, 0, 0, 0, 1)
    }

    /// The network namespace's name: `ip -n NAME …`, `nsenter --net=/run/netns/NAME …`.
    pub fn netns_name(&self) -> String {
        format!("{}-{}", self.shared.id, self.name)
    }

    /// The cgroup that is the root to this node's agent.
    pub fn cgroup(&self) -> PathBuf {
        self.shared.cgroup.join(&*self.name)
    }

    pub(crate) fn agent_cgroup(&self) -> PathBuf {
        self.cgroup().join("agent")
    }

    fn host_cgroup(&self) -> PathBuf {
        self.cgroup().join("host")
    }

    pub(crate) fn spot(&self) -> Spot {
        let netns = netns_path(&self.netns_name());
        Spot { netns, cgroup: self.host_cgroup(), logs: self.shared.log_dir(), owner: self.name.to_string() }
    }

    /// Addresses for one more pod, and the number that they end with.
    pub(crate) fn next_addresses(&self) -> Result<(u16, Vec<IpAddr>)> {
        let host = self.last_host.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(host < 255, "node {} is full: its IPv4 network has no address left", self.name);
        let ip4 = Ipv4Addr::new(10, 88, self.number, host as u8);
        let ip6 = Ipv6Addr::new(0xfd88, self.number.into(), 0, 0, 0, 0, 0, host);
        Ok((host, vec![ip4.into(), ip6.into()]))
    }

    /// The devices of its wires, in the order of their making.
    pub(crate) fn wires(&self) -> Vec<String> {
        self.wires.lock().expect("no holder panics").clone()
    }

    fn wire_to(&self, other: &Node) -> String {
        format!("wire{}", other.number)
    }

    /// Joins two nodes by a veth pair and routes each one's pods through it. The wire's ends have addresses of
    /// their own, 10.89.<from>.<to>, as nodes have in a data centre.
    fn wire(&self, other: &Node) -> Result<()> {
        let (here, there) = (self.wire_to(other), other.wire_to(self));
        let pair = format!("link add {here} type veth peer name {there} netns {}", other.netns_name());
        ip::batch(&self.netns_name(), &pair)?;
        self.route(other)?;
        other.route(self)
    }

    fn route(&self, other: &Node) -> Result<()> {
        let device = self.wire_to(other);
        let (from, to) = (self.number, other.number);
        let ends = format!(
            "link set {device} up\n\
             addr add 10.89.{from}.{to} peer 10.89.{to}.{from} dev {device}\n\
             addr add fd89::{from:x}:{to:x} peer fd89::{to:x}:{from:x} dev {device} nodad\n"
        );
        ip::batch(&self.netns_name(), &(ends + &self.routes_to(other)))?;
        self.wires.lock().expect("no holder panics").push(device);
        Ok(())
    }

    /// "onlink", because the link has a carrier only when the other end is up, too, and a moment later.
    fn routes_to(&self, other: &Node) -> String {
        let device = self.wire_to(other);
        let (from, to) = (self.number, other.number);
        format!(
            "route replace 10.88.{to}.0/24 via 10.89.{to}.{from} dev {device} onlink\n\
             route replace fd88:{to:x}::/64 via fd89::{to:x}:{from:x} dev {device} onlink\n"
        )
    }

    fn black_holes_to(&self, other: &Node) -> String {
        let to = other.number;
        format!("route replace blackhole 10.88.{to}.0/24\nroute replace blackhole fd88:{to:x}::/64\n")
    }
}
