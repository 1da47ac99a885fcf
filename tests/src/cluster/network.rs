//! The cluster's network: a bridge on the control plane's machine, a cable from each node to it, and routes between the
//! nodes' pod networks through it. All of it is in the machines' network namespaces; other clusters and the machine
//! itself may use the same addresses.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::machine::Machine;
use crate::ip::BRIDGE;

/// The control plane's machine.
pub(super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 93, 0, 1);
pub(super) const PODS: &str = "10.94.0.0/16";
pub(super) const SERVICES: &str = "10.95.0.0/16";
/// The Service `kubernetes`: the first address of all services'.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 1);
/// Where a DNS server would be.
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 95, 0, 10);

/// The address of the node with this number, from 1.
pub(super) fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 93, 0, 10 + number)
}

/// The addresses of the pods of the node with this number.
pub(super) fn pods(number: u8) -> String {
    format!("10.94.{number}.0/24")
}

pub(super) fn api_server() -> String {
    format!("https://{CONTROL_PLANE}:6443")
}

/// The bridge.
pub(super) fn lay_bridge(control_plane: &Machine) -> Result<()> {
    let bridge = format!(
        "link add br0 address {BRIDGE} type bridge\naddr add {CONTROL_PLANE}/24 dev br0\nlink set br0 up\n"
    );
    batch(control_plane, &bridge)?;
    forward(control_plane)
}

/// The cable of a node, and its routes.
pub(super) fn lay_cable(control_plane: &Machine, machine: &Machine, number: u8) -> Result<()> {
    let pid = |machine: &Machine| {
        machine.first_process().with_context(|| format!("the machine {} is off", machine.name()))
    };
    let (here, there, port) = (pid(machine)?.to_string(), pid(control_plane)?.to_string(), machine.name());
    // A node that was off a moment ago: the kernel takes its end of the cable away when it comes to that.
    control_plane.output(Command::new("ip").args(["link", "delete", port]), "")?;
    // Made in their places at once: nothing appears on this machine.
    let cable =
        ["link", "add", "eth0", "netns", &here, "type", "veth", "peer", "name", port, "netns", &there];
    let made = Command::new("ip").args(cable).status().context("cannot run ip: is iproute2 installed?")?;
    ensure!(made.success(), "`ip {}` ended with {made}", cable.join(" "));
    let address = node(number);
    let its_end = format!(
        "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {CONTROL_PLANE} dev eth0 onlink\n"
    );
    batch(machine, &its_end)?;
    forward(machine)?;
    let other_end =
        format!("link set {port} master br0 up\nroute replace {} via {address} dev br0\n", pods(number));
    batch(control_plane, &other_end)
}

fn batch(machine: &Machine, commands: &str) -> Result<()> {
    machine.run(Command::new("ip").args(["-batch", "-"]), commands).map(drop)
}

fn forward(machine: &Machine) -> Result<()> {
    machine.run(Command::new("tee").arg("/proc/sys/net/ipv4/ip_forward"), "1").map(drop)
}
