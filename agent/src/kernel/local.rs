//! What the hooks know of this node's captured pods beside whom they capture: addresses, inbound modes, devices, counts.

use super::KernelError;
use super::address::{to_ip, to_ip4, words};
use super::capture::{Inbound, PodCapture};
use super::device::{PodDevice, peer_index};
use super::tables::{failed, found, typed};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData, PerCpuHashMap, PerCpuValues};
use pillion_ebpf_common::{CountKey, Device, Ip, LocalPod, PodPort, count, inbound, local_flags};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What has been counted of a pod since it was captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain connections that nobody attests, and that passed.
    pub passed: u64,
    /// Plain connections that were refused.
    pub refused: u64,
    /// Packets that left the pod under an address that is not its own, and were dropped.
    pub foreign_source: u64,
    /// Packets of a direct connection that came by another way, and were dropped.
    pub forged: u64,
}

const PRESENT: u8 = 1;

pub struct LocalTables {
    pods: BpfHashMap<MapData, Ip, LocalPod>,
    ports: BpfHashMap<MapData, PodPort, u32>,
    node: BpfHashMap<MapData, Ip, u8>,
    devices: BpfHashMap<MapData, u32, Device>,
    counts: PerCpuHashMap<MapData, CountKey, u64>,
}

impl LocalTables {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            pods: typed(ebpf, "LOCAL_PODS")?,
            ports: typed(ebpf, "INBOUND_PORTS")?,
            node: typed(ebpf, "NODE_ADDRESSES")?,
            devices: typed(ebpf, "DEVICES")?,
            counts: typed(ebpf, "COUNTS")?,
        })
    }

    /// Writes a pod down, with its device where the kernel owns its path. Says whether anything was not so before. What
    /// the pod has no more stays, see [`LocalTables::remove_others`].
    pub fn set_pod(
        &mut self,
        cookie: u64,
        pod: &PodCapture,
        device: Option<PodDevice>,
    ) -> Result<bool, KernelError> {
        let mut changed = self.set_ports(cookie, &pod.inbound)?;
        for what in 0..count::ALL {
            self.start_count(CountKey { netns: cookie, what, zero: 0 })?;
        }
        if let Some(device) = device {
            changed |= self.set_device(cookie, pod, device.peer)?;
        }
        let entry = local_pod(cookie, pod, device);
        for ip in addresses(pod).map(to_ip) {
            if found(self.pods.get(&ip, 0), "LOCAL_PODS")? != Some(entry) {
                self.pods.insert(ip, entry, 0).map_err(failed("LOCAL_PODS", "written"))?;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Removes the addresses and ports that these pods have no more, in one look at the tables. Says whose there were.
    /// Pods of which `wanted` says nothing are left alone.
    pub fn remove_others<'a>(
        &mut self,
        wanted: impl Fn(u64) -> Option<&'a PodCapture>,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let mut had = self.remove_other_ports(&wanted)?;
        for (ip, netns) in self.owners()? {
            if wanted(netns).is_some_and(|pod| addresses(pod).all(|own| to_ip(own) != ip)) {
                found(self.pods.remove(&ip), "LOCAL_PODS")?;
                had.insert(netns);
            }
        }
        Ok(had)
    }

    /// The pod has left the mesh and lives on: nobody connects to it directly any more, its plaintext is its own
    /// business, and what is open goes on.
    pub fn release_pod(&mut self, cookie: u64) -> Result<(), KernelError> {
        for (ip, _) in self.owners()?.into_iter().filter(|(_, netns)| *netns == cookie) {
            let Some(entry) = found(self.pods.get(&ip, 0), "LOCAL_PODS")? else { continue };
            let entry = LocalPod { flags: 0, inbound: inbound::IGNORE, ..entry };
            self.pods.insert(ip, entry, 0).map_err(failed("LOCAL_PODS", "written"))?;
        }
        let none = PodCapture::default();
        self.remove_other_ports(&|netns| (netns == cookie).then_some(&none)).map(drop)
    }

    /// Removes all that is known of a pod.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<(), KernelError> {
        let none = PodCapture::default();
        self.remove_others(|netns| (netns == cookie).then_some(&none))?;
        self.remove_device(cookie)?;
        for what in 0..count::ALL {
            found(self.counts.remove(&CountKey { netns: cookie, what, zero: 0 }), "COUNTS")?;
        }
        Ok(())
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
        for port in self.ports.keys() {
            known.insert(port.map_err(failed("INBOUND_PORTS", "read"))?.netns);
        }
        Ok(known)
    }

    /// The netns cookie of the pod that has an address.
    pub fn owner(&self, ip: IpAddr) -> Result<Option<u64>, KernelError> {
        Ok(found(self.pods.get(&to_ip(ip), 0), "LOCAL_PODS")?.map(|pod| pod.netns))
    }

    pub fn set_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        let has: Result<BTreeSet<Ip>, _> = self.node.keys().collect();
        let has = has.map_err(failed("NODE_ADDRESSES", "read"))?;
        let wanted: BTreeSet<Ip> = addresses.iter().map(|ip| to_ip(*ip)).collect();
        for ip in wanted.difference(&has) {
            self.node.insert(ip, PRESENT, 0).map_err(failed("NODE_ADDRESSES", "written"))?;
        }
        for ip in has.difference(&wanted) {
            found(self.node.remove(ip), "NODE_ADDRESSES")?;
        }
        Ok(())
    }

    pub fn counts(&self, cookie: u64) -> Result<Counts, KernelError> {
        let sum = |what| {
            let values = found(self.counts.get(&CountKey { netns: cookie, what, zero: 0 }, 0), "COUNTS")?;
            Ok::<u64, KernelError>(values.map_or(0, |values| values.iter().sum()))
        };
        Ok(Counts {
            passed: sum(count::PLAIN)?,
            refused: sum(count::REFUSED)?,
            foreign_source: sum(count::FOREIGN_SOURCE)?,
            forged: sum(count::FORGED)?,
        })
    }

    /// Every address, with the netns cookie of its pod.
    fn owners(&self) -> Result<Vec<(Ip, u64)>, KernelError> {
        let owners = self.pods.iter().map(|entry| entry.map(|(ip, pod)| (ip, pod.netns)));
        owners.collect::<Result<_, _>>().map_err(failed("LOCAL_PODS", "read"))
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

    fn set_ports(&mut self, cookie: u64, inbound: &Inbound) -> Result<bool, KernelError> {
        let mut changed = false;
        for (port, mode) in &inbound.ports {
            let key = PodPort { netns: cookie, port: u32::from(*port), zero: 0 };
            if found(self.ports.get(&key, 0), "INBOUND_PORTS")? != Some(mode.number()) {
                self.ports.insert(key, mode.number(), 0).map_err(failed("INBOUND_PORTS", "written"))?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn remove_other_ports<'a>(
        &mut self,
        wanted: &impl Fn(u64) -> Option<&'a PodCapture>,
    ) -> Result<BTreeSet<u64>, KernelError> {
        let keys: Result<Vec<PodPort>, _> = self.ports.keys().collect();
        let mut had = BTreeSet::new();
        for key in keys.map_err(failed("INBOUND_PORTS", "read"))? {
            // The port was made from 16 bits.
            if wanted(key.netns).is_some_and(|pod| !pod.inbound.ports.contains_key(&(key.port as u16))) {
                found(self.ports.remove(&key), "INBOUND_PORTS")?;
                had.insert(key.netns);
            }
        }
        Ok(had)
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

fn local_pod(cookie: u64, pod: &PodCapture, device: Option<PodDevice>) -> LocalPod {
    let mut flags = 0;
    if pod.direct && device.is_some() {
        flags |= local_flags::DIRECT;
    }
    if !pod.inbound.ports.is_empty() {
        flags |= local_flags::HAS_PORTS;
    }
    LocalPod {
        netns: cookie,
        device: peer_index(device),
        inbound: pod.inbound.default.number(),
        flags,
        zero: 0,
    }
}
