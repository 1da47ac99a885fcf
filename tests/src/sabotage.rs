//! What others with root on a node can do to an agent, and what it leaves when it is gone.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use aya::programs::links::{LinkInfo, LinkType};
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramInfo, SchedClassifier, loaded_links, loaded_programs};
use nix::sys::socket::{Shutdown, shutdown};
use pillion_ebpf_common::PodEntry;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::agent::Agent;
use crate::node::Node;
use crate::pod::Pod;

/// What an agent holds in the kernel, by the kernel's own numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KernelObjects {
    pub links: BTreeSet<u32>,
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
}

impl Agent {
    /// Deletes the pod's entry from the hooks' map of captured pods.
    pub fn delete_entry(&self, pod: &Pod) -> Result<()> {
        let cookie = self.worker(pod)?.and_then(|worker| worker["netns_cookie"].as_u64());
        let cookie = cookie.with_context(|| format!("{} has no worker", pod.name()))?;
        let path = find(&self.pin_dir(), "PODS")?;
        let map = Map::HashMap(
            MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?,
        );
        HashMap::<_, u64, PodEntry>::try_from(map)?.remove(&cookie).context("no such entry")
    }

    /// Detaches a hook's link, which its pin keeps: `connect4`.
    pub fn detach_hook(&self, hook: &str) -> Result<()> {
        let pin = find(&self.pin_dir(), &format!("link_{hook}"))?;
        let shown = self.node().command("bpftool").args(["-j", "link", "show", "pinned"]).arg(&pin).run()?;
        let link: serde_json::Value = serde_json::from_str(&shown).context("bpftool tells no JSON")?;
        let id = link["id"].as_u64().context("bpftool tells no id of the link")?;
        self.node().command("bpftool").args(["link", "detach", "id", &id.to_string()]).run().map(drop)
    }

    /// Has every write to one of the agent's maps fail from now on.
    pub fn freeze_map(&self, map: &str) -> Result<()> {
        let pin = find(&self.pin_dir(), map)?;
        self.node().command("bpftool").args(["map", "freeze", "pinned"]).arg(&pin).run().map(drop)
    }

    /// Fills one of the agent's hash maps with entries that mean nothing, until it takes no more.
    pub fn fill_map<K: aya::Pod, V: aya::Pod>(
        &self,
        map: &str,
        value: V,
        key: impl Fn(u32) -> K,
    ) -> Result<FullMap<K, V>> {
        let pin = find(&self.pin_dir(), map)?;
        let map =
            Map::HashMap(MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))?);
        let mut full = FullMap { map: HashMap::try_from(map)?, keys: Vec::new() };
        for key in (0..).map(key) {
            if full.map.insert(key, value, 0).is_err() {
                break;
            }
            full.keys.push(key);
        }
        ensure!(!full.keys.is_empty(), "the map takes nothing");
        Ok(full)
    }

    fn pin_dir(&self) -> PathBuf {
        self.node().shared.bpffs().join("pillion").join(self.node().name())
    }

    /// The netns cookies of the pods that the hooks have for members of the mesh.
    pub fn members(&self) -> Result<BTreeSet<u64>> {
        let path = find(&self.pin_dir(), "MEMBERS")?;
        let map = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let members = HashMap::<_, u64, u8>::try_from(Map::HashMap(map))?;
        members.keys().collect::<Result<_, _>>().context("MEMBERS cannot be read")
    }

    /// Lets the worker's listeners on the port listen no more, as anyone can who has the same file descriptors.
    pub fn break_listeners(&self, pod: &Pod, port: u16) -> Result<()> {
        let inodes = pod.visit(|| listeners(port))?;
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a pid is positive")?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let mut broken = 0;
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid()))? {
            let entry = entry?;
            // Descriptors come and go while they are listed.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            if inodes.iter().any(|inode| target == Path::new(&format!("socket:[{inode}]"))) {
                let number = entry.file_name().to_string_lossy().parse()?;
                let listener = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
                shutdown(listener.as_raw_fd(), Shutdown::Both)?;
                broken += 1;
            }
        }
        ensure!(broken > 0, "the agent has no listener on port {port} of {}", pod.name());
        Ok(())
    }

    /// The links, programs and maps that its file descriptors hold (proc_pid_fdinfo(5)).
    pub fn kernel_objects(&self) -> Result<KernelObjects> {
        let mut held = KernelObjects::default();
        for entry in fs::read_dir(format!("/proc/{}/fdinfo", self.pid()))? {
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            let number = |field: &str| {
                text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<u32>().ok())
            };
            held.links.extend(number("link_id:"));
            held.programs.extend(number("prog_id:"));
            held.maps.extend(number("map_id:"));
        }
        Ok(held)
    }
}

/// A map that is full of what means nothing.
pub struct FullMap<K: aya::Pod, V: aya::Pod> {
    map: HashMap<MapData, K, V>,
    keys: Vec<K>,
}

