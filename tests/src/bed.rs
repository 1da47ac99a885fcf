//! The bed itself: it lays out what nodes share, and removes it all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::id::Id;
use crate::manifest::{Manifests, Service};
use crate::node::Node;
use crate::pod::Pod;
use crate::process::tail;
use crate::shared::Shared;
use crate::{cgroup, ending, sweep};

/// Nodes and pods on an island of their own. Dropping it ends and removes everything, also on panic; handles
/// that are left ([`Node`], [`Pod`]) then refer to what is no more.
pub struct Bed {
    shared: Arc<Shared>,
    /// In the order of their numbers, which begin with 1.
    nodes: Mutex<Vec<Node>>,
}

impl Bed {
    /// Begins a bed without nodes, after a sweep. `name` is for messages.
    ///
    /// Fails without root: a test that needs namespaces must not pass by skipping.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "the test bed {name:?} makes network namespaces and cgroups: run it as root"
        );
        sweep::sweep().context("cannot remove what killed tests left behind")?;
        let id = Id::new()?;
        let dir = sweep::dir_of(id);
        let manifests = Manifests::new(dir.join("manifests"));
        let shared = Shared { id, cgroup: sweep::cgroup_of(id)?, manifests, dir };
        let bed = Self { shared: Arc::new(shared), nodes: Mutex::default() };
        bed.lay_out().with_context(|| format!("cannot lay out the test bed {name:?}"))?;
        Ok(bed)
    }

    /// What may fail after the first trace was left; the drop of `self` removes it then.
    fn lay_out(&self) -> Result<()> {
        let dirs =
            [self.dir().to_owned(), self.manifest_dir(), self.ca_dir(), self.bpffs(), self.shared.log_dir()];
        for dir in dirs {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            // Applications that are not root have their files in here.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        mount(Some("none"), &self.bpffs(), Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("cannot mount a bpffs")?;
        cgroup::create(&self.shared.cgroup)
    }

    /// The node of that name, made when it is named first. Every node is wired to every other.
    pub fn node(&self, name: &str) -> Result<Node> {
        let mut nodes = self.nodes.lock().expect("no holder panics");
        if let Some(node) = nodes.iter().find(|node| node.name() == name) {
            return Ok(node.clone());
        }
        let node = Node::create(&self.shared, name, &nodes)
            .with_context(|| format!("cannot make the node {name}"))?;
        nodes.push(node.clone());
        Ok(node)
    }

    /// Makes a Service of one TCP port, with a cluster IP of each family and the pods as its endpoints. Nothing
    /// but the mesh knows the cluster IPs: there is no kube-proxy.
    pub fn service(&self, name: &str, port: u16, target_port: u16, pods: &[&Pod]) -> Result<Service> {
        let pods = pods.iter().map(|pod| pod.key().clone()).collect();
        self.shared.manifests.add_service(name, port, target_port, pods)
    }

    /// Writes any other object, under a file name of its own; the text is written as it is, a broken one too.
    pub fn write_manifest(&self, file: &str, text: &str) -> Result<()> {
        self.shared.manifests.write(file, text)
    }

    /// Removes a file of [`Bed::write_manifest`].
    pub fn remove_manifest(&self, file: &str) -> Result<()> {
        self.shared.manifests.remove(file)
    }

    /// Under this name everything of the bed is found: namespaces, cgroups, files.
    pub fn id(&self) -> Id {
        self.shared.id
    }

    /// Where the bed's files are.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The directory that all agents watch.
    pub fn manifest_dir(&self) -> PathBuf {
        self.shared.manifests.dir().to_owned()
    }

    /// The authority's directory, shared by all agents.
    pub fn ca_dir(&self) -> PathBuf {
        self.shared.ca_dir()
    }

    /// The cgroup of everything that runs in the bed.
    pub fn cgroup(&self) -> &Path {
        &self.shared.cgroup
    }

    /// The bed's own bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.shared.bpffs()
    }

    /// The ends of all logs but the access logs: a failing test shows them.
    fn print_logs(&self) {
        let Ok(logs) = fs::read_dir(self.shared.log_dir()) else { return };
        for log in logs.flatten() {
            let name = log.file_name();
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            if !text.is_empty() && !name.to_string_lossy().ends_with(".access.log") {
                eprintln!("{}:{}", name.display(), tail(&text));
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        ending::stand_still();
        if std::thread::panicking() {
            self.print_logs();
        }
        if let Err(error) = sweep::remove(self.shared.id) {
            eprintln!("the test bed {} is not removed: {error:#}", self.shared.id);
        }
    }
}
