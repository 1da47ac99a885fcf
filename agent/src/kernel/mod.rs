//! The agent's only door to eBPF: loads the hooks, says whom they capture, keeps them right.
//!
//! What lives in the kernel outlives the agent: links and maps are pinned, so that captured pods fail closed while no
//! agent runs and the next one takes over where this one stopped. Nothing here decides who is captured, and nothing
//! here touches a connection's bytes.

mod address;
mod audit;
mod capture;
mod cgroup;
mod collect;
mod device;
mod error;
mod events;
mod evidence;
mod flows;
mod guard;
mod hook_log;
mod inserts;
mod links;
mod local;
mod netlink;
mod node;
mod own_inserts;
mod path;
mod pins;
mod preflight;
mod services;
mod shares;
mod sock_diag;
mod sockets;
mod sources;
mod sys;
mod tables;
mod uninstall;
mod verdicts;

use crate::decide::Permit;
pub use crate::decide::SourceRules;
pub use address::{from_address, to_address};
pub use audit::{Incomplete, Repair};
pub use capture::{Inbound, InboundMode, PlainRules, PodCapture};
pub use collect::{Collector, Leftovers};
pub use device::{NoPath, PodDevice, addresses_in, node_addresses, pod_device};
pub use error::KernelError;
pub use events::{Denials, Events};
pub use evidence::{NetnsLife, netns_at, netns_cookie_at, open_netns};
pub use flows::{AttestedFlow, FlowEnd, FlowTable};
pub use guard::Unknown;
pub use local::Counts;
pub use node::{NodeFlowTable, Probes};
pub use path::{PathError, TrafficControl};
pub use pillion_ebpf_common::{Manner, Usage};
pub use pins::Claim;
pub use services::ServiceEndpoints;
pub use shares::Excess;
pub use sock_diag::{Bytes, OpenSocket, Opener, SockDiag, SockDiagError, Stage};
pub use sockets::{OriginalDestination, SocketTable, Tag};
pub use sys::{
    SocketMemory, free_heap_bytes, give_heap_back, inherited, monotonic, netns_cookie, socket_memory,
};
pub use verdicts::VerdictTable;

use aya::maps::Map;
use aya::programs::{
    CgroupSockAddr, Program as AyaProgram, ProgramError, SchedClassifier, SkLookup, SockOps,
};
use aya::{Ebpf, EbpfLoader};
use cgroup::Cgroup;
use collect::Handoffs;
use inserts::FailedInserts;
use links::{HOOKS, Hook, Link, Program};
use local::LocalTables;
use node::NodeTables;
use path::Path as PodPath;
use pins::{PinnedMaps, Pins};
use services::ServiceTables;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use tables::Tables;
use verdicts::Verdicts;

/// What is loaded beside the programs of [`HOOKS`].
const OTHER_PROGRAMS: [&str; 5] = ["guard_open", "guard_closed", "from_pod", "to_pod", flows::END_PROGRAM];

/// The eBPF programs, as the build script has built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pillion"));

/// What `Kernel::open` needs to know.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// The node's name: agents of several nodes may share one kernel.
    pub node: String,
    /// Where pins go.
    pub bpffs: PathBuf,
    /// One is mounted there when it is no BPF file system. Not by an agent that is a pod: its mounts end with it.
    pub mounts_bpffs: bool,
    /// Where the hooks are attached. None: the root that the agent's cgroup namespace shows.
    pub cgroup_root: Option<PathBuf>,
    /// Switches the hooks' log statements on, in a build that has them (feature `bpf-log`).
    pub log_hooks: bool,
    /// How programs are attached to the pods' veths.
    pub traffic_control: TrafficControl,
    /// How the guards know a kubelet's probe.
    pub probes: Probes,
    /// Maps that have another size than the programs give them, by name: tests fill them.
    pub map_sizes: Vec<(&'static str, u32)>,
}

