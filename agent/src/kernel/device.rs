//! The veth that joins a pod to its node, and who else has a hand in it.

use super::{KernelError, netlink, sys};
use aya_obj::generated::bpf_attach_type;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::thread;

/// A pod's end of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodDevice {
    pub index: u32,
    /// The index of the node's end.
    pub peer: u32,
}

/// By it our filters are known among others at a clsact qdisc.
pub const FILTER_PRIORITY: u16 = 0x5049;

/// The index of the node's end, as the maps have it.
pub fn peer_index(device: Option<PodDevice>) -> u32 {
    device.map_or(0, |device| device.peer)
}

/// Why a pod's packets cannot be led directly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPath {
    /// The pod is not joined to the node by a veth.
    #[error("{0}")]
    Veth(String),
    /// Another project's program is at the node's end, and may rely on seeing every packet.
    #[error("the program {0} is attached to its veth")]
    Program(String),
}

/// The device that has one of these addresses, in the calling thread's network namespace: the pod's.
pub fn pod_device(addresses: &[IpAddr]) -> Result<PodDevice, NoPath> {
    let name = interface_with(addresses)?;
    let unusable = |e: io::Error| NoPath::Veth(format!("its device {name} cannot be asked about: {e}"));
    let index = if_nametoindex(name.as_str()).map_err(|e| unusable(e.into()))?;
    let link = link(index).map_err(unusable)?;
    match peer(&link) {
        Some(peer) => Ok(PodDevice { index, peer }),
        None => Err(NoPath::Veth(format!("its device {name} is no veth"))),
    }
}

/// Checks the node's end, in the node's network namespace: it is a veth, its peer is the pod's device, and nobody
/// else's program is attached to it. `own` are the ids of our programs.
///
/// What the pod's namespace says is the pod's to say: whoever has CAP_NET_ADMIN there can make a device with any index,
/// another pod's too. What the node's end says is the kernel's.
pub fn check(device: PodDevice, netns: BorrowedFd, own: &[u32]) -> Result<(), NoPath> {
    let index = device.peer;
    let elsewhere =
        || NoPath::Veth("the other end of its veth is not in the agent's network namespace".to_owned());
    let link = link(index).map_err(|_| elsewhere())?;
    let peers_netns = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(id) => Some(*id),
        _ => None,
    });
    let pods_netns = netns_id(netns).map_err(|_| elsewhere())?;
    if peer(&link) != Some(device.index) || peers_netns.is_none() || peers_netns != pods_netns {
        return Err(elsewhere());
    }
    if has_xdp(&link) {
        return Err(NoPath::Program("for XDP".to_owned()));
    }
    let unknown = |e: io::Error| NoPath::Veth(format!("the programs at its veth cannot be listed: {e}"));
    for hook in [bpf_attach_type::BPF_TCX_INGRESS, bpf_attach_type::BPF_TCX_EGRESS] {
        // A kernel without tcx has none of them.
        let programs = sys::programs_of_device(index, hook).unwrap_or_default();
        if let Some(id) = programs.into_iter().find(|id| !own.contains(id)) {
            return Err(NoPath::Program(program_name(id)));
        }
    }
    match foreign_filter(index).map_err(unknown)? {
        Some(name) => Err(NoPath::Program(name)),
        None => Ok(()),
    }
}

/// All addresses of the calling thread's network namespace that are not loopback's: the node's.
pub fn node_addresses() -> Result<BTreeSet<IpAddr>, KernelError> {
    let addresses = getifaddrs().map_err(|e| KernelError::Netlink(e.into()))?;
    let addresses = addresses.filter_map(|interface| ip(interface.address.as_ref()?));
    Ok(addresses.filter(|ip| !ip.is_loopback()).collect())
}

/// The addresses of another network namespace that are more than the loopback's or a link's.
pub fn addresses_in(netns: &Path) -> io::Result<Vec<IpAddr>> {
    let netns = File::open(netns)?;
    // Nobody else's thread changes places.
    let looking = thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        node_addresses().map_err(io::Error::other)
    });
    let all =
        looking.join().map_err(|_| io::Error::other("the thread that looks for them has panicked"))??;
    let is_of_link = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    Ok(all.into_iter().filter(|ip| !is_of_link(ip)).collect())
}

fn interface_with(addresses: &[IpAddr]) -> Result<String, NoPath> {
    let unusable = |e: nix::Error| NoPath::Veth(format!("its devices cannot be listed: {e}"));
    let found = getifaddrs()
        .map_err(unusable)?
        .find(|interface| interface.address.as_ref().and_then(ip).is_some_and(|ip| addresses.contains(&ip)));
    found.map(|interface| interface.interface_name).ok_or_else(|| {
        NoPath::Veth("no device in its network namespace has an address of its status.podIPs".into())
    })
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from(SocketAddrV6::from(*v6)).ip())
}

fn link(index: u32) -> io::Result<LinkMessage> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    let answers = netlink::ask(RouteNetlinkMessage::GetLink(question), false)?;
    let link = answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    link.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// What the calling thread's network namespace calls another one; `None` where it has no name for it.
fn netns_id(netns: BorrowedFd) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    let answers = netlink::ask(RouteNetlinkMessage::GetNsId(question), false)?;
    let mut attributes = answers.into_iter().flat_map(|answer| match answer {
        RouteNetlinkMessage::NewNsId(answer) => answer.attributes,
        _ => Vec::new(),
    });
    Ok(attributes.find_map(|attribute| match attribute {
        NsidAttribute::Id(id) if id >= 0 => Some(id),
        _ => None,
    }))
}

/// The index of the other end, where the device is a veth.
fn peer(link: &LinkMessage) -> Option<u32> {
    let is_veth = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    });
    let peer = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    peer.filter(|_| is_veth)
}

fn has_xdp(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::Xdp(facts) => facts
            .iter()
            .any(|fact| matches!(fact, LinkXdp::Attached(attached) if *attached != XdpAttached::None)),
        _ => false,
    })
}

/// A classifier at the device's clsact hooks that is not one of ours, by its kind.
fn foreign_filter(index: u32) -> io::Result<Option<String>> {
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let mut question = TcMessage::with_index(index.cast_signed());
        question.header.parent = TcHandle { minor, ..TcHandle::CLSACT };
        let answers = netlink::ask(RouteNetlinkMessage::GetTrafficFilter(question), true)?;
        for answer in answers {
            let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else { continue };
            // The priority is the upper half of the info.
            if filter.header.info >> 16 == u32::from(FILTER_PRIORITY) {
                continue;
            }
            let kind = filter.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind.clone()),
                _ => None,
            });
            return Ok(Some(format!("(a tc filter of the kind {})", kind.unwrap_or_default())));
        }
    }
    Ok(None)
}

fn program_name(id: u32) -> String {
    let found = aya::programs::loaded_programs().flatten().find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("with the id {id}"))
}
