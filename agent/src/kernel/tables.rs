//! The maps that say which pods are captured and what they keep out of the mesh.

use super::address::{to_ip, to_ip4, words};
use super::capture::PodCapture;
use super::device::{PodDevice, peer_index};
use super::{KernelError, own_inserts, sys};
use crate::decide::{PermittedPod, PodAddresses};
use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use ipnet::{IpNet, Ipv4Net};
use pillion_ebpf_common::{
    ExcludedCidr, PodEntry, PodPort, cidr,
    flags::{DIRECT, FAIL_OPEN, HAS_EXCLUDED_CIDRS, HAS_EXCLUDED_PORTS},
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// Every map, by the name it is pinned under.
pub const MAPS: [&str; 27] = [
    "PODS",
    MEMBERS,
    "SINCE",
    "EXCLUDED_PORTS",
    "EXCLUDED_CIDRS",
    "HANDOFF",
    "SOCKETS",
    "HBONE",
    "USAGE",
    "INSERTS_FAILED",
    "NODE",
    "NODE_FLOWS",
    "LOCAL_PODS",
    "INBOUND_PORTS",
    "SOURCES",
    "NODE_ADDRESSES",
    "DEVICES",
    "GENERATION",
    "VERDICTS",
    "SERVICES",
    "ENDPOINTS",
    "COUNTS",
    "FLOWS",
    "EVENTS",
    "LOST",
    "DENIALS",
    "DENIALS_LOST",
];

/// Its layout (cookie → u8) is the same in every version: a new agent learns from it whom to refuse until it knows
/// better.
pub const MEMBERS: &str = "MEMBERS";

/// The value of maps that are sets.
const PRESENT: u8 = 1;

pub struct Tables {
    pods: BpfHashMap<MapData, u64, PodEntry>,
    members: BpfHashMap<MapData, u64, u8>,
    since: BpfHashMap<MapData, u64, u64>,
    ports: BpfHashMap<MapData, PodPort, u8>,
    cidrs: LpmTrie<MapData, ExcludedCidr, u8>,
    /// Of `ports` and of `cidrs`, to read them whole.
    fds: [OwnedFd; 2],
    /// What both hold, by pod. The maps are shared: to read one pod's entries takes a walk through everybody's, and who has many pods
    /// would make it as long as he likes. Read once, kept up with what is written; an audit reads anew. `None`: not read.
    exclusions: Option<HashMap<u64, Exclusions>>,
}

/// What one pod keeps out of the mesh.
#[derive(Default)]
struct Exclusions {
    ports: Ports,
    cidrs: Cidrs,
}

/// The excluded ports of one pod.
type Ports = HashSet<u16>;
/// The entries of one pod in the trie: prefix length and data, and one of [`cidr`]'s values.
type Cidrs = HashMap<(u32, ExcludedCidr), u8>;

impl Tables {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let fds = [descriptor(ebpf, "EXCLUDED_PORTS")?, descriptor(ebpf, "EXCLUDED_CIDRS")?];
        Ok(Self {
            fds,
            pods: typed(ebpf, "PODS")?,
            members: typed(ebpf, MEMBERS)?,
            since: typed(ebpf, "SINCE")?,
            ports: typed(ebpf, "EXCLUDED_PORTS")?,
            cidrs: typed(ebpf, "EXCLUDED_CIDRS")?,
            exclusions: None,
        })
    }

    pub fn has_member(&self, cookie: u64) -> Result<bool, KernelError> {
        found(self.members.get(&cookie, 0), MEMBERS).map(|value| value.is_some())
    }

    /// The pod is about to become a member: connections that are on their way to their SYN go on. Does nothing where it is one.
    pub fn begin(&mut self, cookie: u64) -> Result<(), KernelError> {
        if self.has_member(cookie)? || self.has_pod(cookie)? {
            return Ok(());
        }
        self.since.insert(cookie, sys::monotonic(), 0).map_err(failed("SINCE", "written"))
    }

    pub fn add_member(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.members.insert(cookie, PRESENT, 0).map_err(failed(MEMBERS, "written"))
    }

    pub fn remove_member(&mut self, cookie: u64) -> Result<(), KernelError> {
        found(self.members.remove(&cookie), MEMBERS)?;
        found(self.since.remove(&cookie), "SINCE").map(drop)
    }

    /// Makes the pod's entry say this, with its device where the kernel owns its path. Says whether it said otherwise.
    pub fn set_pod(
        &mut self,
        cookie: u64,
        pod: &PodCapture,
        device: Option<PodDevice>,
    ) -> Result<bool, KernelError> {
        let entry = entry(pod, device);
        if found(self.pods.get(&cookie, 0), "PODS")? == Some(entry) {
            return Ok(false);
        }
        self.pods.insert(cookie, entry, 0).map_err(failed("PODS", "written"))?;
        Ok(true)
    }

    /// Whether the pod is captured at exactly the addresses that policies were asked about.
    pub fn has_addresses(&self, pod: &PermittedPod) -> Result<bool, KernelError> {
        Ok(found(self.pods.get(&pod.netns, 0), "PODS")?.is_some_and(|entry| is_at(&entry, pod.addresses)))
    }

    pub fn has_pod(&self, cookie: u64) -> Result<bool, KernelError> {
        found(self.pods.get(&cookie, 0), "PODS").map(|entry| entry.is_some())
    }

    pub fn remove_pod(&mut self, cookie: u64) -> Result<(), KernelError> {
        found(self.pods.remove(&cookie), "PODS").map(drop)
    }

    /// The pods that are captured.
    pub fn pods(&self) -> Result<Vec<u64>, KernelError> {
        self.pods.keys().collect::<Result<_, _>>().map_err(failed("PODS", "read"))
    }

    /// Every pod that any entry speaks of.
    pub fn known(&self) -> Result<BTreeSet<u64>, KernelError> {
        let mut known: BTreeSet<u64> = self.pods()?.into_iter().collect();
        for cookie in self.members.keys() {
            known.insert(cookie.map_err(failed(MEMBERS, "read"))?);
        }
        match &self.exclusions {
            Some(all) => known.extend(all.keys()),
            None => known.extend(self.exclusions()?.into_keys()),
        }
        Ok(known)
    }

    /// Forgets what the maps of exclusions are known to hold: the next question reads them.
    pub fn read_exclusions_anew(&mut self) {
        self.exclusions = None;
    }

    /// Adds the exclusions that are missing. Says whether there were any.
    pub fn add_exclusions(&mut self, cookie: u64, pod: &PodCapture) -> Result<bool, KernelError> {
        self.change_exclusions(cookie, |tables, has| {
            let mut added = false;
            for port in pod.excluded_ports.iter().copied() {
                if !has.ports.contains(&port) {
                    let written = tables.ports.insert(port_key(cookie, port), PRESENT, 0);
                    written.map_err(failed("EXCLUDED_PORTS", "written"))?;
                    added |= has.ports.insert(port);
                }
            }
            for (key, verdict) in wanted_cidrs(cookie, pod) {
                if has.cidrs.get(&key) != Some(&verdict) {
                    let written = tables.cidrs.insert(&Key::new(key.0, key.1), verdict, 0);
                    written.map_err(failed("EXCLUDED_CIDRS", "written"))?;
                    has.cidrs.insert(key, verdict);
                    added = true;
                }
            }
            Ok(added)
        })
    }

    /// Removes the exclusions that the pod no longer has. Says whether there were any.
    pub fn remove_other_exclusions(&mut self, cookie: u64, pod: &PodCapture) -> Result<bool, KernelError> {
        self.change_exclusions(cookie, |tables, has| {
            let wanted = wanted_cidrs(cookie, pod);
            let mut removed = false;
            let others = has.ports.iter().filter(|port| !pod.excluded_ports.contains(port)).copied();
            for port in others.collect::<Vec<_>>() {
                found(tables.ports.remove(&port_key(cookie, port)), "EXCLUDED_PORTS")?;
                removed |= has.ports.remove(&port);
            }
            let others = has.cidrs.keys().filter(|key| !wanted.contains_key(key)).copied();
            for key in others.collect::<Vec<_>>() {
                found(tables.cidrs.remove(&Key::new(key.0, key.1)), "EXCLUDED_CIDRS")?;
                has.cidrs.remove(&key);
                removed = true;
            }
            Ok(removed)
        })
    }

    /// Changes a pod's entries. After an error nobody knows what the maps hold, and they are read again.
    fn change_exclusions(
        &mut self,
        cookie: u64,
        change: impl FnOnce(&mut Self, &mut Exclusions) -> Result<bool, KernelError>,
    ) -> Result<bool, KernelError> {
        let mut all = match self.exclusions.take() {
            Some(all) => all,
            None => self.exclusions()?,
        };
        let mut of_pod = all.remove(&cookie).unwrap_or_default();
        let changed = change(self, &mut of_pod)?;
        if !of_pod.ports.is_empty() || !of_pod.cidrs.is_empty() {
            all.insert(cookie, of_pod);
        }
        self.exclusions = Some(all);
        Ok(changed)
    }

    fn exclusions(&self) -> Result<HashMap<u64, Exclusions>, KernelError> {
        let mut all: HashMap<u64, Exclusions> = HashMap::new();
        let ports = entries::<PodPort, u8>(self.fds[0].as_fd(), "EXCLUDED_PORTS")?;
        for (key, _) in ports {
            // The port was made from 16 bits.
            all.entry(key.netns).or_default().ports.insert(key.port as u16);
        }
        let cidrs = entries::<Key<ExcludedCidr>, u8>(self.fds[1].as_fd(), "EXCLUDED_CIDRS")?;
        for (key, verdict) in cidrs {
            let (length, data) = (key.prefix_len(), key.data());
            all.entry(data.netns).or_default().cidrs.insert((length, data), verdict);
        }
        Ok(all)
    }
}

