//! Frames as whoever has CAP_NET_RAW in a pod can write them.

use super::node::Pod;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// The priority tag of IEEE 802.1Q (VLAN 0), which a kernel without VLANs takes off.
pub const TAG: [u8; 4] = [0x81, 0, 0, 0];
/// The next header of [`fragment6`].
pub const FRAGMENT: u8 = 44;
pub const DESTINATION_OPTIONS: u8 = 60;
/// The fragment field of an IPv4 header: more are to come.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// A pod's way onto the link, below IP.
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub fn of(pod: &Pod) -> Self {
        let socket = pod.visit(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(socket.as_raw_fd(), &eth0()).unwrap();
            socket
        });
        Self { socket }
    }

    /// Sends a packet to another pod, behind these tags.
    pub fn send(&self, to: &Pod, tags: &[[u8; 4]], packet: &[u8]) {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&to.mac()[..], &[2, 0, 0, 0, 0, 0xee], &tags.concat(), &kind, packet].concat();
        assert_eq!(send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap(), frame.len());
    }
}

/// The calling thread's network namespace's eth0.
fn eth0() -> LinkAddr {
    let mut interfaces = getifaddrs().unwrap().filter(|interface| interface.interface_name == "eth0");
    interfaces.find_map(|interface| Some(*interface.address?.as_link_addr()?)).expect("an eth0")
}

/// A datagram to `to` in an IP packet from `from`.
pub fn datagram(from: IpAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    packet(from, to.ip(), UDP, &udp(from, to, payload))
}

pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => packet4(from, to, 0, protocol, payload),
        _ => {
            let length = (payload.len() as u16).to_be_bytes();
            [&[0x60, 0, 0, 0][..], &length, &[protocol, 64], &octets(from), &octets(to), payload].concat()
        }
    }
}

/// An IPv4 packet; `fragment` is the header's field with flags and offset.
pub fn packet4(from: IpAddr, to: IpAddr, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let rest = [&fragment[..], &[64, protocol, 0, 0], &octets(from), &octets(to)].concat();
    let mut header = [&[0x45, 0][..], &length, &[0x0b, 0xad], &rest].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

/// What an IPv6 packet carries that is the first of several fragments, or a later one.
pub fn fragment6(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let place = (offset | u16::from(more)).to_be_bytes();
    [&[next, 0][..], &place, &[0, 0, 0x0b, 0xad], payload].concat()
}

/// What an IPv6 packet carries that has destination options, of padding only, before the rest.
pub fn options6(next: u8, payload: &[u8]) -> Vec<u8> {
    [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat()
}

pub fn udp(from: IpAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    const SOURCE_PORT: [u8; 2] = [0x1f, 0x90];
    let length = (8 + payload.len() as u16).to_be_bytes();
    let mut datagram = [&SOURCE_PORT[..], &to.port().to_be_bytes(), &length, &[0, 0], payload].concat();
    let sum = checksum_between(from, to.ip(), UDP, &datagram);
    datagram[6..8].copy_from_slice(&sum);
    datagram
}

/// Asks for a connection.
pub fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const WORDS_AND_SYN: [u8; 2] = [5 << 4, 2];
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut segment = [&ports[..], &[0, 0, 0, 1], &[0; 4], &WORDS_AND_SYN, &[0xfa, 0xf0], &[0; 4]].concat();
    let sum = checksum_between(from.ip(), to.ip(), TCP, &segment);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// The checksum of what IP carries, which covers the addresses, too.
fn checksum_between(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> [u8; 2] {
    let length = (payload.len() as u32).to_be_bytes();
    checksum(&[&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol], payload].concat())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    (!((sum >> 16) + sum) as u16).to_be_bytes()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
