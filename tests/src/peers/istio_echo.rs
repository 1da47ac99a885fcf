//! The echo application of Istio's own tests: an HBONE client and an HBONE server in Go.
//!
//! Where it is not like a proxy of a mesh (read in its sources, `pkg/hbone` and `pkg/test/echo`): the client can
//! verify a server by host name only, never by SPIFFE identity, so it verifies nothing here; the server asks for
//! no client certificate, answers 200 before it has reached the app, and sends its FIN only after the client's.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use super::directory;
use crate::pod::Pod;
use crate::process::{Command, Process};
use crate::{go, once};

/// Names the directory of the build: the version that `tests/peers/istio-echo/go.mod` requires.
const VERSION: &str = "20260827124520-eed52ebb66ad";

/// A client in the pod that reaches `url` (`http://…`, `tcp://…`) through the HBONE server at `server`, with the
/// certificate and key in these PEM files.
pub fn client(pod: &Pod, server: &str, certificate: &Path, key: &Path, url: &str) -> Result<Command> {
    let command = pod.command(&programs()?.join("client").display().to_string());
    let command = command.args(["--hbone", server, "--hbone-insecure-skip-verify"]);
    Ok(command.arg("--hbone-client-cert").arg(certificate).arg("--hbone-client-key").arg(key).arg(url))
}

/// A server in a pod: HBONE on 15008, and apps behind it, HTTP on 8080 and a TCP echo on 9090.
pub struct IstioEcho(pub Process);

impl IstioEcho {
    pub const HTTP: u16 = 8080;
    pub const TCP: u16 = 9090;

    /// Starts the server with the certificate and key in these PEM files. `args` are more flags of its own.
    pub fn start(pod: &Pod, certificate: &Path, key: &Path, args: &[&str]) -> Result<Self> {
        let command = pod.command(&programs()?.join("server").display().to_string());
        let ports = ["--hbone", "15008", "--tls", "15008", "--port", "8080", "--tcp", "9090"];
        let command = command.args(ports).arg("--crt").arg(certificate).arg("--key").arg(key).args(args);
        let server = command.log("istio-echo").start()?;
        for port in [15008, Self::HTTP, Self::TCP] {
            server.wait_listening(port)?;
        }
        Ok(Self(server))
    }
}

/// The directory of `client` and `server`.
pub(super) fn programs() -> Result<PathBuf> {
    static PROGRAMS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let what = "building the Istio echo application";
    let built = PROGRAMS.get_or_init(|| {
        directory(&format!("istio-echo-{VERSION}"), what, build).map_err(|error| format!("{error:#}"))
    });
    built.clone().map_err(anyhow::Error::msg)
}

fn build(dir: &Path) -> Result<()> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/istio-echo");
    let requires =
        std::fs::read_to_string(module.join("go.mod")).context("no go.mod of the echo application")?;
    ensure!(requires.contains(VERSION), "go.mod requires another version than {VERSION}");
    let go = go::program(&module, "the Istio echo application")?;
    let packages = ["client", "server"].map(|name| format!("istio.io/istio/pkg/test/echo/cmd/{name}"));
    once::run(
        process::Command::new(go)
            .current_dir(module)
            .args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(format!("{}/", dir.display()))
            .args(packages),
    )
}