impl<K: aya::Pod, V: aya::Pod> FullMap<K, V> {
    /// Takes out again what it was filled with.
    pub fn empty(mut self) -> Result<()> {
        for key in &self.keys {
            self.map.remove(key).context("an entry cannot be removed")?;
        }
        Ok(())
    }
}

impl KernelObjects {
    /// Those that the kernel still has.
    pub fn alive(&self) -> Result<Self> {
        let links = listed(loaded_links())?.iter().map(LinkInfo::id).collect();
        let programs = listed(loaded_programs())?.iter().map(ProgramInfo::id).collect();
        let maps = listed(loaded_maps())?.iter().map(MapInfo::id).collect();
        Ok(Self {
            links: &self.links & &links,
            programs: &self.programs & &programs,
            maps: &self.maps & &maps,
        })
    }
}

impl Node {
    /// What is pinned under this node's name.
    pub fn pins(&self) -> Result<Vec<PathBuf>> {
        let mut pins = Vec::new();
        collect(&self.shared.bpffs().join("pillion").join(self.name()), &mut pins)?;
        Ok(pins)
    }
}

impl Pod {
    /// The processes with a thread in the pod's network namespace. After the pod's deletion, with its inode as it
    /// was, these keep it alive.
    pub fn users_of_netns(inode: u64) -> Result<Vec<u32>> {
        let mut users = BTreeSet::new();
        for process in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
            // Threads and processes end while they are listed.
            let Ok(threads) = fs::read_dir(process.path().join("task")) else { continue };
            let inside = |path: PathBuf| fs::metadata(path).is_ok_and(|netns| netns.ino() == inode);
            if threads.flatten().any(|thread| inside(thread.path().join("ns/net"))) {
                users.insert(pid);
            }
        }
        Ok(users.into_iter().collect())
    }

    /// The names of the programs of traffic control at the node's end of the pod's veth, ingress before egress.
    pub fn programs_on_veth(&self) -> Result<Vec<String>> {
        self.node().visit(|| {
            let mut names = Vec::new();
            for side in [TcAttachType::Ingress, TcAttachType::Egress] {
                // A kernel before 6.6 has no tcx to ask.
                let (_, programs) = SchedClassifier::query_tcx(self.device(), side).unwrap_or_default();
                let named = |program: &ProgramInfo| program.name_as_str().unwrap_or_default().to_owned();
                names.extend(programs.iter().map(named));
            }
            Ok(names)
        })
    }

    /// How many programs are attached to the pod's network namespace itself (sk_lookup, flow dissectors).
    pub fn programs_in_netns(&self) -> Result<usize> {
        let netns = self.netns_inode()?;
        let mut attached = 0;
        for link in listed(loaded_links())? {
            if link.link_type()? == LinkType::Netns {
                attached += usize::from(self.netns_of_link(link.id())? == Some(netns));
            }
        }
        Ok(attached)
    }

    /// The inode of the network namespace that a link is attached to; none of a link that has ended.
    fn netns_of_link(&self, id: u32) -> Result<Option<u64>> {
        let shown = self.command("bpftool").args(["-j", "link", "show", "id", &id.to_string()]).run();
        match shown {
            Ok(shown) => {
                let link: serde_json::Value =
                    serde_json::from_str(&shown).context("bpftool tells no JSON")?;
                Ok(Some(link["netns_ino"].as_u64().context("bpftool tells no namespace of the link")?))
            }
            Err(_) if !listed(loaded_links())?.iter().any(|link| link.id() == id) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the pod's network namespace, for [`Pod::users_of_netns`].
    pub fn netns_inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.netns())?.ino())
    }
}

/// What the kernel lists of links, programs or maps. Others' end while they are listed (ENOENT), or are only being made (EAGAIN):
/// those are left out.
fn listed<T, E: Into<anyhow::Error>>(objects: impl Iterator<Item = Result<T, E>>) -> Result<Vec<T>> {
    let is_not_there = |error: &anyhow::Error| {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        causes.any(|cause| matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock))
    };
    objects
        .map(|object| object.map_err(Into::into))
        .filter(|object| !object.as_ref().is_err_and(is_not_there))
        .collect()
}

/// The inodes of this thread's network namespace's listeners on the port (proc_pid_net(5)).
fn listeners(port: u16) -> Result<Vec<String>> {
    let mut inodes = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        for line in fs::read_to_string(table)?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..]
                && local.ends_with(&format!(":{port:04X}"))
            {
                inodes.push(inode.to_owned());
            }
        }
    }
    Ok(inodes)
}

fn find(dir: &Path, name: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let found = files.into_iter().find(|path| path.file_name().is_some_and(|file| file == name));
    found.with_context(|| format!("no {name} below {}", dir.display()))
}

/// Every file below `dir`; none where there is no such directory.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => collect(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}
