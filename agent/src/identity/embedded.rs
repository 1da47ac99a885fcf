//! The embedded certificate authority: roots and revocations in a directory that the nodes share, followed while the agent runs.
//!
//! By itself it is meant for a machine, a demo and a test bed. In a cluster `pillion ca serve` signs with it for all nodes.

use super::authority::{BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
use super::ca_dir::SigningRoot;
use super::error::CaDirError;
use super::follow::{Reader, Signing};
use super::mint;
use super::trust::{Root, Trust};
use crate::mesh::TrustDomain;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
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

    /// What it signs with, now and at every change.
    pub(crate) fn signing(&self) -> watch::Receiver<Signing> {
        self.signing.clone()
    }
}

/// A certificate with a key of its own for a server that is known by these names; gives when it ends, too.
pub(crate) fn issue_to_server(
    signing: &SigningRoot,
    names: &[String],
    lifetime: Duration,
) -> Result<(CertifiedKey, OffsetDateTime), String> {
    let text = |e: rcgen::Error| e.to_string();
    let now = OffsetDateTime::now_utc();
    let not_after = (now + lifetime).min(signing.root.not_after);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(text)?;
    let issuer = Issuer::from_ca_cert_der(&signing.root.certificate, &signing.key).map_err(text)?;
    let leaf = mint::server(names, now, not_after).and_then(|params| params.signed_by(&key, &issuer));
    let chain = with_intermediate(leaf.map_err(text)?.der().clone(), &signing.root);
    let key = any_ecdsa_type(&PrivateKeyDer::Pkcs8(key.serialize_der().into())).map_err(|e| e.to_string())?;
    Ok((CertifiedKey::new(chain, key), not_after))
}

/// Who signs may be no root: peers that trust only the one above it need its certificate.
fn with_intermediate(leaf: CertificateDer<'static>, signer: &Root) -> Vec<CertificateDer<'static>> {
    match signer.is_self_issued() {
        true => vec![leaf],
        false => vec![leaf, signer.certificate.clone()],
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
    Ok(IssuedCertificate { chain: with_intermediate(leaf.der().clone(), &signing.root) })
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
