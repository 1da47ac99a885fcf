//! The agent's only door to eBPF: loads the hooks, says whom they capture, keeps them right.
//!
//! What lives in the kernel outlives the agent: links and maps are pinned, so that captured pods fail closed while no
//! agent runs and the next one takes over where this one stopped. Nothing here decides who is captured, and nothing
//! here touches a connection's bytes.

mod address;
mod audit;
mod cgroup;
mod error;
mod events;
mod flows;
mod hook_log;
mod links;
mod pins;
mod preflight;
mod sock_diag;
mod sockets;
mod sys;
mod tables;
mod uninstall;

pub use address::{from_address, to_address};
pub use audit::Repair;
pub use error::KernelError;
pub use events::Events;
pub use flows::{AttestedFlow, FlowTable};
pub use sock_diag::{Bytes, OpenSocket, SockDiag, SockDiagError, Stage};
pub use sockets::SocketTable;
pub use sys::netns_cookie;
pub use tables::PodCapture;

use aya::maps::Map;
use aya::programs::{CgroupSockAddr, Program as AyaProgram, ProgramError, SockOps};
use aya::{Ebpf, EbpfLoader};
use cgroup::Cgroup;
use links::{HOOKS, Hook, Link, Program};
use pins::Pins;
use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use tables::Tables;

/// The eBPF programs, as the build script has built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pillion"));

/// What `Kernel::open` needs to know.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// The node's name: agents of several nodes may share one kernel.
    pub node: String,
    /// Where pins go. Mounted when it is no BPF file system.
    pub bpffs: PathBuf,
    /// Where the hooks are attached. None: the root that the agent's cgroup namespace shows.
    pub cgroup_root: Option<PathBuf>,
    /// Switches the hooks' log statements on, in a build that has them (feature `bpf-log`).
    pub log_hooks: bool,
}

/// The hooks in the kernel, and the tables they work by. Dropping it leaves both in place.
pub struct Kernel {
    ebpf: Ebpf,
    links: Vec<Link>,
    tables: Tables,
    /// The socket-local storage map.
    storage: OwnedFd,
    /// Pods of the mesh that cannot be served: the audit leaves them refused.
    refused: BTreeSet<u64>,
    cgroup: Cgroup,
    pins: Pins,
    #[cfg(feature = "bpf-log")]
    _log: Option<hook_log::HookLog>,
}

impl Kernel {
    /// Checks the machine, loads the programs and attaches them, or swaps them in behind the links that an earlier
    /// agent has pinned. Entries of an earlier agent stay (their pods fail closed) until [`Kernel::audit`] says which
    /// of them are stale.
    pub fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        #[cfg(not(feature = "bpf-log"))]
        hook_log::check(config.log_hooks)?;
        preflight::check()?;
        let cgroup = Cgroup::open(config.cgroup_root.as_deref())?;
        let pins = Pins::open(&config.bpffs, &config.node)?;

        let mut ebpf = load(&pins, config.log_hooks)?;
        #[cfg(feature = "bpf-log")]
        let log = config.log_hooks.then(|| hook_log::HookLog::start(&mut ebpf)).transpose()?;
        let mut tables = Tables::take(&mut ebpf)?;
        let storage = storage(&mut ebpf)?;

