//! Frames and packets, byte by byte.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
/// For experiments (IEEE 802, 9.2.3): nobody listens to it.
const EXPERIMENTAL: u16 = 0x88b5;

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<Vec<u8>>>();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        Ok(Self(bytes.with_context(|| format!("{text:?} is no link-layer address"))?))
    }
}

/// An Ethernet frame.
pub(super) fn ethernet(to: Mac, from: Mac, kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), packet].concat()
}

/// A frame that means nothing, to everybody.
pub(super) fn nothing(from: Mac) -> Vec<u8> {
    ethernet(Mac([0xff; 6]), from, EXPERIMENTAL, &[0; 46])
}

/// The Internet checksum (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    (!((sum >> 16) + sum) as u16).to_be_bytes()
}

/// The checksum of a TCP segment or ICMPv6 message, which covers the addresses, too.
pub(super) fn checksum_between(from: IpAddr, to: IpAddr, protocol: u8, message: &[u8]) -> [u8; 2] {
    let length = (message.len() as u32).to_be_bytes();
    let covered = [&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol], message].concat();
    checksum(&covered)
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An IPv4 packet. `options` are a multiple of 4 bytes; `fragment` is the header's field with flags and offset.
pub(super) fn ipv4(
    ends: [IpAddr; 2],
    options: &[u8],
    fragment: u16,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    const TIME_TO_LIVE: u8 = 64;
    // Tells fragments of one packet from another's; one is under way at a time.
    const IDENTIFICATION: [u8; 2] = [0x0b, 0xad];
    let words = 5 + options.len() as u8 / 4;
    let length = (20 + options.len() + payload.len()) as u16;
    let mut header = [
        &[0x40 | words, 0][..],
        &length.to_be_bytes(),
        &IDENTIFICATION,
        &fragment.to_be_bytes(),
        &[TIME_TO_LIVE, protocol, 0, 0],
        &octets(ends[0]),
        &octets(ends[1]),
        options,
    ]
    .concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header, payload].concat()
}

/// An IPv6 packet; `next` is what the payload begins with.
pub(super) fn ipv6(ends: [IpAddr; 2], next: u8, payload: &[u8]) -> Vec<u8> {
    // Neighbour discovery takes no other (RFC 4861, 7.1.2).
    const HOP_LIMIT: u8 = 255;
    let length = (payload.len() as u16).to_be_bytes();
    let header = [&[0x60, 0, 0, 0][..], &length, &[next, HOP_LIMIT], &octets(ends[0]), &octets(ends[1])];
    [&header.concat(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_rfcs() {
        // RFC 1071, section 3: the sum is 0xddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), [0x22, 0x0d]);
        assert_eq!(checksum(&[0xff]), [0x00, 0xff]);
    }

    #[test]
    fn a_link_layer_address_reads_back() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert!("02:00:5e".parse::<Mac>().is_err());
    }
}