/// The hooks in the kernel, and the tables they work by. Dropping it leaves both in place.
pub struct Kernel {
    ebpf: Ebpf,
    hooks: Vec<(&'static Hook, Link)>,
    /// The guards in the pods, by netns cookie.
    guards: HashMap<u64, (Link, Unknown)>,
    /// The programs at the pods' veths, by netns cookie.
    paths: HashMap<u64, PodPath>,
    traffic_control: TrafficControl,
    tables: Tables,
    local: LocalTables,
    node: NodeTables,
    failed_inserts: FailedInserts,
    verdicts: Verdicts,
    services: ServiceTables,
    /// The socket-local storage map.
    storage: OwnedFd,
    /// The workers' listeners for peers.
    hbone: OwnedFd,
    /// Pods of the mesh that cannot be served: the audit leaves them refused.
    refused: BTreeSet<u64>,
    /// Released pods whose veths still have our programs, for the direct connections that are open.
    leaving: BTreeSet<u64>,
    flows: FlowTable,
    handoffs: Handoffs,
    cgroup: Cgroup,
    pins: Pins,
    pinned: PinnedMaps,
    #[cfg(feature = "bpf-log")]
    _log: Option<hook_log::HookLog>,
}

impl Kernel {
    /// Checks the machine, loads the programs and attaches them, or swaps them in behind the links that an earlier
    /// agent has pinned. Entries of an earlier agent stay (their pods fail closed) until their pods are captured,
    /// refused, released or forgotten.
    ///
    /// # Errors
    /// [`KernelError::Held`] where another process has the node's pins, before anything is loaded; and whatever the machine
    /// lacks.
    pub fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        let cgroup = check(config)?;
        let claim = Claim::take(&config.bpffs, &config.node, config.mounts_bpffs)?;
        Self::attach(config, cgroup, claim, &[])
    }

    /// What can be said of the machine at once, without loading or making anything.
    pub fn check(config: &KernelConfig) -> Result<(), KernelError> {
        check(config).map(drop)
    }

    /// The same as [`Kernel::open`], for a process that has the node's pins already, and knows the netns cookies of the pods
    /// that an earlier agent has captured. If the kernel does not know them any more (somebody has removed the pins), they are
    /// refused from the hooks' first moment until they are captured again.
    pub fn open_claimed(config: &KernelConfig, claim: Claim, captured: &[u64]) -> Result<Self, KernelError> {
        Self::attach(config, check(config)?, claim, captured)
    }

    /// Whether [`Kernel::open`] would succeed on this machine: has the verifier judge the programs of this build, which are
    /// attached nowhere, with maps that end with this call. It neither needs nor touches the node's pins.
    ///
    /// # Errors
    /// Those of [`Kernel::open`], but for what belongs to pins that are there.
    pub fn rehearse(config: &KernelConfig) -> Result<(), KernelError> {
        check(config)?;
        pins::ensure_bpffs(&config.bpffs, config.mounts_bpffs)?;
        load(None, config).map(drop)
    }

    fn attach(
        config: &KernelConfig,
        cgroup: Cgroup,
        claim: Claim,
        captured: &[u64],
    ) -> Result<Self, KernelError> {
        let pins = Pins::open(claim)?;
        let knows_members = pins.has(tables::MEMBERS);
        let mut ebpf = load(Some(&pins), config)?;
        let pinned = PinnedMaps::open(&pins, &tables::MAPS)?;
        #[cfg(feature = "bpf-log")]
        let log = config.log_hooks.then(|| hook_log::HookLog::start(&mut ebpf)).transpose()?;
        let mut tables = Tables::take(&mut ebpf)?;
        let local = LocalTables::take(&mut ebpf)?;
        let node = NodeTables::take(&mut ebpf, probes_by_address(config.probes, &cgroup))?;
        let failed_inserts = FailedInserts::take(&mut ebpf)?;
        let verdicts = Verdicts::take(&mut ebpf)?;
        let services = ServiceTables::take(&mut ebpf)?;
        let flows = FlowTable::take(&mut ebpf)?;
        let handoffs = Handoffs::take(&mut ebpf)?;
        let storage = descriptor(&mut ebpf, "SOCKETS")?;
        let hbone = descriptor(&mut ebpf, "HBONE")?;

        // Whoever was in the mesh under another layout is refused from the moment these hooks are attached: between
        // the old hooks' end and the first capture nothing goes out in the clear.
        let replaced = pins.other_layouts()?;
        for directory in &replaced {
            for cookie in tables::members_of(directory)? {
                tables.add_member(cookie)?;
            }
        }
        if !knows_members {
            captured.iter().try_for_each(|cookie| tables.add_member(*cookie))?;
        }
        let hooks = HOOKS
            .iter()
            .map(|hook| Ok((hook, hook.establish(&program(&ebpf, hook.program)?, &cgroup, &pins)?)))
            .collect::<Result<_, KernelError>>()?;
        for directory in &replaced {
            guard::close(directory, &pins, &program(&ebpf, Unknown::Refuse.program())?)?;
            uninstall::layout(directory)?;
        }
        Ok(Self {
            ebpf,
            hooks,
            guards: HashMap::new(),
            paths: HashMap::new(),
            traffic_control: config.traffic_control,
            tables,
            local,
            node,
            failed_inserts,
            verdicts,
            services,
            storage,
            hbone,
            refused: BTreeSet::new(),
            leaving: BTreeSet::new(),
            flows,
            handoffs,
            cgroup,
            pins,
            pinned,
            #[cfg(feature = "bpf-log")]
            _log: log,
        })
    }

