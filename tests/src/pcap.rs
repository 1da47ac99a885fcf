//! Recorded packets, as far as questions about TCP need them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::marker;

/// TCP's flags, as [`Tcp::flags`] has them (RFC 9293, section 3.1).
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

/// All packets of a recording.
#[derive(Debug, Default)]
pub struct Packets(pub Vec<Packet>);

#[derive(Debug)]
pub struct Packet {
    /// As it was on the wire, from the Ethernet header on.
    pub frame: Vec<u8>,
    /// `None` where it is not TCP over IP.
    pub tcp: Option<Tcp>,
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub flags: u8,
    /// Where the payload is in the frame.
    payload: Range<usize>,
}

/// One direction of a TCP connection: what was sent, in order, each byte once.
#[derive(Debug)]
pub struct Flow {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The recording has its first segment.
    pub whole: bool,
    pub bytes: Vec<u8>,
}

impl Packets {
    /// Whether `needle` stands in any frame, or in what a connection carried (it may be split over segments).
    pub fn contain(&self, needle: &[u8]) -> bool {
        self.0.iter().any(|packet| holds(&packet.frame, needle))
            || self.flows().iter().any(|flow| holds(&flow.bytes, needle))
    }

    /// The TCP segments.
    pub fn tcp(&self) -> impl Iterator<Item = &Tcp> {
        self.0.iter().filter_map(|packet| packet.tcp.as_ref())
    }

    /// The last that `from` said to `to`.
    pub fn last(&self, from: SocketAddr, to: SocketAddr) -> Option<&Tcp> {
        self.tcp().filter(|tcp| tcp.from == from && tcp.to == to).last()
    }

    /// The TCP connections' directions, each put together.
    pub fn flows(&self) -> Vec<Flow> {
        let mut flows: BTreeMap<(SocketAddr, SocketAddr), Vec<Assembly>> = BTreeMap::new();
        for packet in &self.0 {
            let Some(tcp) = &packet.tcp else { continue };
            let same = flows.entry((tcp.from, tcp.to)).or_default();
            // A port that is used again begins another flow; a SYN sent twice does not.
            let begins = tcp.flags & SYN != 0;
            if same.last().is_none_or(|last| begins && last.first != tcp.sequence) {
                let next = tcp.sequence.wrapping_add(begins.into());
                same.push(Assembly { first: tcp.sequence, whole: begins, next, ..Assembly::default() });
            }
            if let Some(last) = same.last_mut() {
                last.add(tcp.sequence.wrapping_add(begins.into()), &packet.frame[tcp.payload.clone()]);
            }
        }
        let flow = |(from, to), Assembly { whole, bytes, .. }| Flow { from, to, whole, bytes };
        flows.into_iter().flat_map(|(ends, all)| all.into_iter().map(move |one| flow(ends, one))).collect()
    }
}

impl Tcp {
    /// The sequence number of what its sender says next.
    pub fn next(&self) -> u32 {
        let flags = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.sequence.wrapping_add(self.payload.len() as u32).wrapping_add(flags)
    }
}

impl Flow {
    /// How many TLS records these bytes are, from the first to the last; `None` where they are something else
    /// (RFC 8446, section 5.1). The last record may be cut off, where the recording ended.
    pub fn tls_records(&self) -> Option<usize> {
        let (mut rest, mut records) = (self.bytes.as_slice(), 0);
        while !rest.is_empty() {
            if !(20..=23).contains(&rest[0]) || rest.get(1).is_some_and(|major| *major != 3) {
                return None;
            }
            let length =
                rest.get(3..5).map_or(usize::MAX - 5, |n| usize::from(u16::from_be_bytes([n[0], n[1]])));
            rest = rest.get(5 + length..).unwrap_or_default();
            records += 1;
        }
        Some(records)
    }
}

/// Puts segments in order.
#[derive(Default)]
struct Assembly {
    first: u32,
    whole: bool,
    next: u32,
    bytes: Vec<u8>,
    early: Vec<(u32, Vec<u8>)>,
}

