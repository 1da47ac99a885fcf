//! A real Kubernetes on this one machine, for end-to-end tests: a control plane and nodes, each on a [`Machine`] of its
//! own.
//!
//! ```text
//!  machine cp                     machine node1            machine node2
//!  etcd, kube-apiserver,          containerd (NRI on),     containerd (NRI on),
//!  kube-controller-manager,       kubelet, kube-proxy      kubelet, kube-proxy
//!  kube-scheduler                 pods 10.94.1.0/24        pods 10.94.2.0/24
//!       br0 10.93.0.1 ──────────────── 10.93.0.11 ────────────── 10.93.0.12
//! ```
//!
//! Invariants:
//! - It outlives the process that began it. All that is known of it is in its state directory, and its cgroups bear a
//!   name that follows from that directory's path: by these, and by nothing else, it is ended.
//! - The machine's own network, mounts, sysctls and files in /etc are never touched.
//! - Programs and images are built here; no registry is asked for an image.

mod boot;
mod cgroups;
mod control_plane;
pub mod images;
mod load_image;
mod lone;
mod machine;
mod network;
mod node;
pub mod pillion;
mod pki;
mod programs;
mod record;
mod side_by_side;
mod standing;
mod status;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use nix::unistd::geteuid;

use crate::once;
use control_plane::ControlPlane;
pub use load_image::{LOAD, load_image};
pub use lone::{CONFIG_DIR, LoneNode, PLUGIN_DIR};
pub use machine::Machine;
pub use node::FOREIGN;
use node::Node;
use pki::Pki;
pub use programs::Programs;
use record::Record;
use side_by_side::{at_once, both};
pub use standing::Standing;
pub use status::Status;

/// The directory of the tests' cluster.
const OF_TESTS: &str = "cluster-of-tests";

/// Told of what has come to stand.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// A cluster, whether it stands or not.
pub struct Cluster {
    state: PathBuf,
    /// Its cgroups begin with it.
    name: String,
    /// Locked for as long as a test lives whose cluster it is.
    owner: Option<File>,
}

impl Cluster {
    /// The most nodes: their numbers are in their addresses.
    pub const MOST_NODES: u8 = 9;