    /// Writes down what the guard needs to know of a pod that it does not guard yet: who talks to the pod from within is let
    /// in from the guard's first moment on. [`Kernel::guard`] and [`Kernel::capture`] are to follow.
    pub fn prepare(&mut self, cookie: u64, pod: &PodCapture) -> Result<(), KernelError> {
        if self.guards.contains_key(&cookie) {
            return Ok(());
        }
        self.write_local(cookie, &shares::within(pod))
    }

    /// Captures a pod, or changes how it is captured. What it takes from others comes first, so that no connection is
    /// decided by half of it. What it wants beyond its shares ([`PodCapture::excesses`]) it does without.
    pub fn capture(&mut self, cookie: u64, pod: &PodCapture) -> Result<(), KernelError> {
        let pod = &*shares::within(pod);
        self.write_local(cookie, pod)?;
        let device = self.device(cookie);
        self.tables.add_exclusions(cookie, pod)?;
        self.tables.begin(cookie)?;
        self.tables.set_pod(cookie, pod, device)?;
        self.tables.add_member(cookie)?;
        self.tables.remove_other_exclusions(cookie, pod)?;
        self.refused.remove(&cookie);
        self.leaving.remove(&cookie);
        Ok(())
    }

    /// Refuses a pod's new connections with EPERM: it belongs to the mesh and cannot be served.
    pub fn refuse(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.tables.add_member(cookie)?;
        self.tables.remove_pod(cookie)?;
        self.tables.remove_other_exclusions(cookie, &PodCapture::default())?;
        self.refused.insert(cookie);
        self.leaving.remove(&cookie);
        Ok(())
    }

    /// Whether the pod is refused, as [`Kernel::refuse`] does it.
    pub fn is_refused(&self, cookie: u64) -> bool {
        self.refused.contains(&cookie)
    }

    /// Lets a pod go that lives on: its next connection is plain, and what is open goes on. Membership goes before the
    /// entry, so that no connection is refused in between. Its veth's programs stay until the audit finds its last
    /// direct connection over.
    pub fn release(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.refused.remove(&cookie);
        self.tables.remove_member(cookie)?;
        self.tables.remove_pod(cookie)?;
        self.tables.remove_other_exclusions(cookie, &PodCapture::default())?;
        self.local.release_pod(cookie)?;
        self.leaving.insert(cookie);
        self.unguard(cookie)
    }

    /// Removes all that the kernel knows of a pod: it is gone, or the last of its direct connections is.
    pub fn forget(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.release(cookie)?;
        self.leaving.remove(&cookie);
        self.disown_path(cookie)?;
        self.local.remove_pod(cookie)
    }

    /// Takes the programs off the veth of a pod that stays in the mesh and is not direct any more, as soon as none of its
    /// direct connections is open: until then it does nothing, and is to be asked again.
    pub fn give_up_path(&mut self, cookie: u64, pod: &PodCapture) -> Result<(), KernelError> {
        // By the table: an earlier agent may have attached them.
        if self.local.devices_of(cookie)?.is_empty() || self.pods_with_flows()?.contains(&cookie) {
            return Ok(());
        }
        self.disown_path(cookie)?;
        self.local.remove_device(cookie)?;
        self.capture(cookie, pod)
    }

