//! What tc programs read of a packet.

use crate::context::field;
use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use core::ptr;
use pillion_ebpf_common::{Address, Ip, mapped};

/// The packet goes nowhere. (TC_ACT_SHOT.)
pub const DROP: i32 = 2;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const ETH_P_8021Q: u16 = 0x8100;
const ETH_P_8021AD: u16 = 0x88a8;
pub const ETHERNET_HEADER: usize = 14;
const IPV6_HEADER: usize = 40;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_ICMPV6: u8 = 58;
/// The headers of IPv6 that others may follow.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Reads a header: straight from the packet where the kernel has it in one piece, as it has what a pod's own stack
/// sends, else by the helper.
#[inline(always)]
pub fn load<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    let (header, end) = (ctx.data() + offset, ctx.data_end());
    if header + size_of::<T>() <= end {
        // SAFETY: within the packet, as the verifier has seen; any bytes are a value of the headers below.
        return Some(unsafe { ptr::read_unaligned(header as *const T) });
    }
    ctx.load(offset).ok()
}

/// What an IP header says.
pub struct Packet {
    pub source: Ip,
    destination: Ip,
    protocol: u8,
    pub is_ipv6: bool,
    is_fragment: bool,
    /// Where the transport header begins.
    pub transport: usize,
}

pub enum Read {
    Ip(Packet),
    /// Another protocol than IP.
    Other,
    /// An IP packet in disguise (a VLAN tag within a tag, which the receiver takes off), or a broken one.
    Hidden,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_and_length: u8,
    _service: u8,
    _length: u16,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    _version: u32,
    _length: u16,
    next_header: u8,
    _hop_limit: u8,
    source: Ip,
    destination: Ip,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct FragmentHeader {
    next_header: u8,
    _reserved: u8,
    offset_and_more: u16,
    _id: u32,
}

impl FragmentHeader {
    /// The first fragment says what the packet is (`ip6_frag_reasm`), and without it the others are nothing: large
    /// datagrams and pings go in fragments, too.
    #[inline(always)]
    fn hides_tcp(&self) -> bool {
        let is_first = u16::from_be(self.offset_and_more) & 0xfff8 == 0;
        is_first && !matches!(self.next_header, IPPROTO_UDP | IPPROTO_ICMPV6)
    }
}

impl Packet {
    #[inline(always)]
    pub fn read(ctx: &TcContext) -> Read {
        // SAFETY: a field that the verifier lets this program read.
        let protocol = unsafe { field!(ctx.skb.skb, __sk_buff, protocol) };
        match u16::from_be(protocol as u16) {
            ETH_P_IP => Self::ipv4(ctx).map_or(Read::Hidden, Read::Ip),
            ETH_P_IPV6 => Self::ipv6(ctx).map_or(Read::Hidden, Read::Ip),
            ETH_P_8021Q | ETH_P_8021AD => Read::Hidden,
            _ => Read::Other,
        }
    }

    #[inline(always)]
    fn ipv4(ctx: &TcContext) -> Option<Self> {
        let header: Ipv4Header = load(ctx, ETHERNET_HEADER)?;
        // Don't Fragment is no fragment's mark: offset and More Fragments are.
        let is_fragment = u16::from_be(header.fragment) & 0x3fff != 0;
        let length = usize::from(header.version_and_length & 0xf) * 4;
        Some(Self {
            source: mapped(header.source),
            destination: mapped(header.destination),
            protocol: header.protocol,
            is_ipv6: false,
            is_fragment,
            transport: ETHERNET_HEADER + length,
        })
    }

    #[inline(always)]
    fn ipv6(ctx: &TcContext) -> Option<Self> {
        let header: Ipv6Header = load(ctx, ETHERNET_HEADER)?;
        Some(Self {
            source: header.source,
            destination: header.destination,
            protocol: header.next_header,
            is_ipv6: true,
            is_fragment: false,
            transport: ETHERNET_HEADER + IPV6_HEADER,
        })
    }

    #[inline(always)]
    pub fn is_icmp6(&self) -> bool {
        self.is_ipv6 && self.protocol == IPPROTO_ICMPV6
    }

    /// Whether there may be TCP in it that cannot be told apart: fragments, and IPv6 with further headers. A pod's own
    /// kernel sends them only where an app asks for them: by a routing header, for example.
    #[inline(always)]
    pub fn hides_tcp(&self, ctx: &TcContext) -> bool {
        if !self.is_ipv6 {
            return self.protocol == IPPROTO_TCP && self.is_fragment;
        }
        match self.protocol {
            // What may follow it is TCP, or a header that hides TCP. Listeners of multicast groups report with one before ICMP.
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let next: Option<u8> = load(ctx, self.transport);
                !matches!(next, Some(IPPROTO_UDP | IPPROTO_ICMPV6))
            }
            FRAGMENT => load(ctx, self.transport).is_none_or(|header: FragmentHeader| header.hides_tcp()),
            _ => false,
        }
    }

    /// Source and destination of a TCP segment.
    #[inline(always)]
    pub fn ends(&self, ctx: &TcContext) -> Option<(Address, Address)> {
        if self.protocol != IPPROTO_TCP || self.is_fragment {
            return None;
        }
        let ports: [u16; 2] = load(ctx, self.transport)?;
        let port = |port: u16| u32::from(u16::from_be(port));
        let source = Address { ip: self.source, port: port(ports[0]) };
        Some((source, Address { ip: self.destination, port: port(ports[1]) }))
    }
}
