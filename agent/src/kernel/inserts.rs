//! How many inserts into the maps have failed: the programs', as they count them, and the agent's own.

use super::KernelError;
use super::own_inserts;
use super::tables::{failed, typed};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use pillion_ebpf_common::table;
use std::collections::BTreeMap;

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
        let mut all = own_inserts::failed();
        for (number, map) in (0..).zip(table::NAMES) {
            let counts = self.counts.get(&number, 0).map_err(failed("INSERTS_FAILED", "read"))?;
            *all.entry(map).or_default() += counts.iter().sum::<u64>();
        }
        Ok(all)
    }
}
