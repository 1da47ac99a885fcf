//! What the hooks know of this node's captured pods beside whom they capture: addresses, inbound modes, devices, counts.

use super::KernelError;
use super::address::{to_ip, to_ip4, words};
use super::capture::{PodCapture, PortRules};
use super::device::{PodDevice, peer_index};
use super::sources::SourceTable;
use super::tables::{descriptor, entries, failed, found, typed};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuHashMap, PerCpuValues};
use pillion_ebpf_common::{
    CountKey, Device, InboundPort, Ip, LocalPod, PodPort, Usage, count, inbound, list, local_flags,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

/// What has been counted of a pod since it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain connections that nobody attests, and that passed.
    pub passed: u64,
    /// Plain connections that were refused.
    pub refused: u64,
    /// Plain connections that policies do not allow.
    pub denied: u64,
    /// Packets that left the pod under an address that is not its own, and were dropped.
    pub foreign_source: u64,
    /// Packets of a direct connection that came by another way, and were dropped.
    pub forged: u64,
    /// Connections that were to be direct, that nothing attests, and that were refused.
    pub unattested: u64,
}

pub struct LocalTables {
    pods: BpfHashMap<MapData, Ip, LocalPod>,
    ports: BpfHashMap<MapData, PodPort, InboundPort>,
    /// Of `ports`, to read them whole.
    ports_fd: OwnedFd,
    sources: SourceTable,
    /// Lists of sources may be there that nothing names any more.
    has_stale_lists: bool,
    /// Why a list could not be written: nobody may connect where it would say who may.
    unwritten: Option<KernelError>,
    devices: BpfHashMap<MapData, u32, Device>,
    counts: PerCpuHashMap<MapData, CountKey, u64>,
    usage: BpfHashMap<MapData, u64, Usage>,
}

