//! The border to whoever signs certificates.

use super::Trust;
use crate::mesh::SpiffeId;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Signs workload certificates, and says what certificates are verified against. Signing may take long and may fail;
/// callers retry with back-off.
pub trait CertificateAuthority: Send + Sync + 'static {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<IssuedCertificate, CaError>>;

    /// The trust of the mesh, now and at every change. It outlives what it was made from: a source that is away or broken
    /// leaves the last good one in force.
    fn trust(&self) -> watch::Receiver<Arc<Trust>>;

    /// Whether it can be asked now, for somebody who is going to need it.
    ///
    /// # Errors
    /// In words, what keeps it from being asked.
    fn reach(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// What is wrong with the authority at the moment, in words: what it signs with, or what its trust is made from.
    fn errors(&self) -> watch::Receiver<Vec<String>>;
}

/// What a worker asks for. The identity is the node core's word, not the request's: an authority takes nothing
/// from the CSR but its public key.
#[derive(Debug)]
pub struct SigningRequest {
    pub identity: SpiffeId,
    pub csr: CertificateSigningRequestDer<'static>,
    /// How long the certificate should live; an authority may grant less.
    pub lifetime: Duration,
}

/// What an authority answers.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// The leaf first, then intermediates. Its root is one that peers trust already ([`CertificateAuthority::trust`]).
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// It says no, by what it knows now. That may change: a remote authority hears of pods when it does.
    #[error("the certificate authority refused the request for {identity}: {reason}")]
    Refused { identity: SpiffeId, reason: String },
    /// The authority is at fault, for now.
    #[error("the certificate authority could not sign for {identity}: {reason}")]
    Unavailable { identity: SpiffeId, reason: String },
}