/// The members that another layout's agent has left in this pin directory.
pub fn members_of(directory: &Path) -> Result<Vec<u64>, KernelError> {
    let path = directory.join(MEMBERS);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let map = MapData::from_pin(path).map_err(failed(MEMBERS, "opened"))?;
    let members: BpfHashMap<_, u64, u8> = Map::HashMap(map).try_into().map_err(failed(MEMBERS, "opened"))?;
    members.keys().collect::<Result<_, _>>().map_err(failed(MEMBERS, "read"))
}

/// A map of the object, as what its keys and values are.
pub fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    map: &'static str,
) -> Result<T, KernelError> {
    take(ebpf, map)?.try_into().map_err(failed(map, "opened"))
}

pub fn take(ebpf: &mut Ebpf, map: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(map).ok_or(KernelError::Incomplete { what: "map", name: map })
}

/// A descriptor of a map, a hash or a trie, to read all of it by. To be asked for before the map is taken.
pub fn descriptor(ebpf: &Ebpf, map: &'static str) -> Result<OwnedFd, KernelError> {
    match ebpf.map(map) {
        Some(Map::HashMap(data) | Map::LpmTrie(data)) => {
            let owned = data.fd().as_fd().try_clone_to_owned();
            owned.map_err(|error| failed(map, "opened")(error.into()))
        }
        _ => Err(KernelError::Incomplete { what: "map", name: map }),
    }
}

