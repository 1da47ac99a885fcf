//! `cargo xtask test`: everything that has to hold before a change is done.

use anyhow::{Result, ensure};
use nix::unistd::geteuid;
use pillion_tests::cluster::{Cluster, LoneNode, Programs};

use crate::step::Steps;
use crate::workspace::{HOST_PACKAGES, cargo, root};
use crate::{acyclic, deny, fuzz, image, requirements, semantics, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// Without the end-to-end tests, which need root and take minutes
    #[arg(long)]
    quick: bool,
    /// Without the tests on a real Kubernetes, which is built once, in 8 to 16 minutes
    #[arg(long)]
    no_cluster: bool,
}

/// Runs all steps; an error names those that failed.
pub fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::default();
    steps.run("format", || cargo_does(&["fmt", "--all", "--check"]));
    steps.run("lints", || {
        cargo_does(&[&["clippy"], &HOST_PACKAGES[..], &["--all-targets", "--", "-D", "warnings"]].concat())
    });
    steps.run("dependencies", deny::check);
    steps.run("modules", || acyclic::check(&root()));
    steps.run("promises", || semantics::check(&root()));
    steps.run("unit tests", unit_tests);
    steps.run("fuzzing", fuzz::briefly);
    if !args.quick {
        steps.run("peers", peers);
        steps.run("end to end", end_to_end);
        if args.no_cluster {
            steps.run("cluster", || Ok(Some("left out, as --no-cluster asks".into())));
        } else {
            steps.run("cluster", cluster);
        }
        steps.run("left behind", left_behind);
    }
    steps.finish()
}

/// Tests of xtask's that need Debian's Chromium, by what is in their names: no unit tests.
const IN_A_BROWSER: &str = "in_a_browser";
/// Tests that need a real Kubernetes, by what is in their names: a step of their own.
const IN_A_CLUSTER: &str = "in_a_cluster";
/// Tests that need a container runtime and no Kubernetes.
const WITH_CONTAINERD: &str = "with_containerd";

fn unit_tests() -> Result<Option<String>> {
    let without = ["--exclude", "pillion-tests", "--no-fail-fast", "--", "--skip", IN_A_BROWSER];
    cargo_does(&[&["test"], &HOST_PACKAGES[..], &without].concat())?;
    cargo_does(&["test", "-p", "pillion-tests", "--lib"])
}

/// Other implementations that the tests speak with: built here once, so that no test's time is theirs.
fn peers() -> Result<Option<String>> {
    pillion_tests::peers::prepare()?;
    Ok(None)
}

fn end_to_end() -> Result<Option<String>> {
    ensure!(
        geteuid().is_root(),
        "network namespaces, cgroups and eBPF need root; `--quick` leaves these tests out"
    );
    requirements::ensure()?;
    // Built once: the tests find it here.
    let program = pillion_tests::agent::binary()?;
    workspace::run(
        cargo()
            .args(["test", "-p", "pillion-tests", "--tests", "--no-fail-fast", "--", "--skip", IN_A_CLUSTER])
            .args(["--skip", WITH_CONTAINERD])
            .env("PILLION_BIN", program),
    )?;
    cargo_does(&["test", "-p", "xtask", IN_A_BROWSER])
}

/// On a real Kubernetes, or at its API server: their programs are built here, and istiod, so that no test's time is theirs.
fn cluster() -> Result<Option<String>> {
    ensure!(geteuid().is_root(), "namespaces and cgroups need root; `--no-cluster` leaves these tests out");
    requirements::ensure()?;
    Programs::build()?;
    pillion_tests::peers::istiod::program()?;
    let (program, image) = (pillion_tests::agent::binary()?, image::of_this_machine()?);
    workspace::run(
        cargo()
            .args([
                "test",
                "-p",
                "pillion-tests",
                "--test",
                "cluster",
                "--test",
                "kubernetes",
                "--test",
                "nri",
                "--test",
                "kube",
            ])
            .args(["--test", "deploy", "--test", "istiod"])
            .env("PILLION_IMAGE", image)
            .env("PILLION_BIN", program),
    )?;
    Ok(None)
}

/// A test that ends, however it ends, removes its bed, or its cluster.
fn left_behind() -> Result<Option<String>> {
    let dead = pillion_tests::sweep()?;
    let names = dead.iter().map(ToString::to_string).chain(Cluster::sweep()?).chain(LoneNode::sweep()?);
    let names: Vec<String> = names.collect();
    ensure!(names.is_empty(), "tests that have ended left {} (removed now)", names.join(", "));
    Ok(None)
}

fn cargo_does(args: &[&str]) -> Result<Option<String>> {
    workspace::run(cargo().args(args))?;
    Ok(None)
}