        // Whoever was in the mesh under another layout is refused from the moment these hooks are attached: between
        // the old hooks' end and the first capture nothing goes out in the clear.
        let replaced = pins.other_layouts()?;
        for directory in &replaced {
            for cookie in tables::members_of(directory)? {
                tables.add_member(cookie)?;
            }
        }
        let links = HOOKS
            .iter()
            .map(|hook| Link::establish(hook, &program(&ebpf, hook)?, &cgroup, &pins))
            .collect::<Result<_, _>>()?;
        for directory in &replaced {
            uninstall::layout(directory)?;
        }
        Ok(Self {
            ebpf,
            links,
            tables,
            storage,
            refused: BTreeSet::new(),
            cgroup,
            pins,
            #[cfg(feature = "bpf-log")]
            _log: log,
        })
    }

    /// Captures a pod, or changes how it is captured.
    pub fn capture(&mut self, cookie: u64, pod: &PodCapture) -> Result<(), KernelError> {
        self.tables.add_exclusions(cookie, pod)?;
        self.tables.set_pod(cookie, pod)?;
        self.tables.add_member(cookie)?;
        self.tables.remove_other_exclusions(cookie, pod)?;
        self.refused.remove(&cookie);
        Ok(())
    }

    /// Refuses a pod's new connections with EPERM: it belongs to the mesh and cannot be served.
    pub fn refuse(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.tables.add_member(cookie)?;
        self.tables.remove_pod(cookie)?;
        self.tables.remove_other_exclusions(cookie, &PodCapture::default())?;
        self.refused.insert(cookie);
        Ok(())
    }

    /// Lets a pod go: its next connection is plain. Membership goes before the entry, so that no connection is refused
    /// in between.
    pub fn release(&mut self, cookie: u64) -> Result<(), KernelError> {
        self.refused.remove(&cookie);
        self.tables.remove_member(cookie)?;
        self.tables.remove_pod(cookie)?;
        self.tables.remove_other_exclusions(cookie, &PodCapture::default())?;
        Ok(())
    }

    /// The netns cookies of the captured pods.
    pub fn captured(&self) -> Result<Vec<u64>, KernelError> {
        self.tables.pods()
    }

    /// A handle for a worker, on a descriptor of its own.
    pub fn sockets(&self) -> Result<SocketTable, KernelError> {
        let storage = self.storage.try_clone().map_err(|error| KernelError::Map {
            map: "SOCKETS",
            action: "opened once more",
            source: error.into(),
        })?;
        Ok(SocketTable::new(storage))
    }

    /// The hooks that are attached.
    pub fn links(&self) -> Vec<&'static str> {
        self.links.iter().map(|link| link.hook().name).collect()
    }

    /// Removes every link, map and pin of a node's agent, detaching links that a running agent still holds. Says what
    /// it removed. A bpffs that the agent has mounted stays, empty.
    pub fn uninstall(bpffs: &Path, node: &str) -> Result<Vec<String>, KernelError> {
        uninstall::node(bpffs, node)
    }
}

/// Loads programs and maps; pinned maps are used as they are.
fn load(pins: &Pins, log_hooks: bool) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for map in tables::MAPS {
        loader.map_pin_path(map, pins.path(map));
    }
    let mptcp = u8::from(preflight::tells_mptcp_sockets());
    loader.override_global("MPTCP", &mptcp, true);
    #[cfg(feature = "bpf-log")]
    let level = hook_log::level(log_hooks);
    #[cfg(feature = "bpf-log")]
    loader.override_global(aya_log::LEVEL, &level, false);
    #[cfg(not(feature = "bpf-log"))]
    let _ = log_hooks;

    let failed = |source| KernelError::Object { pins: pins.directory().to_owned(), source: Box::new(source) };
    let mut ebpf = loader.load(OBJECT).map_err(failed)?;
    for hook in &HOOKS {
        load_program(&mut ebpf, hook.program).map_err(|error| match error {
            LoadError::Missing => KernelError::Incomplete { what: "program", name: hook.program },
            LoadError::Refused(ProgramError::LoadError { io_error, verifier_log }) => {
                tracing::debug!(program = hook.program, %verifier_log, "refused by the verifier");
                KernelError::Verifier { program: hook.program, source: io_error }
            }
            LoadError::Refused(source) => {
                KernelError::Program { program: hook.program, source: Box::new(source) }
            }
        })?;
    }
    Ok(ebpf)
}

enum LoadError {
    Missing,
    Refused(ProgramError),
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing)?;
    let loaded = match program {
        AyaProgram::SockOps(_) => <&mut SockOps>::try_from(program).and_then(SockOps::load),
        _ => <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load),
    };
    loaded.map_err(LoadError::Refused)
}

/// The loaded program of a hook.
fn program<'a>(ebpf: &'a Ebpf, hook: &Hook) -> Result<Program<'a>, KernelError> {
    let failed = |source| KernelError::Program { program: hook.program, source: Box::new(source) };
    let program =
        ebpf.program(hook.program).ok_or(KernelError::Incomplete { what: "program", name: hook.program })?;
    let id = program.info().map_err(failed)?.id();
    Ok(Program { fd: program.fd().map_err(failed)?.as_fd(), id })
}

fn storage(ebpf: &mut Ebpf) -> Result<OwnedFd, KernelError> {
    const NAME: &str = "SOCKETS";
    let Map::SkStorage(map) = tables::take(ebpf, NAME)? else {
        return Err(KernelError::Incomplete { what: "map", name: NAME });
    };
    map.fd().as_fd().try_clone_to_owned().map_err(|error| KernelError::Map {
        map: NAME,
        action: "opened",
        source: error.into(),
    })
}