    /// The one whose state is in this directory.
    pub fn at(state: &Path) -> Result<Self> {
        let absolute = std::path::absolute(state)?;
        fs::create_dir_all(&absolute).with_context(|| format!("cannot make {}", absolute.display()))?;
        let state = absolute.canonicalize()?;
        let hidden = ["/var", "/run"].into_iter().find(|dir| state.starts_with(dir));
        if let Some(dir) = hidden {
            bail!(
                "{} is below {dir}, of which every machine has its own: keep the cluster elsewhere",
                state.display()
            );
        }
        let hash = digest(&SHA256, state.as_os_str().as_encoded_bytes());
        let short: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { state, name: format!("pillion-{short}"), owner: None })
    }

    /// The one that a test brings up, for as long as this lives: other tests that want it wait. What a test that was
    /// killed has left of it is removed.
    pub fn of_tests() -> Result<Self> {
        let mut cluster = Self::at(&once::target().join(OF_TESTS))?;
        let owner = cluster.owner_file()?;
        owner.lock().context("cannot lock the cluster of the tests")?;
        cluster.owner = Some(owner);
        cluster.down()?;
        Ok(cluster)
    }

    /// Removes what a test that was killed has left, and gives the names of what it has ended.
    pub fn sweep() -> Result<Vec<String>> {
        let cluster = Self::at(&once::target().join(OF_TESTS))?;
        match cluster.owner_file()?.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(Vec::new()),
            other => {
                other.context("cannot lock the cluster of the tests")?;
                cluster.down()
            }
        }
    }

    /// Brings it up, with this many nodes. What a cluster that was here before has left is removed; one that stands is
    /// an error.
    pub fn up(&self, nodes: u8, given: Option<&Path>, say: Say) -> Result<()> {
        ensure!(geteuid().is_root(), "a cluster is made of namespaces and cgroups, which needs root");
        ensure!(
            (1..=Self::MOST_NODES).contains(&nodes),
            "a cluster has from 1 to {} nodes",
            Self::MOST_NODES
        );
        let programs = programs(given)?;
        let _alone = self.lock()?;
        let stands = self.machines()?.into_iter().any(|machine| machine.is_on());
        ensure!(
            !stands,
            "it stands already, in {}: `cargo xtask cluster down` ends it",
            self.state.display()
        );
        self.remove()?;
        for name in node::names(Self::MOST_NODES).iter().map(String::as_str).chain([control_plane::NAME]) {
            self.machine_named(name).remove_all()?;
        }
        let given = given.map(Path::canonicalize).transpose()?;
        Record { nodes, given }.write(&self.state)?;
        self.bring_up(&programs, nodes, say).with_context(|| {
            let state = self.state.display();
            format!(
                "the cluster in {state} is not whole: `cargo xtask cluster status` shows it, `down` ends it"
            )
        })
    }

    /// Ends it, with all that it made but its logs. Gives the names of what it has ended.
    pub fn down(&self) -> Result<Vec<String>> {
        let _alone = self.lock()?;
        self.remove()
    }

    /// What stands of it.
    pub fn status(&self) -> Result<Status> {
        Status::of(self)
    }

    /// Pulls a node's plug.
    pub fn node_off(&self, name: &str) -> Result<()> {
        let _alone = self.lock()?;
        let (_, machine) = self.node(name)?;
        ensure!(machine.power_off()?, "the node {name} is off already");
        Ok(())
    }

    /// Begins a node that is off again, with the disk that it had, and waits until it is ready.
    pub fn node_on(&self, name: &str, say: Say) -> Result<()> {
        let _alone = self.lock()?;
        let (number, machine) = self.node(name)?;
        let (programs, pki) = (self.programs()?, Pki::at(&self.state));
        let cp = self.machine_named(control_plane::NAME);
        let node = Node { number, machine: &machine, programs: &programs, pki: &pki };
        self.begin(&node, &cp, say)?;
        join(&node, &ControlPlane { machine: &cp, programs: &programs, pki: &pki }, say)
    }

    /// Kills a program of one of its machines (`etcd`, `kube-apiserver`, `containerd`, `kubelet` …), and gives what starts it
    /// again and waits until it works.
    pub fn kill(&self, machine: &str, program: &str) -> Result<impl FnOnce() -> Result<()>> {
        let name = machine.to_owned();
        let killed = self.machine(machine)?;
        ensure!(killed.running()?.contains(program), "no {program} runs on {machine}");
        killed.kill(program)?;
        let program = program.to_owned();
        Ok(move || {
            let (programs, pki) = (self.programs()?, Pki::at(&self.state));
            let cp = self.machine_named(control_plane::NAME);
            let control_plane = ControlPlane { machine: &cp, programs: &programs, pki: &pki };
            if name == control_plane::NAME {
                return control_plane.start(&program);
            }
            let (number, machine) = self.node(&name)?;
            Node { number, machine: &machine, programs: &programs, pki: &pki }.start(&program, &control_plane)
        })
    }

    /// Gives images in an archive to every node.
    pub fn import(&self, images: &Path) -> Result<()> {
        let (programs, pki) = (self.programs()?, Pki::at(&self.state));
        for name in node::names(Record::read(&self.state)?.nodes) {
            let (number, machine) = self.node(&name)?;
            Node { number, machine: &machine, programs: &programs, pki: &pki }.import(images)?;
        }
        Ok(())
    }

    /// A machine of it: "cp" or a node.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let machine = self.machines()?.into_iter().find(|machine| machine.name() == name);
        machine.with_context(|| {
            format!("the cluster has no machine {name:?}: they are cp, node1, node2 and so on")
        })
    }

    /// A program to be run on one of its machines, which finds the cluster's own programs, and as which kubectl is the
    /// cluster's administrator.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(program);
        command.env("PATH", self.programs()?.search_path()?);
        command
            .env("KUBECONFIG", Pki::at(&self.state).path("admin.conf"))
            .env("KUBECACHEDIR", "/var/tmp/kubectl");
        Ok(command)
    }

    /// Runs kubectl with these arguments and this input, and gives what it says.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let cp = self.machine_named(control_plane::NAME);
        cp.run(self.command("kubectl")?.args(args), input)
    }

    fn bring_up(&self, programs: &Programs, nodes: u8, say: Say) -> Result<()> {
        let (pki, names) = (Pki::at(&self.state), node::names(nodes));
        pki.create(&names)?;

        let machine = self.machine_named(control_plane::NAME);
        machine.power_on(&programs.path("pause")?)?;
        network::lay_bridge(&machine)?;
        say("the machine cp");
        let control_plane = ControlPlane { machine: &machine, programs, pki: &pki };
        let machines: Vec<Machine> = names.iter().map(|name| self.machine_named(name)).collect();
        let nodes: Vec<Node> = (1..)
            .zip(&machines)
            .map(|(number, machine)| Node { number, machine, programs, pki: &pki })
            .collect();
        let api = || {
            control_plane.start_api()?;
            say("the API server");
            Ok(())
        };
        let runtimes = || {
            images::write(programs, &self.images())?;
            at_once(&nodes, |node| self.begin(node, &machine, say))
        };
        both(api, runtimes)?;
        let controllers = || {
            control_plane.start_controllers()?;
            say("the controller manager and the scheduler");
            Ok(())
        };
        both(controllers, || at_once(&nodes, |node| join(node, &control_plane, say)))
    }

    fn begin(&self, node: &Node, control_plane: &Machine, say: Say) -> Result<()> {
        node.machine.power_on(&node.programs.path("pause")?)?;
        network::lay_cable(control_plane, node.machine, node.number)?;
        node.start_runtime(&self.images())?;
        say(&format!("{}: containerd, with its images", node.machine.name()));
        Ok(())
    }

    fn node(&self, name: &str) -> Result<(u8, Machine)> {
        let nodes = node::names(Record::read(&self.state)?.nodes);
        let number = (1..).zip(nodes).find(|(_, node)| node == name).map(|(number, _)| number);
        let number = number.with_context(|| format!("the cluster has no node {name:?}"))?;
        Ok((number, self.machine_named(name)))
    }

    fn programs(&self) -> Result<Programs> {
        programs(Record::read(&self.state)?.given.as_deref())
    }

    fn machine_named(&self, name: &str) -> Machine {
        Machine::new(&self.state, &self.name, name)
    }

    /// All that there may be, the nodes first: what was written down, and what bears its name.
    fn machines(&self) -> Result<Vec<Machine>> {
        let mut names = cgroups::beginning_with(&format!("{}-", self.name))?;
        if Record::is_there(&self.state) {
            names.extend(node::names(Record::read(&self.state)?.nodes));
            names.insert(control_plane::NAME.to_owned());
        }
        Ok(names.iter().rev().map(|name| self.machine_named(name)).collect())
    }

    fn remove(&self) -> Result<Vec<String>> {
        let machines = self.machines()?;
        let ended = machines.iter().map(|machine| Ok((machine.power_off()?, machine.name().to_owned())));
        let ended = ended.collect::<Result<Vec<_>>>()?;
        for machine in &machines {
            machine.remove_disk()?;
        }
        for file in
            [record::FILE, "images.tar"].map(|name| self.file(name)).iter().filter(|file| file.exists())
        {
            fs::remove_file(file)?;
        }
        if self.file("pki").exists() {
            fs::remove_dir_all(self.file("pki"))?;
        }
        Ok(ended.into_iter().filter_map(|(there, name)| there.then_some(name)).collect())
    }

    fn images(&self) -> PathBuf {
        self.file("images.tar")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    fn owner_file(&self) -> Result<File> {
        File::create(self.file("owner")).context("cannot write in the cluster's directory")
    }

    /// One at a time changes what stands.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.file("lock")).context("cannot write in the cluster's directory")?;
        lock.lock().context("cannot lock the cluster")?;
        Ok(lock)
    }
}

fn programs(given: Option<&Path>) -> Result<Programs> {
    given.map_or_else(Programs::build, Programs::given)
}

fn join(node: &Node, control_plane: &ControlPlane, say: Say) -> Result<()> {
    node.join(control_plane)?;
    say(&format!("{}: ready", node.machine.name()));
    Ok(())
}
