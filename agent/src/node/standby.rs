//! An agent that waits for another one's end. It checks beforehand all that it can: what it lacks is to be known while the other
//! one still serves, and not after.

use super::health::Health;
use super::state_dir::{StateDir, StateDirError};
use crate::admin::{ListenError, listen};
use crate::cli::Run;
use crate::cluster::{Others, Rollout};
use crate::identity::CertificateAuthority;
use crate::kernel::{Claim, Kernel, KernelConfig, KernelError};
use crate::mesh::Mesh;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How soon after the end of another agent its place is taken. A lock cannot be waited for without a thread.
const TRY_EVERY: Duration = Duration::from_millis(50);

/// How often an agent that stands by checks what may change.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How long a check may take that asks somebody.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long the other nodes' agents have to have been well: one that took over may fail some seconds later.
///
/// A DaemonSet's own `minReadySeconds` is not for this. Its controller (Kubernetes 1.36) looks again that much after a new pod has
/// become ready, and forgets the second of two that became so within that time: its old pod then stays for ever.
const SETTLED: Duration = Duration::from_secs(10);

/// What one agent of a node has at a time: its state directory, and the node's pins.
pub struct Held {
    pub state_dir: StateDir,
    pub claim: Claim,
}

#[derive(Debug, thiserror::Error)]
pub enum HeldError {
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    #[error(transparent)]
    Pins(#[from] KernelError),
}

impl Held {
    /// Takes both, or none.
    pub fn take(config: &Run, kernel: &KernelConfig) -> Result<Self, HeldError> {
        let state_dir = StateDir::open(&config.state_dir)?;
        let claim = Claim::take(&kernel.bpffs, &kernel.node, kernel.mounts_bpffs)?;
        Ok(Self { state_dir, claim })
    }
}

impl HeldError {
    /// Whether another agent has what is asked for.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::StateDir(StateDirError::InUse { .. }) | Self::Pins(KernelError::Held { .. }))
    }
}

/// What an agent that stands by looks at.
pub struct Standby<'a> {
    pub config: &'a Run,
    pub kernel: &'a KernelConfig,
    pub health: &'a Health,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub ca: Arc<dyn CertificateAuthority>,
    /// The other nodes' agents, where there is a DaemonSet that replaces them all.
    pub rollout: Option<Rollout>,
}

/// What keeps an agent from being ready to take over.
#[derive(Default)]
struct Lacks {
    /// Until it is so for the first time. What is lacking later makes no difference: the other agent may be ending already.
    at_first: Vec<String>,
    /// At any time.
    ever: Vec<String>,
}

/// Since when the other nodes' agents have been well, as far as was seen.
#[derive(Default)]
struct Settling(Option<Instant>);

impl Settling {
    /// Whether they have been so for long enough.
    fn is_over(&mut self, is_well: bool, now: Instant) -> bool {
        if !is_well {
            self.0 = None;
            return false;
        }
        now.duration_since(*self.0.get_or_insert(now)) >= SETTLED
    }
}

impl Standby<'_> {
    /// Waits until nobody else has the node's place. None when told to end first.
    ///
    /// # Errors
    /// Whatever this agent would fail by once it had taken over, as far as that can be known now.
    pub async fn wait(&self, told_to_end: impl Future<Output = ()>) -> anyhow::Result<Option<Held>> {
        self.health.stands_by(vec!["its programs to be verified".to_owned()]);
        StateDir::check_node(&self.config.state_dir, &self.config.node)?;
        Kernel::rehearse(self.kernel)?;
        self.check_addresses()?;
        tracing::info!("all that can be checked beforehand on this node is as it should be");
        tokio::select! {
            biased;
            () = told_to_end => Ok(None),
            held = self.take() => Ok(Some(held?)),
            () = self.check() => Ok(None),
        }
    }

    async fn take(&self) -> Result<Held, HeldError> {
        loop {
            match Held::take(self.config, self.kernel) {
                Err(error) if error.is_held() => {}
                taken => return taken,
            }
            self.health.turn();
            sleep(TRY_EVERY).await;
        }
    }

    /// The ports are the other agent's for now; the addresses have to be this machine's.
    fn check_addresses(&self) -> anyhow::Result<()> {
        let config = self.config;
        for (flag, address) in [
            ("--admin-addr", config.admin_addr),
            ("--metrics-addr", config.metrics_addr),
            ("--health-addr", config.health_addr),
        ] {
            let listener = listen(flag, SocketAddr::new(address.ip(), 0));
            listener.map_err(|error| ListenError { address, ..error })?;
        }
        Ok(())
    }

    /// Checks what may change, again and again.
    async fn check(&self) {
        let mut was_ready = false;
        let mut told = vec![];
        let mut settling = Settling::default();
        loop {
            let Lacks { mut at_first, ever } = self.lacks(&mut settling).await;
            if was_ready {
                at_first.clear();
            }
            at_first.extend(ever);
            let lacks = at_first;
            if lacks != told {
                match lacks.is_empty() {
                    true => tracing::info!("ready to take over"),
                    false => tracing::warn!("not ready to take over: waiting for {}", lacks.join(", ")),
                }
                told.clone_from(&lacks);
            } else if lacks.is_empty() && !was_ready {
                tracing::info!("ready to take over");
            }
            was_ready |= lacks.is_empty();
            self.health.stands_by(lacks);
            sleep(CHECK_EVERY).await;
        }
    }

    async fn lacks(&self, settling: &mut Settling) -> Lacks {
        let mut lacks = Lacks::default();
        if self.mesh.borrow().generation == 0 {
            let what = "objects that are whole: the log says what is wrong with them, or with the API server";
            lacks.at_first.push(what.to_owned());
        }
        let (authority, others) = tokio::join!(timeout(PATIENCE, self.ca.reach()), self.others());
        match authority {
            Ok(Ok(())) => {}
            Ok(Err(why)) => lacks.at_first.push(format!("the certificate authority: {why}")),
            Err(_) => {
                lacks.at_first.push(format!("the certificate authority: no answer within {PATIENCE:?}"))
            }
        }
        let is_well = others.as_ref().is_ok_and(|others| *others == Others::default());
        let is_settled = self.rollout.is_none() || settling.is_over(is_well, Instant::now());
        match others {
            Ok(Others { failed: None, moving: None }) if !is_settled => {
                let what = format!("the other nodes' agents to have been well for {SETTLED:?}");
                lacks.at_first.push(what);
            }
            Ok(Others { failed, moving }) => {
                lacks.at_first.extend(moving);
                lacks.ever.extend(failed);
            }
            Err(why) => lacks.at_first.push(format!("news of the other nodes' agents: {why}")),
        }
        lacks
    }

    async fn others(&self) -> Result<Others, String> {
        let Some(rollout) = &self.rollout else { return Ok(Others::default()) };
        match timeout(PATIENCE, rollout.others()).await {
            Ok(others) => others,
            Err(_) => Err(format!("the API server did not answer within {PATIENCE:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: OPS-3
    #[test]
    fn the_other_nodes_agents_have_been_well_for_a_while_without_a_break() {
        let (mut settling, begun) = (Settling::default(), Instant::now());
        let mut is_over = |is_well, seconds| settling.is_over(is_well, begun + Duration::from_secs(seconds));
        assert!(!is_over(true, 0));
        assert!(!is_over(true, 9));
        assert!(!is_over(false, 9), "one took over just now, or has failed");
        assert!(!is_over(true, 11));
        assert!(!is_over(true, 20));
        assert!(is_over(true, 21));
        assert!(!is_over(false, 22));
    }
}