/// All entries of a map, a hash or a trie.
pub fn entries<K: aya::Pod, V: aya::Pod>(
    fd: BorrowedFd,
    map: &'static str,
) -> Result<Vec<(K, V)>, KernelError> {
    sys::map_entries(fd).map_err(|error| failed(map, "read")(error.into()))
}

/// Whether the entry has exactly these addresses.
pub fn is_at(entry: &PodEntry, addresses: PodAddresses) -> bool {
    let PodAddresses { ipv4, ipv6 } = addresses;
    entry.ip4 == ipv4.map_or(0, to_ip4) && entry.ip6 == ipv6.map_or([0; 4], words)
}

fn entry(pod: &PodCapture, device: Option<PodDevice>) -> PodEntry {
    let mut flags = 0;
    if !pod.excluded_ports.is_empty() {
        flags |= HAS_EXCLUDED_PORTS;
    }
    if !pod.excluded_cidrs.is_empty() {
        flags |= HAS_EXCLUDED_CIDRS;
    }
    if pod.direct && device.is_some() {
        flags |= DIRECT;
    }
    if pod.fails_open {
        flags |= FAIL_OPEN;
    }
    PodEntry {
        ip4: pod.ipv4.map_or(0, to_ip4),
        ip6: pod.ipv6.map_or([0; 4], words),
        flags,
        device: peer_index(device),
    }
}

fn wanted_cidrs(cookie: u64, pod: &PodCapture) -> Cidrs {
    let keys = pod.excluded_cidrs.iter().map(|network| cidr_key(cookie, network));
    let mut cidrs: Cidrs = keys.map(|key| (key, cidr::EXCLUDED)).collect();
    let all_ipv4 = IpNet::V4(Ipv4Net::default());
    if pod.excluded_cidrs.iter().any(holds_mapped_ipv4) {
        cidrs.entry(cidr_key(cookie, &all_ipv4)).or_insert(cidr::CAPTURED);
    }
    cidrs
}

/// Whether an IPv6 network holds the IPv4-mapped addresses: `::/0` does.
fn holds_mapped_ipv4(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(network) if network.contains(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()))
        && network.prefix_len() < 96
}

fn port_key(cookie: u64, port: u16) -> PodPort {
    PodPort { netns: cookie, port: u32::from(port), zero: 0 }
}

/// The trie's prefix length, and its data.
fn cidr_key(cookie: u64, network: &IpNet) -> (u32, ExcludedCidr) {
    let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
    let length = ExcludedCidr::NETNS_BITS + mapped_bits + u32::from(network.prefix_len());
    // `network()`: host bits would make two keys of one network.
    let ip: IpAddr = network.network();
    (length, ExcludedCidr { netns: cookie, ip: to_ip(ip) })
}

/// A missing entry is no error.
pub fn found<T>(result: Result<T, MapError>, map: &'static str) -> Result<Option<T>, KernelError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(source) => Err(failed(map, "read or written")(source)),
    }
}

/// Makes an error of what an operation on a map has answered; a write that has failed is counted, too.
pub fn failed(map: &'static str, action: &'static str) -> impl Fn(MapError) -> KernelError {
    move |source| {
        if action == "written" {
            own_inserts::count(map);
        }
        KernelError::Map { map, action, source }
    }
}
