//! A pod's way onto the link, below IP.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};

use super::frame::Mac;
use crate::pod::Pod;

/// Sends whole frames from a pod's network interface (packet(7)); it receives none.
pub(super) struct Wire {
    socket: OwnedFd,
    pub mac: Mac,
}

impl Wire {
    pub fn of(pod: &Pod) -> Result<Self> {
        let open = || {
            let (address, mac) = eth0()?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &address)?;
            Ok(Self { socket, mac })
        };
        pod.visit(open).with_context(|| format!("cannot open a packet socket in {}", pod.name()))
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a frame")?;
        ensure!(sent == frame.len(), "a frame of {} bytes was cut to {sent}", frame.len());
        Ok(())
    }
}

/// The link-layer address of the pod's network interface.
pub(super) fn mac_of(pod: &Pod) -> Result<Mac> {
    pod.visit(eth0).map(|(_, mac)| mac).with_context(|| format!("cannot find {}'s address", pod.name()))
}

/// This thread's network namespace's eth0: where to bind to, and its address.
fn eth0() -> Result<(LinkAddr, Mac)> {
    let link = |interface: nix::ifaddrs::InterfaceAddress| {
        let link = *interface.address?.as_link_addr()?;
        (interface.interface_name == "eth0").then_some((link, Mac(link.addr()?)))
    };
    getifaddrs()?.find_map(link).context("there is no eth0 with a link-layer address")
}
