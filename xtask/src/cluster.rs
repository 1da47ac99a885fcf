//! `cargo xtask cluster`: a real Kubernetes on this machine, for end-to-end tests and for trying things out.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process;
use std::time::Instant;

use anyhow::{Result, ensure};
use nix::unistd::geteuid;
use pillion_tests::cluster::{Cluster, Programs};
use pillion_tests::requirements;

use crate::image;
use crate::terminal::Progress;
use crate::workspace;

/// Debian's packages that bringing it up uses.
const PACKAGES: &[&str] = &["curl", "iproute2"];

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
    /// Where the cluster's state is, which tells one cluster from another [default: target/cluster]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Build Kubernetes, containerd, runc, the CNI plugins and helm into target/kube, unless they are there
    Build,
    /// Bring a cluster up: a control plane and nodes
    Up(Up),
    /// End the cluster and remove it; its logs stay
    Down,
    /// Say which machines are on, what runs there, and which nodes are ready; the exit status is 1 unless all is well
    Status,
    /// Run kubectl as the cluster's administrator: kubectl -- get pods -A
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a program on a machine (cp, node1, node2 …): exec node1 -- ctr -n k8s.io containers list
    Exec {
        machine: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Pull a node's plug, or begin it again with the disk that it had
    Node { name: String, power: Power },
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(Cluster::MOST_NODES)))]
    nodes: u8,
    /// Kubernetes alone, without Pillion
    #[arg(long)]
    bare: bool,
    /// Take the programs from here instead of building them: all that `build` makes, in one directory
    #[arg(long, value_name = "DIR")]
    kube_bin: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Power {
    Off,
    On,
}

pub fn run(args: &Args) -> Result<()> {
    if let Task::Build = args.task {
        return Programs::build().map(drop);
    }
    ensure!(
        geteuid().is_root(),
        "a cluster is made of namespaces and cgroups, which needs root: sudo -E cargo xtask cluster"
    );
    let state = args.state.clone().unwrap_or_else(|| workspace::target().join("cluster"));
    let cluster = Cluster::at(&state)?;
    match &args.task {
        Task::Build => Ok(()),
        Task::Up(wishes) => up(&cluster, wishes),
        Task::Down => down(&cluster),
        Task::Status => status(&cluster),
        Task::Kubectl { args } => on(&cluster, "cp", "kubectl", args),
        Task::Exec { machine, command } => on(&cluster, machine, &command[0], &command[1..]),
        Task::Node { name, power: Power::Off } => cluster.node_off(name),
        Task::Node { name, power: Power::On } => cluster.node_on(name, &say(Instant::now())),
    }
}

fn up(cluster: &Cluster, wishes: &Up) -> Result<()> {
    requirements::ensure(PACKAGES)?;
    let begun = Instant::now();
    let say = say(begun);
    // Before anything stands: it may take minutes, and may fail.
    let image = (!wishes.bare).then(image::of_this_machine).transpose()?;
    cluster.up(wishes.nodes, wishes.kube_bin.as_deref(), &say)?;
    if let Some(image) = image {
        cluster.install_pillion(&image, &[])?;
        say("Pillion: an agent on every node");
    }
    let took = begun.elapsed().as_secs_f64();
    eprintln!(
        "{} the cluster stands, in {took:.0} s: cargo xtask cluster kubectl -- get nodes",
        Progress::new().colours().mark(true)
    );
    Ok(())
}

fn down(cluster: &Cluster) -> Result<()> {
    match cluster.down()?.as_slice() {
        [] => println!("nothing stood"),
        ended => println!("ended {}", ended.join(", ")),
    }
    Ok(())
}

fn status(cluster: &Cluster) -> Result<()> {
    let status = cluster.status()?;
    println!("{status}");
    ensure!(status.is_well(), "not all of it is well");
    Ok(())
}

/// Runs a program on a machine with this terminal; this process ends as it does.
fn on(cluster: &Cluster, machine: &str, program: &str, args: &[String]) -> Result<()> {
    let mut command = cluster.command(program)?;
    command.args(args);
    // Files are named from here, where here is there, too.
    if let Ok(here) = env::current_dir()
        && !["/var", "/run"].iter().any(|own| here.starts_with(own))
    {
        command.current_dir(here);
    }
    let status = cluster.machine(machine)?.spawn(&mut command)?.wait()?;
    // As a shell does: 128 and the signal.
    process::exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()))
}

/// Lines with the time since `begun`.
fn say(begun: Instant) -> impl Fn(&str) + Sync {
    move |what| eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64())
}
