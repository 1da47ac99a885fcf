//! Takes out of the shared tables what nothing stands behind any more: the kernel tells programs of a socket's end, unless
//! another project's program has switched that off, or the socket's namespace died with the entry still to come.

use super::tables::{failed, found, typed};
use super::{FlowEnd, FlowTable, Kernel, KernelError};
use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use pillion_ebpf_common::{HandoffKey, SocketRecord};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Entries that are taken out at a time: some 10 ms. The rest goes the next time.
const AT_A_TIME: usize = 4096;

/// The map `HANDOFF`. Clones share it.
#[derive(Clone)]
pub struct Handoffs(Arc<Mutex<BpfHashMap<MapData, HandoffKey, SocketRecord>>>);

impl Handoffs {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self(Arc::new(Mutex::new(typed(ebpf, "HANDOFF")?))))
    }

    fn lock(&self) -> MutexGuard<'_, BpfHashMap<MapData, HandoffKey, SocketRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks through the shared tables, which takes 2 µs an entry: on a thread that nobody waits for.
pub struct Collector {
    flows: FlowTable,
    handoffs: Handoffs,
    known: BTreeSet<u64>,
}

/// What pods have left that no table knew when it was looked for.
pub struct Leftovers {
    handoffs: Vec<HandoffKey>,
    ends: Vec<FlowEnd>,
}

impl Collector {
    /// What no known pod's is, and the ends of open connections of the pods that `concerns` takes.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn look(&self, concerns: impl Fn(u64) -> bool) -> Result<(Leftovers, Vec<FlowEnd>), KernelError> {
        let is_known = |netns: &u64| self.known.contains(netns);
        let mut handoffs = vec![];
        for key in self.handoffs.lock().keys() {
            let key = key.map_err(failed("HANDOFF", "read"))?;
            if !is_known(&key.netns) {
                handoffs.push(key);
            }
        }
        let ends = self.flows.ends(|netns| concerns(netns) || !is_known(&netns))?;
        let (known, unknown) = ends.into_iter().partition(|end| is_known(&end.netns));
        Ok((Leftovers { handoffs, ends: unknown }, known))
    }
}

impl Kernel {
    /// To look for what pods have left.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn collector(&self) -> Result<Collector, KernelError> {
        Ok(Collector { flows: self.flows.clone(), handoffs: self.handoffs.clone(), known: self.known()? })
    }

    /// Takes out what pods have left that no table knows any more: their namespaces are gone, or they have left the mesh
    /// and none of their connections was open. A connection goes with its last end: while the other pod's socket is there,
    /// the entry leads its packets.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    pub fn take_out(&mut self, leftovers: &Leftovers) -> Result<(), KernelError> {
        if leftovers.handoffs.is_empty() && leftovers.ends.is_empty() {
            return Ok(());
        }
        // A pod may have come into the mesh since.
        let known = self.known()?;
        let mut handoffs = self.handoffs.lock();
        for key in leftovers.handoffs.iter().filter(|key| !known.contains(&key.netns)).take(AT_A_TIME) {
            found(handoffs.remove(key), "HANDOFF")?;
        }
        drop(handoffs);
        for end in leftovers.ends.iter().filter(|end| !known.contains(&end.netns)).take(AT_A_TIME) {
            self.flows.end(end)?;
        }
        Ok(())
    }

    /// The netns cookies of all pods that the tables speak of.
    pub(super) fn known(&self) -> Result<BTreeSet<u64>, KernelError> {
        Ok(self.tables.known()?.into_iter().chain(self.local.known()?).collect())
    }
}
