//! Programs that are the main module of a release: containerd, runc, the CNI plugins, helm. Each builds with the
//! dependencies of its own go.mod, in the module cache.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Root, directory};
use crate::{go, once};

struct Released {
    name: &'static str,
    module: &'static str,
    version: &'static str,
    packages: &'static [&'static str],
    tags: &'static str,
    /// The variable that holds the version, where a program tells it and does not know it by itself.
    version_in: Option<&'static str>,
    /// Links C: with Debian's libseccomp, statically.
    seccomp: bool,
}

const RELEASED: [Released; 4] = [
    Released {
        name: "containerd",
        module: "github.com/containerd/containerd/v2",
        version: "v2.4.2",
        packages: &["./cmd/containerd", "./cmd/containerd-shim-runc-v2", "./cmd/ctr"],
        tags: "no_btrfs no_devmapper no_zfs",
        version_in: Some("github.com/containerd/containerd/v2/version.Version"),
        seccomp: false,
    },
    // Without libseccomp not even a pod's sandbox starts.
    Released {
        name: "runc",
        module: "github.com/opencontainers/runc",
        version: "v1.5.2",
        packages: &["."],
        tags: "netgo osusergo seccomp urfave_cli_no_docs",
        version_in: None,
        seccomp: true,
    },
    Released {
        name: "cni-plugins",
        module: "github.com/containernetworking/plugins",
        version: "v1.9.1",
        packages: &[
            "./plugins/main/bridge",
            "./plugins/main/loopback",
            "./plugins/ipam/host-local",
            "./plugins/meta/portmap",
        ],
        tags: "",
        version_in: None,
        seccomp: false,
    },
    Released {
        name: "helm",
        module: "helm.sh/helm/v4",
        version: "v4.3.1",
        packages: &["./cmd/helm"],
        tags: "",
        version_in: Some("helm.sh/helm/v4/internal/version.version"),
        seccomp: false,
    },
];

/// The directories of them all.
pub(super) fn built(debian: &Root) -> Result<Vec<PathBuf>> {
    let built = |released: &Released| {
        let (name, what) = (format!("{}-{}", released.name, released.version), released.name);
        directory(&name, &format!("building {what}"), |dir| released.build(debian, dir))
    };
    RELEASED.iter().map(built).collect()
}

impl Released {
    fn build(&self, debian: &Root, dir: &Path) -> Result<()> {
        let go = go::program(dir, self.name)?;
        let mut build = Command::new(go);
        build.current_dir(self.sources(go, dir)?).args(["build", "-trimpath", "-buildvcs=false"]);
        let mut linker = "-s -w".to_owned();
        if let Some(name) = self.version_in {
            linker += &format!(" -X {name}={}", self.version);
        }
        if self.seccomp {
            linker += " -linkmode external -extldflags -static";
            build.env("CGO_ENABLED", "1").env("PKG_CONFIG", pkg_config(dir)?);
            // Not by that script: Go's cache would take what was built for another directory, as it does not ask what
            // the script says. These it looks at.
            build.env("CGO_CFLAGS", format!("-O2 -I{}", debian.dir().join("usr/include").display()));
            build.env("CGO_LDFLAGS", format!("-O2 -L{}", seccomp_directory(debian)?.display()));
        } else {
            build.env("CGO_ENABLED", "0");
        }
        build.args(["-tags", self.tags, "-ldflags", &linker]);
        once::run(build.arg("-o").arg(format!("{}/", dir.display())).args(self.packages))
    }

    /// Fetches the module and gives its directory in Go's module cache. `dir` is any that is in no module.
    fn sources(&self, go: &str, dir: &Path) -> Result<PathBuf> {
        let module = format!("{}@{}", self.module, self.version);
        let fetch = Command::new(go)
            .current_dir(dir)
            .args(["mod", "download", "-json", &module])
            .stderr(Stdio::inherit())
            .output();
        let said: Value = serde_json::from_slice(&fetch.context("cannot run go")?.stdout)
            .with_context(|| format!("`go mod download -json {module}` said no JSON"))?;
        ensure!(said["Error"].is_null(), "cannot fetch {module}: {}", said["Error"].as_str().unwrap_or("?"));
        said["Dir"].as_str().map(PathBuf::from).with_context(|| format!("go names no directory of {module}"))
    }
}

fn seccomp_directory(debian: &Root) -> Result<PathBuf> {
    let library = debian.find_library("libseccomp.a")?;
    Ok(library.parent().context("a library is in a directory")?.to_owned())
}

/// What runc's build asks for libseccomp, instead of the machine's own `pkg-config`, which does not know ours.
fn pkg_config(dir: &Path) -> Result<PathBuf> {
    let script = "#!/bin/sh\nfor a; do case $a in --libs) echo -lseccomp;; esac; done\n";
    let file = dir.join("pkg-config");
    fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
