//! Verdicts: what the agent has decided once, for the hooks to remember. One is worth something only under the
//! generation that it was made under, and only a [`Permit`] makes one.

use super::address::to_ip;
use super::tables::{failed, found, is_at, typed};
use super::{KernelError, Pins};
use crate::decide::{Permit, PermittedPod};
use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError};
use pillion_ebpf_common::{Ip, LocalPod, PodEntry, Verdict, local_flags};

const PRESENT: u8 = 1;

/// The node core's side: it alone says which generation is in force.
pub struct Verdicts {
    generation: Array<MapData, u64>,
    verdicts: BpfHashMap<MapData, Verdict, u8>,
    /// Generations are never used twice, by no agent: this one's are above those of any before it.
    base: u64,
}

/// A worker's handle: it adds verdicts under the generation of the snapshot that it decided by.
pub struct VerdictTable {
    verdicts: BpfHashMap<MapData, Verdict, u8>,
    pods: BpfHashMap<MapData, u64, PodEntry>,
    local_pods: BpfHashMap<MapData, Ip, LocalPod>,
    base: u64,
}

impl Verdicts {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let generation: Array<_, u64> = typed(ebpf, "GENERATION")?;
        let verdicts = typed(ebpf, "VERDICTS")?;
        let base = generation.get(&0, 0).map_err(failed("GENERATION", "read"))? + 1;
        Ok(Self { generation, verdicts, base })
    }

    /// Puts this generation in force. Verdicts that `permit` still gives a permit for (client's and server's netns cookie,
    /// server's port) go over into it, so that nobody is refused or slowed down in between; all others are void from the
    /// moment that it is in force.
    ///
    /// A verdict that cannot be carried over is lost, and its connections go by mutual TLS: the generation comes into force
    /// all the same.
    ///
    /// # Errors
    /// When the generation could not be written. Then all verdicts are removed instead, as far as that is possible, and the
    /// caller has to try again until it holds.
    pub fn enforce(
        &mut self,
        generation: u64,
        permit: impl Fn(u64, u64, u16) -> Option<Permit>,
    ) -> Result<(), KernelError> {
        let in_force = self.base + generation;
        if self.generation.get(&0, 0).is_ok_and(|now| now == in_force) {
            return Ok(());
        }
        let (before, mut lost) = self.all();
        for verdict in &before {
            // The port was made from 16 bits.
            let permit = permit(verdict.source, verdict.destination, verdict.port as u16);
            let carried = permit.map(|permit| to_verdict(&permit, self.base));
            let Some(carried) = carried.filter(|carried| carried.generation == in_force) else { continue };
            lost = self.verdicts.insert(carried, PRESENT, 0).err().or(lost);
        }
        let written = self.generation.set(0, in_force, 0);
        // Under the new generation the former verdicts are worth nothing. Without it nobody is to go on by them.
        let is_void = |verdict: &&Verdict| written.is_err() || verdict.generation != in_force;
        for verdict in before.iter().filter(is_void) {
            match found(self.verdicts.remove(verdict), "VERDICTS") {
                Err(error) if written.is_err() => {
                    tracing::error!("a verdict of former policies cannot be removed: {error}");
                }
                _ => {}
            }
        }
        if let Some(error) = lost {
            tracing::warn!(
                "verdicts cannot be carried over into generation {in_force}, so that their connections go by mutual TLS: \
                 the map VERDICTS: {error}"
            );
        }
        written.map_err(failed("GENERATION", "written"))
    }

    /// A handle for a worker, on descriptors of its own.
    pub fn table(&self, pins: &Pins) -> Result<VerdictTable, KernelError> {
        let open = |name: &'static str| MapData::from_pin(pins.path(name)).map_err(failed(name, "opened"));
        let verdicts: Result<_, MapError> = Map::LruHashMap(open("VERDICTS")?).try_into();
        let pods: Result<_, MapError> = Map::HashMap(open("PODS")?).try_into();
        let local_pods: Result<_, MapError> = Map::HashMap(open("LOCAL_PODS")?).try_into();
        Ok(VerdictTable {
            verdicts: verdicts.map_err(failed("VERDICTS", "opened"))?,
            pods: pods.map_err(failed("PODS", "opened"))?,
            local_pods: local_pods.map_err(failed("LOCAL_PODS", "opened"))?,
            base: self.base,
        })
    }

    /// Every verdict that can be read, and why others cannot.
    fn all(&self) -> (Vec<Verdict>, Option<MapError>) {
        let mut unread = None;
        let readable =
            |verdict: Result<Verdict, MapError>| verdict.map_err(|error| unread = Some(error)).ok();
        let verdicts = self.verdicts.keys().map_while(readable).collect();
        (verdicts, unread)
    }
}

impl VerdictTable {
    /// Lets connections that are permitted go directly from now on, as long as the permit's generation is in force. Without
    /// memory, or where the kernel has other addresses for one of the pods than policies were asked about, or no path to the
    /// destination, there is no verdict: connections go by the worker.
    pub fn allow(&mut self, permit: &Permit) {
        if !self.is_as_asked(permit) {
            return;
        }
        if let Err(error) = self.verdicts.insert(to_verdict(permit, self.base), PRESENT, 0) {
            tracing::warn!("a verdict cannot be written, so that its connections go by mutual TLS: {error}");
        }
    }

    /// Whether the addresses that the kernel has for both pods are exactly those that policies were asked about, and all of
    /// the destination's have a path.
    fn is_as_asked(&self, permit: &Permit) -> bool {
        let destination = permit.destination();
        let is_path = |ip| {
            let pod = self.local_pods.get(&to_ip(ip), 0);
            pod.is_ok_and(|pod| pod.netns == destination.netns && pod.flags & local_flags::DIRECT != 0)
        };
        let is_captured =
            |pod: &PermittedPod| self.pods.get(&pod.netns, 0).is_ok_and(|entry| is_at(&entry, pod.addresses));
        [permit.source(), destination].iter().all(is_captured) && destination.addresses.iter().all(is_path)
    }
}

fn to_verdict(permit: &Permit, base: u64) -> Verdict {
    Verdict {
        source: permit.source().netns,
        destination: permit.destination().netns,
        generation: base + permit.generation(),
        port: u32::from(permit.port()),
        zero: 0,
    }
}
