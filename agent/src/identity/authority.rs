//! The border to whoever signs certificates.

use crate::mesh::SpiffeId;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Signs workload certificates. Implementations may take long and may fail; callers retry with back-off.
pub trait CertificateAuthority: Send + Sync + 'static {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<IssuedCertificate, CaError>>;
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
    /// The leaf first, then intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots that peers are verified against from now on.
    pub roots: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request is at fault: asking again will not help.
    #[error("the certificate authority refused the request for {identity}: {reason}")]
    Refused { identity: SpiffeId, reason: String },
    /// The authority is at fault, for now.
    #[error("the certificate authority could not sign for {identity}: {reason}")]
    Unavailable { identity: SpiffeId, reason: String },
}
