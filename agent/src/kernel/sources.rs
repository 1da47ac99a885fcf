//! Who may connect in plain: lists of source networks, which pods and ports name by their numbers.
//!
//! What says the same is one list: a policy for all pods of a node is written once. A list never changes, so that a hook
//! sees all of it or all of another one: the table is written before anything names the list, and cleared after.

use super::KernelError;
use super::address::to_ip;
use super::tables::{descriptor, entries, failed, found, typed};
use crate::decide::SourceRules;
use aya::Ebpf;
use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pillion_ebpf_common::{Ip, Source, list, source};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};

pub struct SourceTable {
    sources: LpmTrie<MapData, Source, u8>,
    /// Of `sources`, to read them whole.
    fd: OwnedFd,
    /// The lists that are there, by number. An earlier agent's are among them, and those that its pods name although
    /// they are lost: their numbers are never given to others.
    lists: BTreeMap<u32, Networks>,
    /// The number that was given last.
    last: u32,
}

/// What a list holds: prefix length (IPv4 as IPv4-mapped IPv6) and address, and one of [`source`]'s values.
type Networks = BTreeMap<(u32, Ip), u8>;

impl SourceTable {
    /// `named` are the lists that are in use.
    pub fn take(ebpf: &mut Ebpf, named: BTreeSet<u32>) -> Result<Self, KernelError> {
        let fd = descriptor(ebpf, "SOURCES")?;
        let mut table =
            Self { fd, sources: typed(ebpf, "SOURCES")?, lists: BTreeMap::new(), last: list::NOBODY };
        table.lists = table.read()?;
        for number in named {
            table.lists.entry(number).or_default();
        }
        table.last = table.lists.keys().next_back().copied().unwrap_or_default().max(list::NOBODY);
        Ok(table)
    }

    /// The number of the list that says this. It is written if there is none yet.
    pub fn number(&mut self, rules: Option<&SourceRules>) -> Result<u32, KernelError> {
        let Some(rules) = rules else { return Ok(list::NONE) };
        let networks = networks(rules);
        if let Some((number, _)) = self.lists.iter().find(|(_, known)| **known == networks) {
            return Ok(*number);
        }
        let number = self.free_number();
        if let Err(error) = self.write(number, &networks) {
            self.clear(number, &networks)?;
            return Err(error);
        }
        self.lists.insert(number, networks);
        Ok(number)
    }

    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Removes the lists that nothing names.
    pub fn remove_others(&mut self, named: &BTreeSet<u32>) -> Result<(), KernelError> {
        let unused: Vec<u32> = self.lists.keys().filter(|number| !named.contains(number)).copied().collect();
        for number in unused {
            let networks = self.lists.remove(&number).unwrap_or_default();
            self.clear(number, &networks)?;
        }
        Ok(())
    }

    /// Makes the table hold the lists as they were written, and nothing else. Says which were not so.
    pub fn mend(&mut self) -> Result<BTreeSet<u32>, KernelError> {
        let nothing = Networks::new();
        let has = self.read()?;
        let mut wrong = BTreeSet::new();
        for (number, networks) in &has {
            let wanted = self.lists.get(number).unwrap_or(&nothing);
            for (length, ip) in networks.keys().filter(|network| !wanted.contains_key(network)) {
                found(self.sources.remove(&key(*number, *length, *ip)), "SOURCES")?;
                wrong.insert(*number);
            }
        }
        for (number, networks) in &self.lists {
            let has = has.get(number).unwrap_or(&nothing);
            for ((length, ip), verdict) in
                networks.iter().filter(|(network, verdict)| has.get(network) != Some(verdict))
            {
                let key = key(*number, *length, *ip);
                self.sources.insert(&key, *verdict, 0).map_err(failed("SOURCES", "written"))?;
                wrong.insert(*number);
            }
        }
        Ok(wrong)
    }

    fn read(&self) -> Result<BTreeMap<u32, Networks>, KernelError> {
        let mut lists: BTreeMap<u32, Networks> = BTreeMap::new();
        for (key, verdict) in entries::<Key<Source>, u8>(self.fd.as_fd(), "SOURCES")? {
            let Source { list, ip } = key.data();
            let length = key.prefix_len().saturating_sub(Source::LIST_BITS);
            lists.entry(list).or_default().insert((length, ip), verdict);
        }
        Ok(lists)
    }

    fn write(&mut self, number: u32, networks: &Networks) -> Result<(), KernelError> {
        for ((length, ip), verdict) in networks {
            let key = key(number, *length, *ip);
            self.sources.insert(&key, *verdict, 0).map_err(failed("SOURCES", "written"))?;
        }
        Ok(())
    }

    /// Those who may connect go first: a hook that still looks into the list may find nobody there, but never somebody
    /// who is only there because the part of the list that says otherwise is gone.
    fn clear(&mut self, number: u32, networks: &Networks) -> Result<(), KernelError> {
        for wanted in [source::ALLOWED, source::DENIED] {
            for ((length, ip), _) in networks.iter().filter(|(_, verdict)| **verdict == wanted) {
                found(self.sources.remove(&key(number, *length, *ip)), "SOURCES")?;
            }
        }
        Ok(())
    }

    /// No number is given again before all others were: a hook may have read it just now.
    fn free_number(&mut self) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(list::NOBODY + 1);
            if !self.lists.contains_key(&self.last) {
                return self.last;
            }
        }
    }
}

fn networks(rules: &SourceRules) -> Networks {
    let mut networks = Networks::new();
    // No packet comes from an IPv4-mapped address: what looks like one in the table is IPv4.
    for (network, may) in rules.iter().filter(|(network, _)| !is_mapped_ipv4(network)) {
        let verdict = if *may { source::ALLOWED } else { source::DENIED };
        let entry = networks.entry(place(network)).or_insert(verdict);
        // Two that differ in host bits only.
        *entry = verdict.min(*entry);
    }
    // `::/0` does not mean IPv4, although IPv4 is stored within it.
    networks.entry(place(&Ipv4Net::default().into())).or_insert(source::DENIED);
    networks
}

fn is_mapped_ipv4(network: &IpNet) -> bool {
    let mapped = Ipv6Net::new_assert(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
    matches!(network, IpNet::V6(network) if mapped.contains(network))
}

fn place(network: &IpNet) -> (u32, Ip) {
    let mapped_bits = if network.addr().is_ipv4() { 96 } else { 0 };
    (mapped_bits + u32::from(network.prefix_len()), to_ip(network.network()))
}

fn key(list: u32, length: u32, ip: Ip) -> Key<Source> {
    Key::new(Source::LIST_BITS + length, Source { list, ip })
}
