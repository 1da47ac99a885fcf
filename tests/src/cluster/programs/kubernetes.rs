//! Kubernetes itself, from the Go module proxy alone: `tests/kube` is one program that is all of its components.
//!
//! Its go.mod replaces the modules that Kubernetes keeps in its own repository (`staging`), whose required version is
//! v0.0.0, by what is published of them. Another release: change both versions there, then `go mod tidy`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::directory;
use crate::{go, once};

/// What the one program is, by the name that it is called by.
const COMPONENTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// The directory of the components, and of `pause`.
pub(super) fn built() -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube");
    let requires = fs::read_to_string(module.join("go.mod")).context("no go.mod of Kubernetes")?;
    let version = requires.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "));
    let version = version.context("tests/kube/go.mod requires no k8s.io/kubernetes")?;
    let what = "building Kubernetes, which takes about 10 minutes of CPU time,";
    directory(&format!("kubernetes-{version}"), what, |dir| build(&module, version, dir))
}

fn build(module: &Path, version: &str, dir: &Path) -> Result<()> {
    let go = go::program(module, "Kubernetes")?;
    once::run(
        Command::new(go)
            .current_dir(module)
            .env("CGO_ENABLED", "0")
            .args([
                "build",
                "-mod=readonly",
                "-trimpath",
                "-buildvcs=false",
                "-ldflags",
                &flags(version)?,
                "-o",
            ])
            .arg(format!("{}/", dir.display()))
            .args([".", "./pause"]),
    )?;
    for name in COMPONENTS {
        symlink("kube", dir.join(name))
            .with_context(|| format!("cannot make {name} in {}", dir.display()))?;
    }
    Ok(())
}

/// The version, as Kubernetes's own build tells it to its programs: clients and nodes compare it.
fn flags(version: &str) -> Result<String> {
    let numbers = version.strip_prefix('v').and_then(|numbers| numbers.split_once('.'));
    let (major, rest) = numbers.with_context(|| format!("{version} is no version of Kubernetes"))?;
    let minor = rest.split('.').next().unwrap_or(rest);
    let told = ["k8s.io/client-go/pkg/version", "k8s.io/component-base/version"].map(|package| {
        format!(
            "-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
             -X {package}.gitTreeState=clean -X {package}.buildDate=1970-01-01T00:00:00Z"
        )
    });
    Ok(format!("-s -w {}", told.join(" ")))
}
