//! Envoy as a sidecar in every pod, laid out as Istio does it: connections redirected by iptables in the pod's
//! network namespace, the proxy under an own user that is exempt, mutual TLS 1.3 under SPIFFE identities between
//! the two.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, ensure};
use pillion_tests::peers::Envoy;
use pillion_tests::peers::credentials::Authority;
use pillion_tests::peers::envoy::{self, SIDECAR_UID};
use pillion_tests::{Bed, Node, Pod, requirements};

use super::envoy_config::{INBOUND, OUTBOUND, UPSTREAM, config};
use super::{Contestant, request};

pub struct Sidecars {
    name: String,
    nodes: [Node; 2],
    program: PathBuf,
    /// Envoy's worker threads; Istio's default is 2.
    concurrency: u32,
    authority: Authority,
    /// By their pods' names.
    running: Mutex<Vec<(String, Envoy)>>,
}

impl Sidecars {
    pub fn new(
        bed: &Bed,
        name: &str,
        nodes: [Node; 2],
        envoy: Option<&Path>,
        concurrency: u32,
    ) -> Result<Self> {
        requirements::ensure(&["iptables"])?;
        let found = envoy::program(envoy).context("there is no Envoy: give one by --envoy PATH")?;
        Ok(Self {
            name: name.to_owned(),
            nodes,
            program: copy(&found, &bed.dir().join(format!("{name}-program")))?,
            concurrency,
            authority: Authority::new(bed, &format!("{name}-ca"))?,
            running: Mutex::default(),
        })
    }

    fn running(&self) -> MutexGuard<'_, Vec<(String, Envoy)>> {
        self.running.lock().expect("no holder panics")
    }

    fn handshakes(&self, pod: &Pod) -> Result<u64> {
        let running = self.running();
        let sidecar = running.iter().find(|(name, _)| name == pod.name());
        let (_, envoy) = sidecar.with_context(|| format!("{} has no sidecar", pod.name()))?;
        envoy.stat(&format!("cluster.{UPSTREAM}.ssl.handshake"))
    }
}

impl Contestant for Sidecars {
    fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> [&Node; 2] {
        self.nodes.each_ref()
    }

    fn enter(&self, pod: &Pod) -> Result<()> {
        let own = self.authority.issue(pod.name())?;
        pod.command("iptables-restore").input(rules()).run()?;
        let config = config(&own, &self.authority.root);
        let envoy = Envoy::start_sidecar(pod, &self.program, config, self.concurrency, &[INBOUND, OUTBOUND])?;
        self.running().push((pod.name().to_owned(), envoy));
        Ok(())
    }

    fn prove(&self, client: &Pod, server: &Pod) -> Result<()> {
        let before = self.handshakes(client)?;
        request(client, server)?;
        ensure!(
            self.handshakes(client)? > before,
            "the request from {} to {} made no TLS handshake between their sidecars",
            client.name(),
            server.name()
        );
        Ok(())
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let cgroups = self.running().iter().map(|(_, envoy)| envoy.process.cgroup().to_owned()).collect();
        // Those of deleted pods are gone with them.
        Vec::into_iter(cgroups).filter(|cgroup| cgroup.exists()).collect()
    }
}

/// The sidecars' own user has to be able to run it, wherever it was found; and a contestant that shared the file
/// with another would share its pages in memory with it.
fn copy(program: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(program, to).with_context(|| format!("cannot copy {} to the bed", program.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(to.to_owned())
}

/// What istio-init sets up, without what is for its own ports: all TCP in to 15006, all TCP out to 15001, except
/// what is on loopback or the sidecar's.
fn rules() -> String {
    format!(
        "*nat\n\
         -A PREROUTING -p tcp -j REDIRECT --to-ports {INBOUND}\n\
         -A OUTPUT -o lo -j RETURN\n\
         -A OUTPUT -p tcp -m owner --uid-owner {SIDECAR_UID} -j RETURN\n\
         -A OUTPUT -p tcp -j REDIRECT --to-ports {OUTBOUND}\n\
         COMMIT\n"
    )
}