impl LocalTables {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let ports_fd = descriptor(ebpf, "INBOUND_PORTS")?;
        let (pods, ports) = (typed(ebpf, "LOCAL_PODS")?, typed(ebpf, "INBOUND_PORTS")?);
        let sources = SourceTable::take(ebpf, named_lists(&pods, &ports)?)?;
        Ok(Self {
            pods,
            ports,
            ports_fd,
            sources,
            has_stale_lists: true,
            unwritten: None,
            devices: typed(ebpf, "DEVICES")?,
            counts: typed(ebpf, "COUNTS")?,
            usage: typed(ebpf, "USAGE")?,
        })
    }

    /// Writes a pod down, with its device where the kernel owns its path. Says whether anything was not so before. What
    /// the pod has no more stays until [`LocalTables::remove_others`], which is to follow.
    ///
    /// Nothing falls open meanwhile: a hook decides by all that held of a port before, or by all that holds now. For a
    /// port's entry says all there is to say of it, and the pod's says it of all other ports; each is replaced as one,
    /// and what list of sources it names is written before. A port that differs gets its entry before the pod's changes,
    /// and one that differs no more loses it after (a hook that does not find it looks at the pod's once more).
    ///
    /// # Errors
    /// Those of the maps. Where ports find no room, the pod takes no plaintext at all until they do: which of its ports may be
    /// open is not known to the kernel.
    pub fn set_pod(
        &mut self,
        cookie: u64,
        pod: &PodCapture,
        device: Option<PodDevice>,
    ) -> Result<bool, KernelError> {
        let differing = pod.inbound.differing().into_iter();
        let ports: BTreeMap<u16, InboundPort> =
            differing.map(|(port, rules)| (port, self.inbound_port(rules))).collect();
        let others = self.inbound_port(pod.inbound.of_others());
        let mut changed = self.start_usage(cookie)?;
        match self.set_ports(cookie, &ports) {
            Ok(is_changed) => changed |= is_changed,
            Err(error) => {
                self.close_to_plaintext(cookie, pod, device)?;
                return Err(error);
            }
        }
        for what in 0..count::ALL {
            self.start_count(CountKey { netns: cookie, what, zero: 0 })?;
        }
        if let Some(device) = device {
            changed |= self.set_device(cookie, pod, device.peer)?;
        }
        let entry = local_pod(cookie, pod, device, others, !ports.is_empty());
        for ip in addresses(pod).map(to_ip) {
            if found(self.pods.get(&ip, 0), "LOCAL_PODS")? != Some(entry) {
                self.pods.insert(ip, entry, 0).map_err(failed("LOCAL_PODS", "written"))?;
                changed = true;
            }
        }
        self.has_stale_lists |= changed;
        Ok(changed)
    }

    /// Has the pod refuse all plaintext, on every port, whatever entries its ports have.
    fn close_to_plaintext(
        &mut self,
        cookie: u64,
        pod: &PodCapture,
        device: Option<PodDevice>,
    ) -> Result<(), KernelError> {
        let nobody = InboundPort { mode: inbound::REFUSE, sources: list::NOBODY, probed: 0 };
        let entry = local_pod(cookie, pod, device, nobody, false);
        for ip in addresses(pod).map(to_ip) {
            self.pods.insert(ip, entry, 0).map_err(failed("LOCAL_PODS", "written"))?;
        }
        self.has_stale_lists = true;
        Ok(())
    }

    /// Removes the addresses and ports that these pods have no more, in one look at the tables, and then the lists of
    /// sources that nothing names any more. Says whose there were. Pods of which `wanted` says nothing are left alone.
    ///
    /// Fails at last where a pod that was written down before has a list that found no room: as it is, nobody connects.
    pub fn remove_others<'a>(
        &mut self,
        wanted: impl Fn(u64) -> Option<&'a PodCapture>,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let mut had = BTreeSet::new();
        for (ip, netns) in self.owners()? {
            if wanted(netns).is_some_and(|pod| addresses(pod).all(|own| to_ip(own) != ip)) {
                found(self.pods.remove(&ip), "LOCAL_PODS")?;
                had.insert(netns);
            }
        }
        had.append(&mut self.remove_other_ports(&wanted)?);
        self.has_stale_lists |= !had.is_empty();
        self.remove_stale_lists()?;
        self.unwritten.take().map_or(Ok(had), Err)
    }

    /// Puts right what lists of sources are not as they were written. Says which.
    pub fn mend_lists(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        self.sources.mend()
    }

    /// The pod has left the mesh and lives on: nobody connects to it directly any more, its plaintext is its own
    /// business, and what is open goes on.
    pub fn release_pod(&mut self, cookie: u64) -> Result<(), KernelError> {
        for (ip, _) in self.owners()?.into_iter().filter(|(_, netns)| *netns == cookie) {
            let Some(entry) = found(self.pods.get(&ip, 0), "LOCAL_PODS")? else { continue };
            let entry = LocalPod {
                flags: local_flags::LEAVING,
                inbound: inbound::IGNORE,
                sources: list::NONE,
                ..entry
            };
            self.pods.insert(ip, entry, 0).map_err(failed("LOCAL_PODS", "written"))?;
        }
        let none = PodCapture::default();
        self.remove_other_ports(&|netns| (netns == cookie).then_some(&none))?;
        self.has_stale_lists = true;
        self.remove_stale_lists()
    }

    /// Removes all that is known of a pod.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<(), KernelError> {
        let none = PodCapture::default();
        self.remove_others(|netns| (netns == cookie).then_some(&none))?;
        self.remove_device(cookie)?;
        for what in 0..count::ALL {
            found(self.counts.remove(&CountKey { netns: cookie, what, zero: 0 }), "COUNTS")?;
        }
        found(self.usage.remove(&cookie), "USAGE").map(drop)
    }

    /// How many entries of the shared tables the pod has; `None` where it is not captured.
    pub fn usage(&self, cookie: u64) -> Result<Option<Usage>, KernelError> {
        found(self.usage.get(&cookie, 0), "USAGE")
    }

    /// The indices of the pod's veth: packets that pass there are looked at.
    pub fn devices_of(&self, cookie: u64) -> Result<Vec<u32>, KernelError> {
        let devices = self.devices()?.into_iter().filter(|(_, device)| device.netns == cookie);
        Ok(devices.map(|(index, _)| index).collect())
    }

    /// Forgets the pod's veth.
    pub fn remove_device(&mut self, cookie: u64) -> Result<(), KernelError> {
        for index in self.devices_of(cookie)? {
            found(self.devices.remove(&index), "DEVICES")?;
        }
        Ok(())
    }

    /// Every pod that any entry speaks of.
    pub fn known(&self) -> Result<BTreeSet<u64>, KernelError> {
        let mut known: BTreeSet<u64> = self.owners()?.into_iter().map(|(_, netns)| netns).collect();
        known.extend(self.devices()?.values().map(|device| device.netns));
        known.extend(self.all_ports()?.into_iter().map(|(port, _)| port.netns));
        for cookie in self.usage.keys() {
            known.insert(cookie.map_err(failed("USAGE", "read"))?);
        }
        Ok(known)
    }

    /// What has been counted of a pod.
    pub fn counts(&self, cookie: u64) -> Result<Counts, KernelError> {
        let sum = |what| {
            let values = found(self.counts.get(&CountKey { netns: cookie, what, zero: 0 }, 0), "COUNTS")?;
            Ok::<u64, KernelError>(values.map_or(0, |values| values.iter().sum()))
        };
        Ok(Counts {
            passed: sum(count::PLAIN)?,
            refused: sum(count::REFUSED)?,
            denied: sum(count::DENIED)?,
            foreign_source: sum(count::FOREIGN_SOURCE)?,
            forged: sum(count::FORGED)?,
            unattested: sum(count::UNATTESTED)?,
        })
    }

    /// Every address, with the netns cookie of its pod.
    fn owners(&self) -> Result<Vec<(Ip, u64)>, KernelError> {
        let owners = self.pods.iter().map(|entry| entry.map(|(ip, pod)| (ip, pod.netns)));
        owners.collect::<Result<_, _>>().map_err(failed("LOCAL_PODS", "read"))
    }

    fn all_ports(&self) -> Result<Vec<(PodPort, InboundPort)>, KernelError> {
        entries(self.ports_fd.as_fd(), "INBOUND_PORTS")
    }

    fn devices(&self) -> Result<BTreeMap<u32, Device>, KernelError> {
        self.devices.iter().collect::<Result<_, _>>().map_err(failed("DEVICES", "read"))
    }

    fn set_device(&mut self, cookie: u64, pod: &PodCapture, index: u32) -> Result<bool, KernelError> {
        let device = Device {
            netns: cookie,
            ip4: pod.ipv4.map_or(0, to_ip4),
            ip6: pod.ipv6.map_or([0; 4], words),
            zero: 0,
        };
        if found(self.devices.get(&index, 0), "DEVICES")? == Some(device) {
            return Ok(false);
        }
        self.devices.insert(index, device, 0).map_err(failed("DEVICES", "written"))?;
        Ok(true)
    }

    /// What the maps say of a port. A list that finds no room is nobody's: what policies allow no longer is not to pass
    /// because they cannot be written down.
    fn inbound_port(&mut self, rules: PortRules) -> InboundPort {
        let sources = self.sources.number(rules.sources).unwrap_or_else(|error| {
            self.unwritten = Some(error);
            list::NOBODY
        });
        InboundPort { mode: rules.mode.number(), sources, probed: rules.spares_node.into() }
    }

    fn set_ports(&mut self, cookie: u64, ports: &BTreeMap<u16, InboundPort>) -> Result<bool, KernelError> {
        let mut changed = false;
        for (port, entry) in ports {
            let key = PodPort { netns: cookie, port: u32::from(*port), zero: 0 };
            if found(self.ports.get(&key, 0), "INBOUND_PORTS")? != Some(*entry) {
                self.ports.insert(key, entry, 0).map_err(failed("INBOUND_PORTS", "written"))?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn remove_other_ports<'a>(
        &mut self,
        wanted: &impl Fn(u64) -> Option<&'a PodCapture>,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let mut had = BTreeSet::new();
        for (key, _) in self.all_ports()? {
            // The port was made from 16 bits.
            if wanted(key.netns).is_some_and(|pod| !pod.inbound.differs(key.port as u16)) {
                found(self.ports.remove(&key), "INBOUND_PORTS")?;
                had.insert(key.netns);
            }
        }
        Ok(had)
    }

    fn remove_stale_lists(&mut self) -> Result<(), KernelError> {
        if self.has_stale_lists && !self.sources.is_empty() {
            self.sources.remove_others(&named_lists(&self.pods, &self.ports)?)?;
        }
        self.has_stale_lists = false;
        Ok(())
    }

    /// The hooks write nothing to shared tables for a pod that has no entry. Says whether there was none.
    fn start_usage(&mut self, cookie: u64) -> Result<bool, KernelError> {
        if found(self.usage.get(&cookie, 0), "USAGE")?.is_some() {
            return Ok(false);
        }
        self.usage.insert(cookie, Usage::default(), 0).map_err(failed("USAGE", "written"))?;
        Ok(true)
    }

    /// The hooks add to what is there only.
    fn start_count(&mut self, key: CountKey) -> Result<(), KernelError> {
        if found(self.counts.get(&key, 0), "COUNTS")?.is_some() {
            return Ok(());
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed("COUNTS", "written")(error.into()))?;
        let zeroes = PerCpuValues::try_from(vec![0_u64; cpus])
            .map_err(|error| failed("COUNTS", "written")(error.into()))?;
        self.counts.insert(key, zeroes, 0).map_err(failed("COUNTS", "written"))
    }
}

fn addresses(pod: &PodCapture) -> impl Iterator<Item = IpAddr> {
    pod.ipv4.map(IpAddr::V4).into_iter().chain(pod.ipv6.map(IpAddr::V6))
}

/// The lists of sources that pods and ports name.
fn named_lists(
    pods: &BpfHashMap<MapData, Ip, LocalPod>,
    ports: &BpfHashMap<MapData, PodPort, InboundPort>,
) -> Result<BTreeSet<u32>, KernelError> {
    let pods =
        pods.iter().map(|entry| entry.map(|(_, pod)| pod.sources).map_err(failed("LOCAL_PODS", "read")));
    let ports = ports
        .iter()
        .map(|entry| entry.map(|(_, port)| port.sources).map_err(failed("INBOUND_PORTS", "read")));
    let is_list = |number: &u32| ![list::NONE, list::NOBODY].contains(number);
    Ok(pods.chain(ports).collect::<Result<BTreeSet<u32>, _>>()?.into_iter().filter(is_list).collect())
}

/// `others` is what holds on the ports without an entry of their own.
fn local_pod(
    cookie: u64,
    pod: &PodCapture,
    device: Option<PodDevice>,
    others: InboundPort,
    has_ports: bool,
) -> LocalPod {
    let mut flags = 0;
    if pod.direct && device.is_some() {
        flags |= local_flags::DIRECT;
    }
    if has_ports {
        flags |= local_flags::HAS_PORTS;
    }
    LocalPod {
        netns: cookie,
        device: peer_index(device),
        inbound: others.mode,
        flags,
        sources: others.sources,
    }
}
