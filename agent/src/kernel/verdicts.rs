//! Verdicts: what the agent has decided once, for the hooks to remember. One is worth something only under the
//! generation of policies that it was made under.

use super::address::to_ip;
use super::tables::{failed, found, typed};
use super::{KernelError, Pins};
use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData, MapError};
use pillion_ebpf_common::{Ip, LocalPod, Verdict, local_flags};
use std::net::SocketAddr;

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

    /// Puts the policies of this generation in force. Verdicts that `holds` under them go over into it, so that
    /// nobody is refused or slowed down in between; all others are void from the moment that it is in force.
    pub fn enforce(&mut self, policy: u64, holds: impl Fn(u64, u64, u16) -> bool) -> Result<(), KernelError> {
        let generation = self.base + policy;
        if self.generation.get(&0, 0).map_err(failed("GENERATION", "read"))? == generation {
            return Ok(());
        }
        let before: Result<Vec<Verdict>, _> = self.verdicts.keys().collect();
        let before = before.map_err(failed("VERDICTS", "read"))?;
        for verdict in &before {
            // The port was made from 16 bits.
            if holds(verdict.source, verdict.destination, verdict.port as u16) {
                let verdict = Verdict { generation, ..*verdict };
                self.verdicts.insert(verdict, PRESENT, 0).map_err(failed("VERDICTS", "written"))?;
            }
        }
        self.generation.set(0, generation, 0).map_err(failed("GENERATION", "written"))?;
        for verdict in before.iter().filter(|verdict| verdict.generation != generation) {
            found(self.verdicts.remove(verdict), "VERDICTS")?;
        }
        Ok(())
    }

    /// A handle for a worker, on descriptors of its own.
    pub fn table(&self, pins: &Pins) -> Result<VerdictTable, KernelError> {
        let open = |name: &'static str| MapData::from_pin(pins.path(name)).map_err(failed(name, "opened"));
        let typed = failed("VERDICTS", "opened");
        let verdicts: Result<_, MapError> = Map::LruHashMap(open("VERDICTS")?).try_into();
        let local_pods: Result<_, MapError> = Map::HashMap(open("LOCAL_PODS")?).try_into();
        Ok(VerdictTable {
            verdicts: verdicts.map_err(&typed)?,
            local_pods: local_pods.map_err(failed("LOCAL_PODS", "opened"))?,
            base: self.base,
        })
    }
}

impl VerdictTable {
    /// Lets the pod with this cookie connect to a local pod's address and port directly, under the policies of this
    /// generation. Without such a pod, or a path to it, or memory, there is no verdict: connections go by the worker.
    pub fn allow(&mut self, source: u64, destination: SocketAddr, policy: u64) {
        let Ok(pod) = self.local_pods.get(&to_ip(destination.ip()), 0) else { return };
        if pod.flags & local_flags::DIRECT == 0 {
            return;
        }
        let verdict = Verdict {
            source,
            destination: pod.netns,
            generation: self.base + policy,
            port: u32::from(destination.port()),
            zero: 0,
        };
        if let Err(error) = self.verdicts.insert(verdict, PRESENT, 0) {
            tracing::warn!("a verdict cannot be written: {error}");
        }
    }
}
