//! What the hooks tell of direct connections, and of plain ones that were denied: ring buffers that are read now and
//! then.
//!
//! Nobody is woken for an event: a reader that sleeps until there is one would be woken for every connection, and
//! that costs more than the event does.

use super::tables::{failed, typed};
use super::{KernelError, sys};
use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use pillion_ebpf_common::{Denial, Event};
use std::marker::PhantomData;

/// The reading end of a ring buffer. There is one: what it has read is gone.
pub struct Events<E = Event> {
    events: RingBuf<MapData>,
    /// With its name.
    lost: (&'static str, PerCpuArray<MapData, u64>),
    _event: PhantomData<E>,
}

/// Plain connections that policies do not allow.
pub type Denials = Events<Denial>;

impl<E: aya::Pod> Events<E> {
    /// `events` and `lost` are the maps' names.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        events: &'static str,
        lost: &'static str,
    ) -> Result<Self, KernelError> {
        Ok(Self { events: typed(ebpf, events)?, lost: (lost, typed(ebpf, lost)?), _event: PhantomData })
    }

    /// Reads what is there, in the order in which it happened.
    pub fn drain(&mut self, mut f: impl FnMut(&E)) {
        while let Some(record) = self.events.next() {
            // Only a hook of another layout would write anything else, and it has a ring buffer of its own.
            if let Some(event) = sys::read(&record) {
                f(&event);
            }
        }
    }

    /// How many events have found no room since the ring buffer was made.
    pub fn lost(&self) -> Result<u64, KernelError> {
        let (name, lost) = &self.lost;
        let lost = lost.get(&0, 0).map_err(failed(name, "read"))?;
        Ok(lost.iter().sum())
    }
}