impl Assembly {
    fn add(&mut self, sequence: u32, payload: &[u8]) {
        // Sequence numbers wrap: the difference tells before from after.
        let ahead = sequence.wrapping_sub(self.next) as i32;
        if ahead > 0 {
            self.early.push((sequence, payload.to_vec()));
            return;
        }
        let Some(new) = payload.get(ahead.unsigned_abs() as usize..).filter(|new| !new.is_empty()) else {
            return;
        };
        self.bytes.extend_from_slice(new);
        self.next = self.next.wrapping_add(new.len() as u32);
        for (sequence, payload) in std::mem::take(&mut self.early) {
            self.add(sequence, &payload);
        }
    }
}

/// Reads a file of tcpdump: the classic format, of this machine's byte order, of Ethernet. Markers are left out.
pub(crate) fn read(path: &Path) -> Result<Packets> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is no recording of Ethernet", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Packets> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    ensure!(word(0) == Some(MAGIC) && word(20) == Some(ETHERNET), "the header is another");
    let (mut packets, mut at) = (Vec::new(), 24);
    while let Some(length) = word(at + 8) {
        at += 16;
        let Some(frame) = bytes.get(at..at + length as usize) else { break };
        if !marker::is_marker(frame) {
            packets.push(Packet { tcp: tcp(frame), frame: frame.to_vec() });
        }
        at += length as usize;
    }
    Ok(Packets(packets))
}

fn tcp(frame: &[u8]) -> Option<Tcp> {
    const TCP: u8 = 6;
    let ip = frame.get(14..)?;
    let (from, to, protocol, header, length): (IpAddr, IpAddr, _, _, _) = match be16(frame, 12)? {
        0x0800 => {
            let header = usize::from(ip.first()? & 15) * 4;
            (ip4(ip, 12)?.into(), ip4(ip, 16)?.into(), *ip.get(9)?, header, usize::from(be16(ip, 2)?))
        }
        0x86dd => (ip6(ip, 8)?.into(), ip6(ip, 24)?.into(), *ip.get(6)?, 40, usize::from(be16(ip, 4)?) + 40),
        _ => return None,
    };
    if protocol != TCP {
        return None;
    }
    let segment = ip.get(header..)?;
    let begin = 14 + header + usize::from(segment.get(12)? >> 4) * 4;
    // Short frames are padded: the IP header knows where the packet ends.
    let end = (14 + length).min(frame.len());
    Some(Tcp {
        from: SocketAddr::new(from, be16(segment, 0)?),
        to: SocketAddr::new(to, be16(segment, 2)?),
        sequence: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
        flags: *segment.get(13)?,
        payload: begin.min(end)..end,
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ip4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into())
}

fn ip6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into())
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, flags: u8, payload: &[u8]) -> Packet {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&[8, 0, 0x45, 0]);
        frame.extend_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 7, 0, 80]);
        frame.extend_from_slice(&sequence.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(b"padding");
        Packet { tcp: tcp(&frame), frame }
    }

    #[test]
    fn segments_come_out_in_order_and_once() {
        let first = u32::MAX - 1;
        let packets = Packets(vec![
            segment(first, SYN, b""),
            segment(first.wrapping_add(1), 0, b"ab"),
            segment(first.wrapping_add(5), 0, b"ef"),
            segment(first.wrapping_add(2), 0, b"bcd"),
            segment(first.wrapping_add(1), 0, b"ab"),
            segment(7, SYN, b""),
            segment(8, 0, b"again"),
        ]);
        let flows = packets.flows();
        assert_eq!(flows.iter().map(|flow| &flow.bytes[..]).collect::<Vec<_>>(), [&b"abcdef"[..], b"again"]);
        assert!(flows.iter().all(|flow| flow.whole));
        assert!(packets.contain(b"cde") && !packets.contain(b"fa"));
    }

    #[test]
    fn tls_is_told_from_what_is_not() {
        let end = "10.0.0.1:1".parse().unwrap();
        let records =
            |bytes: &[u8]| Flow { from: end, to: end, whole: true, bytes: bytes.to_vec() }.tls_records();
        assert_eq!(records(b"\x16\x03\x01\x00\x02ab\x17\x03\x03\x00\x01c"), Some(2));
        assert_eq!(records(b"\x16\x03\x01\x00\x02ab\x17\x03\x03\x00\x09c"), Some(2));
        assert_eq!(records(b"\x16\x03\x01\x00\x02abGET / HTTP/1.1"), None);
        assert_eq!(records(b""), Some(0));
    }
}
