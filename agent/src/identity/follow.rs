//! Follows `--ca-dir` while the agent runs.
//!
//! It is looked at every second, and not watched: nodes may share it by a network file system, which tells of no changes.
//! Without changes that costs the reading of a few small files.

use super::ca_dir::{SigningRoot, Snapshot};
use super::crl::Crl;
use super::error::CaDirError;
use super::mint;
use super::place;
use super::trust::{ForgedCrl, Root, Trust};
use crate::mesh::TrustDomain;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How long a change takes at most to be seen.
const EVERY: Duration = Duration::from_secs(1);

/// What the directory signs with, or why it does not.
pub(crate) type Signing = Result<Arc<SigningRoot>, Arc<CaDirError>>;

/// Reads the directory and publishes what it says. Each part that is broken stays as it was when it was good.
pub(super) struct Reader {
    dir: PathBuf,
    snapshot: Snapshot,
    sources: Sources,
    pub trust: watch::Sender<Arc<Trust>>,
    pub signing: watch::Sender<Signing>,
    pub errors: watch::Sender<Vec<String>>,
}

/// What the trust in force was made from.
#[derive(Clone)]
struct Sources {
    signing: Arc<Root>,
    further: Vec<Arc<Root>>,
    crls: Vec<Arc<Crl>>,
}

impl Reader {
    /// # Errors
    /// When anything is broken: there is nothing good yet that could stay in force.
    pub fn open(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaDirError> {
        place::create_if_missing(dir, || mint::root(trust_domain.as_ref()))?;
        let snapshot = Snapshot::read(dir);
        let signing = Arc::new(snapshot.signing()?);
        let sources =
            Sources { signing: signing.root.clone(), further: snapshot.trusted()?, crls: snapshot.crls()? };
        let trust = sources.trust().map_err(|e| forged(&snapshot, &e))?;
        place::publish(dir, &trust).map_err(|source| CaDirError::io(dir, source))?;
        Ok(Self {
            dir: dir.to_owned(),
            snapshot,
            sources,
            trust: watch::Sender::new(Arc::new(trust)),
            signing: watch::Sender::new(Ok(signing)),
            errors: watch::Sender::new(Vec::new()),
        })
    }

    pub async fn follow(mut self) {
        loop {
            sleep(EVERY).await;
            let read = spawn_blocking(move || {
                self.read();
                self
            });
            match read.await {
                Ok(reader) => self = reader,
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    fn read(&mut self) {
        let snapshot = Snapshot::read(&self.dir);
        // What was wrong may be right by the clock alone.
        if snapshot == self.snapshot && self.errors.borrow().is_empty() {
            return;
        }
        let mut errors = Vec::new();
        let mut sources = self.sources.clone();
        let signing = snapshot.signing().map(Arc::new).map_err(Arc::new);
        match &signing {
            Ok(signing) => sources.signing = signing.root.clone(),
            Err(e) => errors.push(e.to_string()),
        }
        match snapshot.trusted() {
            Ok(further) => sources.further = further,
            Err(e) => errors.push(e.to_string()),
        }
        match snapshot.crls() {
            Ok(crls) => sources.crls = crls,
            Err(e) => errors.push(e.to_string()),
        }
        let trust = sources.trust().or_else(|e| {
            errors.push(forged(&snapshot, &e).to_string());
            sources.crls = self.sources.crls.clone();
            sources.trust()
        });
        // Trust first: what is signed next is trusted already.
        if let Ok(trust) = trust {
            self.publish(sources, trust);
        }
        self.snapshot = snapshot;
        self.sign_with(signing);
        self.report(errors);
    }

    fn publish(&mut self, sources: Sources, trust: Trust) {
        if sources.says_the_same(&self.sources) {
            return;
        }
        let (roots, revoked) = (trust.roots().count(), trust.revocations());
        tracing::info!(roots, revoked, "what certificates are verified against has changed");
        if let Err(e) = place::publish(&self.dir, &trust) {
            tracing::warn!(
                "the list of trusted roots in {} is older than what is trusted: {e}",
                self.dir.display()
            );
        }
        self.sources = sources;
        self.trust.send_replace(Arc::new(trust));
    }

    fn sign_with(&self, signing: Signing) {
        if let (Ok(now), Ok(before)) = (&signing, &*self.signing.borrow())
            && now.root.fingerprint != before.root.fingerprint
        {
            tracing::info!(root = now.root.subject, "certificates are signed by another root from now on");
        }
        self.signing.send_modify(|published| *published = signing);
    }

    fn report(&self, errors: Vec<String>) {
        self.errors.send_if_modified(|published| {
            let modified = *published != errors;
            if modified {
                for error in &errors {
                    tracing::error!("{error}; what was trusted before stays trusted");
                }
                *published = errors;
            }
            modified
        });
    }
}

impl Sources {
    /// A root that is there twice counts once.
    fn trust(&self) -> Result<Trust, ForgedCrl> {
        let mut roots = vec![self.signing.clone()];
        for root in &self.further {
            if roots.iter().all(|there| there.certificate != root.certificate) {
                roots.push(root.clone());
            }
        }
        Trust::new(&roots, &self.crls)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        let roots = |sources: &Self| -> Vec<_> {
            let all = std::iter::once(&sources.signing).chain(&sources.further);
            all.map(|root| root.fingerprint.clone()).collect()
        };
        roots(self) == roots(other) && self.crls == other.crls
    }
}

fn forged(snapshot: &Snapshot, error: &ForgedCrl) -> CaDirError {
    CaDirError::Crl { path: snapshot.crl_path(), reason: error.to_string() }
}
