//! The Helm chart, and the kustomization that is made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::Programs;

/// Where agents and authority are, unless somebody wants them elsewhere.
pub const NAMESPACE: &str = "pillion-system";

const KINDS: [&str; 2] =
    ["authorizationpolicies.security.istio.io.yaml", "peerauthentications.security.istio.io.yaml"];

/// The chart in this repository, and the helm that reads it.
pub struct Chart {
    helm: PathBuf,
    deploy: PathBuf,
}

/// A file of the kustomization, and what is to be in it.
pub struct Generated {
    pub path: PathBuf,
    pub text: String,
}

impl Chart {
    pub fn new(programs: &Programs) -> Result<Self> {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize();
        Ok(Self { helm: programs.path("helm")?, deploy: deploy.context("there is no directory deploy")? })
    }

    /// The program.
    pub fn helm(&self) -> &Path {
        &self.helm
    }

    /// Its directory.
    pub fn path(&self) -> PathBuf {
        self.deploy.join("helm/pillion")
    }

    pub fn kustomize(&self) -> PathBuf {
        self.deploy.join("kustomize")
    }

    /// What `helm lint` says. Any warning is an error.
    pub fn lint(&self) -> Result<String> {
        said(Command::new(&self.helm).args(["lint", "--strict"]).arg(self.path()))
    }

    /// The objects of a release, hooks among them, with these values (`--set`'s `name=value`).
    pub fn template(&self, values: &[&str]) -> Result<String> {
        self.render(&[], values)
    }

    /// What belongs into `deploy/kustomize`: a kustomization has no hooks.
    pub fn kustomization(&self) -> Result<Vec<Generated>> {
        let file = |path: &str, text| Generated { path: self.kustomize().join(path), text };
        let taint = ["--show-only", "templates/agent-startup-taint.yaml"];
        let mut files = vec![
            file("base/pillion.yaml", self.render(&["--no-hooks"], &[])?),
            file(
                "overlays/startup-taint/startup-taint.yaml",
                self.render(&taint, &["startupTaint.enabled=true"])?,
            ),
        ];
        for kind in KINDS {
            let there = self.path().join("crds").join(kind);
            let text =
                fs::read_to_string(&there).with_context(|| format!("cannot read {}", there.display()))?;
            files.push(file(&format!("crds/{kind}"), text));
        }
        Ok(files)
    }

    fn render(&self, flags: &[&str], values: &[&str]) -> Result<String> {
        let mut template = Command::new(&self.helm);
        template.args(["template", "pillion"]).arg(self.path()).args(["--namespace", NAMESPACE]).args(flags);
        for value in values {
            template.args(["--set", value]);
        }
        said(&mut template)
    }
}

fn said(helm: &mut Command) -> Result<String> {
    let output = helm.output().with_context(|| format!("cannot run {}", helm.get_program().display()))?;
    let (said, wrong) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "helm: {wrong}{said}");
    Ok(said)
}
