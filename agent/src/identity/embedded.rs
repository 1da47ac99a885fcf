//! The embedded certificate authority: roots and revocations in a directory that the nodes share, followed while the agent runs.
//!
//! It is meant for a machine, a demo and a test bed. A cluster has an authority of its own.

use super::authority::{BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
use super::ca_dir::SigningRoot;
use super::error::CaDirError;
use super::follow::{Reader, Signing};
use super::mint;
use super::trust::Trust;
use crate::mesh::TrustDomain;
use rcgen::{CertificateSigningRequestParams, Issuer};
use std::path::Path;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct EmbeddedCa {
    trust: watch::Receiver<Arc<Trust>>,
    errors: watch::Receiver<Vec<String>>,
    signing: watch::Receiver<Signing>,
    follower: JoinHandle<()>,
}

impl EmbeddedCa {
    /// Loads what is in `dir`, or makes a root there, and follows its changes on the caller's tokio runtime. Of several
    /// agents that start at once one makes the root, and all use it.
    ///
    /// # Errors
    /// When the directory cannot be used, or something in it is not usable: each with the path and the remedy.
    pub fn open(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, CaDirError> {
        let reader = Reader::open(dir, trust_domain)?;
        let (trust, errors) = (reader.trust.subscribe(), reader.errors.subscribe());
        let signing = reader.signing.subscribe();
        Ok(Self { trust, errors, signing, follower: tokio::spawn(reader.follow()) })
    }

    fn issue(&self, request: &SigningRequest) -> Result<IssuedCertificate, CaError> {
        let unavailable = |e: Arc<CaDirError>| CaError::Unavailable {
            identity: request.identity.clone(),
            reason: e.to_string(),
        };
        let signing = self.signing.borrow().clone();
        issue(&*signing.map_err(unavailable)?, request)
    }
}

fn issue(signing: &SigningRoot, request: &SigningRequest) -> Result<IssuedCertificate, CaError> {
    let identity = &request.identity;
    let refused = |e: rcgen::Error| CaError::Refused { identity: identity.clone(), reason: e.to_string() };
    let csr = CertificateSigningRequestParams::from_der(&request.csr).map_err(refused)?;
    let now = OffsetDateTime::now_utc();
    let not_after = (now + request.lifetime).min(signing.root.not_after);
    if not_after <= now {
        let reason = format!(
            "its root expired on {}; remove it and start every agent that shares it anew",
            signing.root.not_after
        );
        return Err(CaError::Unavailable { identity: identity.clone(), reason });
    }
    let leaf = CertificateSigningRequestParams {
        params: mint::leaf(identity, now, not_after).map_err(refused)?,
        public_key: csr.public_key,
    };
    let issuer = Issuer::from_ca_cert_der(&signing.root.certificate, &signing.key).map_err(refused)?;
    let leaf = leaf.signed_by(&issuer).map_err(refused)?;
    Ok(IssuedCertificate { chain: vec![leaf.der().clone()] })
}

impl CertificateAuthority for EmbeddedCa {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<IssuedCertificate, CaError>> {
        Box::pin(async move { self.issue(&request) })
    }

    fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.clone()
    }

    fn errors(&self) -> watch::Receiver<Vec<String>> {
        self.errors.clone()
    }
}

impl Drop for EmbeddedCa {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
