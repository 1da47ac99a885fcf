//! Takes out of the shared tables what nothing stands behind any more: the kernel tells programs of a socket's end, unless
//! another project's program has switched that off, or the socket's namespace died with the entry still to come.

use super::tables::{failed, found, typed};
use super::{Kernel, KernelError};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use pillion_ebpf_common::{HandoffKey, SocketRecord};
use std::collections::BTreeSet;

/// The map `HANDOFF`, to take entries out.
pub struct Handoffs {
    handoffs: BpfHashMap<MapData, HandoffKey, SocketRecord>,
}

impl Handoffs {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { handoffs: typed(ebpf, "HANDOFF")? })
    }

    /// Removes the entries of all network namespaces but these.
    fn keep(&mut self, known: &BTreeSet<u64>) -> Result<(), KernelError> {
        let keys: Result<Vec<HandoffKey>, _> = self.handoffs.keys().collect();
        let keys = keys.map_err(failed("HANDOFF", "read"))?;
        for key in keys.iter().filter(|key| !known.contains(&key.netns)) {
            found(self.handoffs.remove(key), "HANDOFF")?;
        }
        Ok(())
    }
}

impl Kernel {
    /// Takes out what pods have left that no table knows any more: their namespaces are gone, or they have left the mesh
    /// and none of their connections was open. A connection goes with its last end: while the other pod's socket is there,
    /// the entry leads its packets.
    pub fn collect(&mut self) -> Result<(), KernelError> {
        let known: BTreeSet<u64> = self.tables.known()?.into_iter().chain(self.local.known()?).collect();
        self.handoffs.keep(&known)?;
        for end in self.flows.ends(|netns| !known.contains(&netns))? {
            self.flows.end(&end)?;
        }
        Ok(())
    }
}
