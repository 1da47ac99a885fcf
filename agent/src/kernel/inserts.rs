//! How many inserts into the maps have failed: the programs', as they count them, and the agent's own.

use super::KernelError;
use super::tables::{failed, typed};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use pillion_ebpf_common::table;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The agent's own, since it started. One for the process: workers write maps, too, and one agent has one kernel.
static OWN: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Counts an insert of the agent's that has failed.
pub fn count(map: &'static str) {
    *OWN.lock().unwrap_or_else(PoisonError::into_inner).entry(map).or_default() += 1;
}

/// The programs' counts.
pub struct FailedInserts {
    counts: PerCpuArray<MapData, u64>,
}

impl FailedInserts {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { counts: typed(ebpf, "INSERTS_FAILED")? })
    }

    /// By map: every one that programs write, and every other one that the agent could not write to.
    pub fn all(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        let mut all = OWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (number, map) in (0..).zip(table::NAMES) {
            let counts = self.counts.get(&number, 0).map_err(failed("INSERTS_FAILED", "read"))?;
            *all.entry(map).or_default() += counts.iter().sum::<u64>();
        }
        Ok(all)
    }
}
