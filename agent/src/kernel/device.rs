//! The veth that joins a pod to its node, and who else has a hand in it.

use super::{KernelError, netlink, open_netns, sys};
use aya_obj::generated::bpf_attach_type;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeSet;
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
    /// The pod can be reached by a second way, which nobody guards for its direct connections.
    #[error("the device {0} is up in its network namespace, beside lo and its veth")]
    FurtherDevice(String),
    /// A queueing discipline at its veth makes packets wait, and the direct path would go around it.
    #[error("the queueing discipline {0} is at its veth")]
    Shaped(String),
}

/// Queueing disciplines that a device has without anybody's wish to shape what passes it.
const UNSHAPED: [&str; 8] = ["noop", "noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo", "bfifo"];

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

/// Checks that the kernel owns the pod's path, from the node's network namespace: the node's end is a veth, its peer is the
/// pod's device, nobody else's program is attached to it, nothing shapes what passes it, and the pod has no other device by
/// which packets could come. `own` are the ids of our programs.
///
/// What the pod's namespace says is the pod's to say: whoever has CAP_NET_ADMIN there can make a device with any index,
/// another pod's too. What the node's end says is the kernel's. Whoever can change the pod's devices weakens that pod's
/// connections alone: it is the pod itself, or root on the node (Multus adds devices so).
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
    let Some(pods_netns) = pods_netns.filter(|id| peers_netns == Some(*id)) else { return Err(elsewhere()) };
    if peer(&link) != Some(device.index) {
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
    if let Some(name) = foreign_filter(index).map_err(unknown)? {
        return Err(NoPath::Program(name));
    }
    let unknown = |e: io::Error| {
        NoPath::Veth(format!(
            "the queueing disciplines and devices of its veth and of the pod cannot be listed: {e}"
        ))
    };
    if let Some(kind) = shaper(&link).map_err(unknown)? {
        return Err(NoPath::Shaped(kind));
    }
    check_inside(device.index, &links_in(pods_netns).map_err(unknown)?)
}

/// Checks the pod's end, and that there is no other way into the pod.
///
/// A device that is down takes no packets, so that it does not count: kernels make some in every network namespace (`sit0`,
/// `tunl0`, `ip6tnl0`, `gre0`), and nobody uses them. One that comes up counts from the next audit on.
fn check_inside(index: u32, links: &[LinkMessage]) -> Result<(), NoPath> {
    for link in links {
        let flags = link.header.flags;
        if link.header.index == index {
            // In its native mode it would not see what is led directly to this end.
            if has_xdp(link) {
                return Err(NoPath::Program("for XDP in the pod".to_owned()));
            }
            if let Some(kind) = root_qdisc(link).filter(|kind| !UNSHAPED.contains(kind)) {
                return Err(NoPath::Shaped(format!("{kind} in the pod")));
            }
        } else if flags.contains(LinkFlags::Up) && !flags.contains(LinkFlags::Loopback) {
            return Err(NoPath::FurtherDevice(device_name(link)));
        }
    }
    Ok(())
}

/// All addresses of the calling thread's network namespace that are not loopback's: the node's, or a worker's pod's.
pub fn node_addresses() -> Result<BTreeSet<IpAddr>, KernelError> {
    let addresses = getifaddrs().map_err(|e| KernelError::Netlink(e.into()))?;
    let addresses = addresses.filter_map(|interface| ip(interface.address.as_ref()?));
    Ok(addresses.filter(|ip| !ip.is_loopback()).collect())
}

/// The addresses of another network namespace that are more than the loopback's or a link's.
pub fn addresses_in(netns: &Path) -> io::Result<Vec<IpAddr>> {
    let netns = open_netns(netns)?;
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

/// The devices of another network namespace, by what the calling thread's calls it.
fn links_in(netns: i32) -> io::Result<Vec<LinkMessage>> {
    let mut question = LinkMessage::default();
    question.attributes.push(LinkAttribute::IfNetnsId(netns));
    let answers = netlink::ask(RouteNetlinkMessage::GetLink(question), true)?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    // A kernel that does not know the question would show the devices of this namespace.
    let is_of_pod = |link: &LinkMessage| link.attributes.contains(&LinkAttribute::IfNetnsId(netns));
    let links: Vec<LinkMessage> = links.collect();
    match links.iter().all(is_of_pod) && !links.is_empty() {
        true => Ok(links),
        false => Err(io::Error::other("the kernel shows no devices of other network namespaces")),
    }
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

/// The queueing discipline that makes packets wait to leave the device, by its kind.
fn shaper(link: &LinkMessage) -> io::Result<Option<String>> {
    match root_qdisc(link) {
        // Each of its queues has a discipline of its own.
        Some("mq") => {
            Ok(qdiscs(link.header.index)?.into_iter().find(|kind| !UNSHAPED.contains(&kind.as_str())))
        }
        root => Ok(root.filter(|kind| !UNSHAPED.contains(kind)).map(str::to_owned)),
    }
}

/// The discipline at the device's root.
fn root_qdisc(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Qdisc(kind) => Some(kind.as_str()),
        _ => None,
    })
}

/// All disciplines for what leaves the device.
fn qdiscs(index: u32) -> io::Result<Vec<String>> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index.cast_signed()));
    let of_device = netlink::ask(question, true)?.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(qdisc) if qdisc.header.index == index.cast_signed() => {
            Some(qdisc)
        }
        _ => None,
    });
    let kinds = of_device.flat_map(|qdisc| qdisc.attributes).filter_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind),
        _ => None,
    });
    // These two are for what comes in, and hold filters.
    Ok(kinds.filter(|kind| !["clsact", "ingress"].contains(&kind.as_str())).collect())
}

fn device_name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| format!("with the index {}", link.header.index))
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
