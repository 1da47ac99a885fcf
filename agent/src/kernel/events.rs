//! What the hooks tell of direct connections: a ring buffer that is read now and then.
//!
//! Nobody is woken for an event: a reader that sleeps until there is one would be woken for every connection, and
//! that costs more than the event does.

use super::tables::{failed, typed};
use super::{KernelError, sys};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use pillion_ebpf_common::Event;

/// The reading end of the events. There is one: what it has read is gone.
pub struct Events {
    events: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl Events {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self { events: typed(ebpf, "EVENTS")?, lost: typed(ebpf, "LOST")? })
    }

    /// Reads what is there, in the order in which it happened.
    pub fn drain(&mut self, mut f: impl FnMut(&Event)) {
        while let Some(record) = self.events.next() {
            // Only a hook of another layout would write anything else, and it has a ring buffer of its own.
            if let Some(event) = sys::read(&record) {
                f(&event);
            }
        }
    }

    /// How many events have found no room since the ring buffer was made.
    pub fn lost(&self) -> Result<u64, KernelError> {
        let lost = self.lost.get(&0, 0).map_err(failed("LOST", "read"))?;
        Ok(lost.iter().sum())
    }
}
