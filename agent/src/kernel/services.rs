//! Services with endpoints on this node: the connect hook chooses one of them by itself.

use super::KernelError;
use super::address::{from_address, to_address};
use super::tables::{failed, found, typed};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use pillion_ebpf_common::{Address, EndpointKey, Endpoints};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

/// The endpoints of each Service's port, by cluster IP and port.
pub type ServiceEndpoints = BTreeMap<SocketAddr, Vec<SocketAddr>>;

pub struct ServiceTables {
    services: BpfHashMap<MapData, Address, Endpoints>,
    endpoints: BpfHashMap<MapData, EndpointKey, Address>,
    /// What the tables hold, and under which name its list is.
    known: HashMap<SocketAddr, (u32, Vec<SocketAddr>)>,
    next_list: u32,
    /// `known` is all that there is: nothing of an earlier agent's, and nothing whose removal failed.
    is_known: bool,
    /// Lists may be there that no Service has any more.
    has_stale_lists: bool,
}

impl ServiceTables {
    /// What an earlier agent has left is in force until the first `set`.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let services: BpfHashMap<_, Address, Endpoints> = typed(ebpf, "SERVICES")?;
        let endpoints = typed(ebpf, "ENDPOINTS")?;
        let mut next_list = 0;
        for service in services.iter() {
            let (_, Endpoints { list, .. }) = service.map_err(failed("SERVICES", "read"))?;
            next_list = next_list.max(list.wrapping_add(1));
        }
        Ok(Self {
            services,
            endpoints,
            known: HashMap::new(),
            next_list,
            is_known: false,
            has_stale_lists: true,
        })
    }

    /// Makes the tables hold these Services and no others. A list that changes gets another name, so that a hook never
    /// sees half of two.
    ///
    /// # Errors
    ///
    /// The first one. A Service that cannot be written is removed, so that connections to it go by the worker, which knows its
    /// endpoints; all other Services are as they should be.
    pub fn set(&mut self, wanted: &ServiceEndpoints) -> Result<(), KernelError> {
        let mut failures = Vec::new();
        for (service, endpoints) in wanted {
            if self.known.get(service).is_some_and(|(_, known)| known == endpoints) {
                continue;
            }
            if let Err(error) = self.set_one(*service, endpoints) {
                failures.push(error);
                // Its former endpoints may be another pod's by now.
                failures.extend(self.remove(*service).err());
            }
        }
        for service in self.held()?.into_iter().filter(|service| !wanted.contains_key(service)) {
            failures.extend(self.remove(service).err());
        }
        // Whatever was another agent's is known now, or was removed.
        self.is_known |= failures.is_empty();
        failures.extend(self.remove_stale_lists().err());
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// The Services that are in the table. It is read only as long as an earlier agent's may be among them.
    fn held(&self) -> Result<Vec<SocketAddr>, KernelError> {
        if self.is_known {
            return Ok(self.known.keys().copied().collect());
        }
        let keys: Result<Vec<Address>, _> = self.services.keys().collect();
        Ok(keys.map_err(failed("SERVICES", "read"))?.iter().map(from_address).collect())
    }

    fn set_one(&mut self, service: SocketAddr, endpoints: &[SocketAddr]) -> Result<(), KernelError> {
        let list = self.next_list;
        self.next_list = self.next_list.wrapping_add(1);
        // Should it fail, what is written of the list is nobody's.
        self.has_stale_lists = true;
        for (index, endpoint) in (0..).zip(endpoints) {
            let key = EndpointKey { list, index };
            let address = to_address(*endpoint);
            self.endpoints.insert(key, address, 0).map_err(failed("ENDPOINTS", "written"))?;
        }
        let entry = Endpoints { list, count: endpoints.len() as u32 };
        self.services.insert(to_address(service), entry, 0).map_err(failed("SERVICES", "written"))?;
        self.known.insert(service, (list, endpoints.to_vec()));
        Ok(())
    }

    fn remove(&mut self, service: SocketAddr) -> Result<(), KernelError> {
        found(self.services.remove(&to_address(service)), "SERVICES")?;
        self.known.remove(&service);
        self.has_stale_lists = true;
        Ok(())
    }

    /// Removes the endpoints of lists that no Service has any more, an earlier agent's too.
    fn remove_stale_lists(&mut self) -> Result<(), KernelError> {
        if !self.has_stale_lists {
            return Ok(());
        }
        let lists: HashSet<u32> = self.known.values().map(|(list, _)| *list).collect();
        let keys: Result<Vec<EndpointKey>, _> = self.endpoints.keys().collect();
        for key in keys.map_err(failed("ENDPOINTS", "read"))? {
            if !lists.contains(&key.list) {
                found(self.endpoints.remove(&key), "ENDPOINTS")?;
            }
        }
        self.has_stale_lists = false;
        Ok(())
    }
}