    /// Puts a generation (`Placement::generation`) in force: verdicts that there is a `permit` for under it (client's and
    /// server's netns cookie, server's port) stay, all others are void.
    ///
    /// # Errors
    /// When it is not in force. It is to be tried again until it is.
    pub fn enforce(
        &mut self,
        generation: u64,
        permit: impl Fn(u64, u64, u16) -> Option<Permit>,
    ) -> Result<(), KernelError> {
        let tables = &self.tables;
        let as_captured = |source, destination, port| {
            let asked = |pod| tables.has_addresses(&pod).unwrap_or(false);
            permit(source, destination, port)
                .filter(|permit| asked(permit.source()) && asked(permit.destination()))
        };
        self.verdicts.enforce(generation, as_captured)
    }

    /// The Services that the connect hook chooses an endpoint of by itself.
    pub fn set_services(&mut self, services: &ServiceEndpoints) -> Result<(), KernelError> {
        self.services.set(services)
    }

    /// The addresses that the kubelet may probe from. Does nothing where probes are known by the node's sockets.
    pub fn set_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), KernelError> {
        self.node.set_addresses(addresses)
    }

    /// Whether the node's addresses are enough for a probe, besides the node's own sockets.
    pub fn probes_by_address(&self) -> bool {
        self.node.by_address()
    }

    /// A handle on the connections that the node itself has opened to pods.
    pub fn node_flows(&self) -> NodeFlowTable {
        self.node.flows()
    }

    /// How many inserts into a map have failed, by map. Each is a connection that was refused, or something that the agent
    /// could not tell the hooks.
    pub fn failed_inserts(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        self.failed_inserts.all()
    }

    /// How many entries of the shared tables the pod has; `None` where it is not captured.
    pub fn usage(&self, cookie: u64) -> Result<Option<Usage>, KernelError> {
        self.local.usage(cookie)
    }

    /// What has been counted of a pod.
    pub fn counts(&self, cookie: u64) -> Result<Counts, KernelError> {
        self.local.counts(cookie)
    }

    fn write_local(&mut self, cookie: u64, pod: &PodCapture) -> Result<(), KernelError> {
        let device = self.device(cookie);
        self.local.set_pod(cookie, pod, device)?;
        self.local.remove_others(|netns| (netns == cookie).then_some(pod)).map(drop)
    }

    fn device(&self, cookie: u64) -> Option<PodDevice> {
        self.paths.get(&cookie).map(|path| path.device)
    }

    /// The netns cookies of the captured pods.
    pub fn captured(&self) -> Result<Vec<u64>, KernelError> {
        self.tables.pods()
    }

    /// A handle for a worker, on descriptors of its own.
    pub fn sockets(&self) -> Result<SocketTable, KernelError> {
        let copy = |map, fd: &OwnedFd| {
            let action = "opened once more";
            fd.try_clone().map_err(|error| KernelError::Map { map, action, source: error.into() })
        };
        Ok(SocketTable::new(copy("SOCKETS", &self.storage)?, copy("HBONE", &self.hbone)?))
    }

    /// A handle for a worker, on descriptors of its own.
    pub fn verdicts(&self) -> Result<VerdictTable, KernelError> {
        self.verdicts.table(&self.pins)
    }

    /// A handle on the direct connections.
    pub fn flows(&self) -> FlowTable {
        self.flows.clone()
    }

    /// The reading end of what the hooks tell of direct connections. There is one: what it has read is gone.
    pub fn events(&mut self) -> Result<Events, KernelError> {
        Events::take(&mut self.ebpf, "EVENTS", "LOST")
    }

    /// The reading end of what the guards tell of plain connections that policies do not allow. There is one, as above.
    pub fn denials(&mut self) -> Result<Denials, KernelError> {
        Denials::take(&mut self.ebpf, "DENIALS", "DENIALS_LOST")
    }

    /// The hooks that are attached.
    pub fn links(&self) -> Vec<&'static str> {
        self.hooks.iter().map(|(hook, _)| hook.name).collect()
    }

    /// Removes every link, map and pin of a node's agent, detaching links that another process still holds. Says what
    /// it removed. A bpffs that the agent has mounted stays, empty.
    ///
    /// # Errors
    /// [`KernelError::Held`] while the agent runs.
    pub fn uninstall(bpffs: &Path, node: &str) -> Result<Vec<String>, KernelError> {
        uninstall::node(bpffs, node)
    }
}

