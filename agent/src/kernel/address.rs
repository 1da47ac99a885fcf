//! Addresses between Rust's types and the kernel's.

use pillion_ebpf_common::{Address, Ip};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub fn to_address(address: SocketAddr) -> Address {
    Address { ip: to_ip(address.ip()), port: u32::from(address.port()) }
}

/// IPv4-mapped addresses come out as IPv4.
pub fn from_address(address: &Address) -> SocketAddr {
    // A port fits: the programs write 16 bits.
    SocketAddr::new(from_ip(&address.ip), address.port as u16)
}

pub fn to_ip(ip: IpAddr) -> Ip {
    let ipv6 = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    words(ipv6)
}

pub fn from_ip(ip: &Ip) -> IpAddr {
    let mut octets = [0; 16];
    for (octets, word) in octets.chunks_exact_mut(4).zip(ip) {
        octets.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

pub fn to_ip4(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

/// In memory, network byte order.
pub fn words(ip: Ipv6Addr) -> Ip {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ip.octets();
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        for text in ["10.0.0.1:80", "[fd00::1]:443", "0.0.0.0:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_address(&to_address(address)), address);
        }
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(to_address(mapped), to_address("10.0.0.1:80".parse().unwrap()));
        assert_eq!(
            pillion_ebpf_common::unmapped(&to_ip(mapped.ip())),
            Some(to_ip4(Ipv4Addr::new(10, 0, 0, 1)))
        );
    }
}
