//! Frames that prove a recording complete, and the proof that nothing is under way any more.
//!
//! A packet socket has one ring, and the kernel fills it in the order in which packets come. So a recording that shows
//! a frame has everything that passed its device before that frame was sent.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};
use nix::unistd::Pid;

/// The second of the two EtherTypes for experiments (IEEE 802, 9.2.3). Nobody listens to it, no filter of a test asks for
/// it, and the programs at pods' devices leave alone what is not IP.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb6];
/// What a filter of tcpdump has to let through besides its own.
pub(crate) const FILTER: &str = "ether proto 0x88b6";
const MAGIC: &[u8] = b"pillion-marker ";
/// The shortest frame of Ethernet, without its checksum.
const SHORTEST: usize = 60;

/// How many hops a packet of a bed makes at most, each of which puts it into a queue of the kernel again: pod, bridge,
/// wire, bridge, pod, and the way back of the answer.
const HOPS: usize = 10;
/// A kernel that does not deliver a datagram on the loopback device within this time is broken.
const DELIVERED_WITHIN: Duration = Duration::from_secs(20);

/// Sends markers over one device.
pub(crate) struct Marker {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Marker {
    /// For a device of this thread's network namespace.
    pub fn on(device: &str) -> Result<Self> {
        let open = || -> Result<Self> {
            let link = |interface: InterfaceAddress| {
                let link: LinkAddr = *interface.address?.as_link_addr()?;
                (interface.interface_name == device).then_some(link)
            };
            let link = getifaddrs()?.find_map(link).context("there is no such device")?;
            let mac = link.addr().context("it has no link-layer address")?;
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            bind(socket.as_raw_fd(), &link)?;
            Ok(Self { socket, mac })
        };
        open().with_context(|| format!("no marker can be sent over {device}"))
    }

    /// Sends one. `name` tells it from all others.
    pub fn send(&self, name: &str) -> Result<()> {
        // From the device to the device itself: a bridge has learnt that the address is at this very port, and floods nothing.
        let mut frame = [&self.mac[..], &self.mac, &ETHER_TYPE, MAGIC, name.as_bytes(), b"\n"].concat();
        frame.resize(frame.len().max(SHORTEST), 0);
        let sent =
            send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("cannot send a marker")?;
        ensure!(sent == frame.len(), "a marker of {} bytes was cut to {sent}", frame.len());
        Ok(())
    }
}

/// Whether the frame is a marker, of any recording.
pub(crate) fn is_marker(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&ETHER_TYPE) && frame[14..].starts_with(MAGIC)
}

/// Whether part of a recording's file shows the marker of this name.
pub(crate) fn shown(recorded: &[u8], name: &str) -> bool {
    let text = [MAGIC, name.as_bytes(), b"\n"].concat();
    recorded.windows(text.len()).any(|window| window == text)
}

/// Waits until every packet that is under way inside the kernel has arrived, or has left for somewhere slower than a queue.
///
/// A veth and the loopback device put what is sent into a queue of the sending CPU, which that CPU empties in order; a busy
/// machine takes its time over it. A datagram that was sent from a CPU and has arrived proves that the queue of that CPU
/// held nothing older any more. One queue serves all network namespaces, so the datagram is sent to this very process.
pub(crate) fn wait_queues_empty() -> Result<()> {
    let this = Pid::from_raw(0);
    // On a thread of its own: which CPU the caller runs on is nobody's business here.
    let wait = || -> Result<()> {
        let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        own.connect(own.local_addr()?)?;
        own.set_read_timeout(Some(DELIVERED_WITHIN))?;
        let cpus = sched_getaffinity(this)?;
        for _ in 0..HOPS {
            for cpu in (0..CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap_or_default()) {
                let mut only = CpuSet::new();
                only.set(cpu)?;
                sched_setaffinity(this, &only)?;
                own.send(b"?")?;
                own.recv(&mut [0]).with_context(|| format!("CPU {cpu} did not deliver what it was sent"))?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| scope.spawn(wait).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_told_from_other_frames_and_from_other_markers() {
        let frame = [&[0; 12][..], &ETHER_TYPE, MAGIC, b"7 1\n"].concat();
        assert!(is_marker(&frame) && !is_marker(&frame[..14]) && !is_marker(&[0; 60]));
        assert!(shown(&frame, "7 1") && !shown(&frame, "7 11") && !shown(&frame, "7"));
    }

    #[test]
    fn queues_get_empty() {
        wait_queues_empty().unwrap();
    }
}