/// What the machine has to have, before anything is made.
fn check(config: &KernelConfig) -> Result<Cgroup, KernelError> {
    #[cfg(not(feature = "bpf-log"))]
    hook_log::check(config.log_hooks)?;
    preflight::check()?;
    Cgroup::open(config.cgroup_root.as_deref())
}

/// Loads programs and maps; pinned maps are used as they are. Without pins the maps end with what is returned.
fn load(pins: Option<&Pins>, config: &KernelConfig) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for (map, size) in &config.map_sizes {
        loader.map_max_entries(map, *size);
    }
    if let Some(pins) = pins {
        for map in tables::MAPS {
            loader.map_pin_path(map, pins.path(map));
        }
    }
    let mptcp = u8::from(preflight::tells_mptcp_sockets());
    loader.override_global("MPTCP", &mptcp, true);
    let ingress = u8::from(preflight::tells_ingress_device());
    loader.override_global("INGRESS", &ingress, true);
    #[cfg(feature = "bpf-log")]
    let level = hook_log::level(config.log_hooks);
    #[cfg(feature = "bpf-log")]
    loader.override_global(aya_log::LEVEL, &level, false);

    let maps =
        || pins.map_or("not pinned".into(), |pins| format!("pinned in {}", pins.directory().display()));
    let failed = |source| KernelError::Object { maps: maps(), source: Box::new(source) };
    let mut ebpf = loader.load(OBJECT).map_err(failed)?;
    for program in HOOKS.iter().map(|hook| hook.program).chain(OTHER_PROGRAMS) {
        load_program(&mut ebpf, program).map_err(|error| match error {
            LoadError::Missing => KernelError::Incomplete { what: "program", name: program },
            LoadError::Refused(ProgramError::LoadError { io_error, verifier_log }) => {
                tracing::debug!(program, %verifier_log, "refused by the verifier");
                KernelError::Verifier { program, source: io_error }
            }
            LoadError::Refused(source) => KernelError::Program { program, source: Box::new(source) },
        })?;
    }
    Ok(ebpf)
}

/// Below the root of the whole hierarchy there may be processes of the node's that the hooks do not see: its kubelet above
/// all. The kernel gives that root the first inode number.
fn probes_by_address(probes: Probes, cgroup: &Cgroup) -> bool {
    const ROOT: u64 = 1;
    match probes {
        Probes::Auto => cgroup.id() != ROOT,
        Probes::Attested => false,
        Probes::Addresses => true,
    }
}

enum LoadError {
    Missing,
    Refused(ProgramError),
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing)?;
    let loaded = match program {
        AyaProgram::SockOps(_) => <&mut SockOps>::try_from(program).and_then(SockOps::load),
        AyaProgram::SkLookup(_) => <&mut SkLookup>::try_from(program).and_then(SkLookup::load),
        AyaProgram::SchedClassifier(_) => {
            <&mut SchedClassifier>::try_from(program).and_then(SchedClassifier::load)
        }
        _ => <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load),
    };
    loaded.map_err(LoadError::Refused)
}

/// A loaded program.
fn program<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<Program<'a>, KernelError> {
    let failed = |source| KernelError::Program { program: name, source: Box::new(source) };
    let program = ebpf.program(name).ok_or(KernelError::Incomplete { what: "program", name })?;
    let id = program.info().map_err(failed)?.id();
    Ok(Program { name, fd: program.fd().map_err(failed)?.as_fd(), id })
}

/// A descriptor of a map that is written by system calls of our own.
fn descriptor(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let (Map::SkStorage(map) | Map::SockHash(map)) = tables::take(ebpf, name)? else {
        return Err(KernelError::Incomplete { what: "map", name });
    };
    map.fd().as_fd().try_clone_to_owned().map_err(|error| KernelError::Map {
        map: name,
        action: "opened",
        source: error.into(),
    })
}
