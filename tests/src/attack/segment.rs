//! Forged TCP segments, and the guises in which they come.

use std::net::{IpAddr, SocketAddr};

use super::frame::{IPV4, IPV6, Mac, checksum_between, ethernet, ipv4, ipv6};
use crate::pcap::{ACK, PSH, RST, SYN, Tcp};

const TCP: u8 = 6;

/// A TCP segment, as an attacker writes it.
#[derive(Clone, Debug)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    /// As in [`Tcp::flags`].
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// How a segment's packet looks on the link. To the receiving kernel all of them are the same segment; a filter that does
/// not look closely sees something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    None,
    /// IPv4 options, or an IPv6 extension header, between IP and TCP.
    Options,
    /// In two fragments; in one that calls itself a fragment, where IPv6 wants the whole TCP header in the first.
    Fragments,
    /// Behind two priority tags (802.1Q, VLAN 0): a kernel without VLANs takes both off.
    Tags,
}

impl Disguise {
    pub const ALL: [Self; 4] = [Self::None, Self::Options, Self::Fragments, Self::Tags];
}

impl Segment {
    /// Asks for a connection.
    pub fn syn(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, sequence: 1_000_000, acknowledged: 0, flags: SYN, payload: vec![] }
    }

    /// Says `payload` right after `last`, as if `last`'s sender said it. `answer` is what the other end sent last.
    pub fn after(last: &Tcp, answer: &Tcp, payload: &[u8]) -> Self {
        let (sequence, acknowledged) = (last.next(), answer.next());
        Self {
            from: last.from,
            to: last.to,
            sequence,
            acknowledged,
            flags: PSH | ACK,
            payload: payload.to_vec(),
        }
    }

    /// Resets the connection right after `last`, as if `last`'s sender did.
    pub fn reset_after(last: &Tcp) -> Self {
        let sequence = last.next();
        Self { from: last.from, to: last.to, sequence, acknowledged: 0, flags: RST, payload: vec![] }
    }

    /// The frames that bring it to `to`.
    pub(super) fn frames(&self, to: Mac, from: Mac, disguise: Disguise) -> Vec<Vec<u8>> {
        let kind = if self.from.is_ipv4() { IPV4 } else { IPV6 };
        let frame = |packet: &Vec<u8>| match disguise {
            Disguise::Tags => ethernet(to, from, VLAN, &[&behind_tags(kind), &packet[..]].concat()),
            _ => ethernet(to, from, kind, packet),
        };
        self.packets(disguise).iter().map(frame).collect()
    }

    fn packets(&self, disguise: Disguise) -> Vec<Vec<u8>> {
        let (ends, segment) = (self.ends(), self.bytes());
        match (disguise, self.from.is_ipv4()) {
            (Disguise::None | Disguise::Tags, true) => vec![ipv4(ends, &[], 0, TCP, &segment)],
            (Disguise::None | Disguise::Tags, false) => vec![ipv6(ends, TCP, &segment)],
            (Disguise::Options, true) => vec![ipv4(ends, &[NO_OPERATION; 4], 0, TCP, &segment)],
            (Disguise::Options, false) => {
                vec![ipv6(ends, DESTINATION_OPTIONS, &[&padding_option(), &segment[..]].concat())]
            }
            (Disguise::Fragments, true) => ipv4_fragments(ends, &segment),
            (Disguise::Fragments, false) => ipv6_fragments(ends, &segment),
        }
    }

    fn ends(&self) -> [IpAddr; 2] {
        [self.from.ip(), self.to.ip()]
    }

    fn bytes(&self) -> Vec<u8> {
        const WORDS: u8 = 5;
        const WINDOW: [u8; 2] = [0xfa, 0xf0];
        let mut bytes = [
            &self.from.port().to_be_bytes()[..],
            &self.to.port().to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.acknowledged.to_be_bytes(),
            &[WORDS << 4, self.flags],
            &WINDOW,
            &[0; 4],
            &self.payload,
        ]
        .concat();
        let [from, to] = self.ends();
        let sum = checksum_between(from, to, TCP, &bytes);
        bytes[16..18].copy_from_slice(&sum);
        bytes
    }
}

const VLAN: u16 = 0x8100;
const NO_OPERATION: u8 = 1;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// What follows the first tag's type: VLAN 0, another tag, VLAN 0, and what the packet is.
fn behind_tags(kind: u16) -> [u8; 8] {
    let ([a, b], [c, d]) = (VLAN.to_be_bytes(), kind.to_be_bytes());
    [0, 0, a, b, 0, 0, c, d]
}

/// A header of destination options that holds padding only (RFC 8200, 4.2 and 4.6); TCP is next.
fn padding_option() -> [u8; 8] {
    const PAD_4: [u8; 6] = [1, 4, 0, 0, 0, 0];
    let [a, b, c, d, e, f] = PAD_4;
    [TCP, 0, a, b, c, d, e, f]
}

/// The first has the ports and the sequence number, no more.
fn ipv4_fragments(ends: [IpAddr; 2], segment: &[u8]) -> Vec<Vec<u8>> {
    const MORE: u16 = 0x2000;
    const FIRST: usize = 8;
    let (first, second) = segment.split_at(FIRST);
    vec![ipv4(ends, &[], MORE, TCP, first), ipv4(ends, &[], (FIRST / 8) as u16, TCP, second)]
}

/// The first has the whole TCP header, or else it would be dropped (RFC 8200, 4.5).
fn ipv6_fragments(ends: [IpAddr; 2], segment: &[u8]) -> Vec<Vec<u8>> {
    const FIRST: usize = 24;
    let fragment = |offset: usize, more: bool, bytes: &[u8]| {
        let place = (offset as u16 | u16::from(more)).to_be_bytes();
        let header = [&[TCP, 0][..], &place, &[0x0b, 0xad, 0x0b, 0xad]].concat();
        ipv6(ends, FRAGMENT, &[&header, bytes].concat())
    };
    match segment.split_at_checked(FIRST) {
        Some((first, rest)) if !rest.is_empty() => {
            vec![fragment(0, true, first), fragment(FIRST, false, rest)]
        }
        _ => vec![fragment(0, false, segment)],
    }
}
