//! Who is on the other side? A chain to a root of the mesh, and exactly one SPIFFE identity.

use super::provider::provider;
use crate::mesh::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::sync::Arc;

/// Why a peer with a good chain is still not who it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("its certificate must name exactly one URI, but names {0}")]
    Names(usize),
    #[error("its certificate names no workload of a mesh: {0}")]
    Form(#[from] crate::mesh::SpiffeIdError),
    #[error(
        "it is {found}, but {expected} was expected at this address: check the service account of the pod that the \
         manifests have there, and that no other pod has taken the address over"
    )]
    Identity { expected: SpiffeId, found: SpiffeId },
    #[error(
        "it is {found}, which is not of trust domain {expected}: both nodes need the same --trust-domain"
    )]
    TrustDomain { expected: TrustDomain, found: SpiffeId },
    #[error("no root certificate to verify the peer against")]
    Roots,
}

/// Verifies whom a worker dials: exactly the identity that the mesh has at that address.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub roots: Arc<RootCertStore>,
    pub expected: SpiffeId,
}

/// Verifies who dials a worker: any workload of the trust domain. What it may do is policy's to say.
pub(super) struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: TrustDomain,
}

impl ClientVerifier {
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: TrustDomain) -> Result<Self, VerifyError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|_| VerifyError::Roots)?;
        Ok(Self { chain, trust_domain })
    }
}

/// The one identity in a certificate.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    let parsed = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let mut names = parsed.valid_uri_names();
    match (names.next(), names.count()) {
        (Some(name), 0) => name.parse().map_err(|e: crate::mesh::SpiffeIdError| refuse(e.into())),
        (first, rest) => Err(refuse(VerifyError::Names(rest + usize::from(first.is_some())))),
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        let found = identity(end_entity)?;
        if found != self.expected {
            return Err(refuse(VerifyError::Identity { expected: self.expected.clone(), found }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// No hints: clients of a mesh have one certificate, and the hints would name the mesh to strangers.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let found = identity(end_entity)?;
        if *found.trust_domain() != self.trust_domain {
            return Err(refuse(VerifyError::TrustDomain { expected: self.trust_domain.clone(), found }));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_off())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

fn refuse(error: VerifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// rustls asks for this only when TLS 1.2 is compiled in and offered; here it is neither.
fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is not spoken".into())
}
