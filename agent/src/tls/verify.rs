//! Who is on the other side? A chain to a root of the mesh, nothing in it revoked, and exactly one SPIFFE identity.

use super::provider::provider;
use crate::identity::Trust;
use crate::mesh::{SpiffeId, TrustDomains};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::slice;
use std::sync::Arc;
use tokio::sync::watch;
use webpki::{EndEntityCert, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};

/// Why a peer with a good chain is still not who it should be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("its certificate must name exactly one URI, but names {0}")]
    Names(usize),
    #[error(
        "it shows {0} certificates between its own and a root, and {MOST_INTERMEDIATES} are the most that are looked at"
    )]
    Chain(usize),
    #[error("its certificate names no workload of a mesh: {0}")]
    Form(#[from] crate::mesh::SpiffeIdError),
    #[error(
        "it is {found}, but {expected} was expected at this address: check the service account of the pod that the \
         manifests have there, and that no other pod has taken the address over"
    )]
    Identity { expected: SpiffeId, found: SpiffeId },
    #[error(
        "it is {found}, which is not of trust domain {}: both nodes need the same --trust-domain, or each other's in \
         --trust-domain-aliases", names(.expected)
    )]
    TrustDomain { expected: TrustDomains, found: SpiffeId },
}

/// Verifies whom a worker dials: exactly the identity that the mesh has at that address, under any of the mesh's names.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub trust: Arc<Trust>,
    pub domains: TrustDomains,
    pub expected: SpiffeId,
}

/// Verifies who dials a worker: any workload of the mesh. What it may do is policy's to say. The trust is the one at
/// the time of the handshake.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub trust: watch::Receiver<Arc<Trust>>,
    pub domains: TrustDomains,
}

/// A stranger chooses how many he shows, and each costs signatures to check before anything is known of him. Authorities have
/// two or three, and some show their root besides.
const MOST_INTERMEDIATES: usize = 8;

/// A chain to a root that is trusted, and nothing in it is revoked as far as is known.
pub(super) fn verify_chain(
    trust: &Trust,
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), Error> {
    if intermediates.len() > MOST_INTERMEDIATES {
        return Err(refuse(VerifyError::Chain(intermediates.len())));
    }
    let algorithms = provider().signature_verification_algorithms.all;
    let certificate = EndEntityCert::try_from(end_entity).map_err(in_rustls_words)?;
    let mut refusal = webpki::Error::UnknownIssuer;
    // One root at a time: two may have one name, and then the CRL of one would be asked about chains to the other.
    for trusted in trust.valid_at(now) {
        let crls = trusted.crls();
        let revocation = RevocationOptionsBuilder::new(&crls).ok();
        let revocation = revocation.map(|o| o.with_status_policy(UnknownStatusPolicy::Allow).build());
        let anchor = slice::from_ref(&trusted.root.anchor);
        match certificate.verify_for_usage(algorithms, anchor, intermediates, now, usage, revocation, None) {
            Ok(_) => return Ok(()),
            Err(e) if is_of_another_root(&refusal) => refusal = e,
            Err(_) => {}
        }
    }
    Err(in_rustls_words(refusal))
}

/// What a root says of chains that are not to it.
fn is_of_another_root(error: &webpki::Error) -> bool {
    use webpki::Error as E;
    matches!(error, E::UnknownIssuer | E::InvalidSignatureForPublicKey)
}

/// rustls sends the alert that fits.
fn in_rustls_words(error: webpki::Error) -> Error {
    use CertificateError as C;
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => C::BadEncoding,
        E::CertNotValidYet { time, not_before } => C::NotValidYetContext { time, not_before },
        E::CertExpired { time, not_after } => C::ExpiredContext { time, not_after },
        E::UnknownIssuer => C::UnknownIssuer,
        E::InvalidSignatureForPublicKey => C::BadSignature,
        E::CertRevoked => C::Revoked,
        other => C::Other(OtherError(Arc::new(other))),
    })
}

/// The one identity in a certificate.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    let parsed = EndEntityCert::try_from(certificate)
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
        verify_chain(&self.trust, end_entity, intermediates, now, KeyUsage::server_auth())?;
        let found = identity(end_entity)?;
        if !self.domains.same_workload(&found, &self.expected) {
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
        let trust = self.trust.borrow().clone();
        verify_chain(&trust, end_entity, intermediates, now, KeyUsage::client_auth())?;
        let found = identity(end_entity)?;
        if !self.domains.contains(found.trust_domain()) {
            return Err(refuse(VerifyError::TrustDomain { expected: self.domains.clone(), found }));
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
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn refuse(error: VerifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// rustls asks for this only when TLS 1.2 is compiled in and offered; here it is neither.
pub(super) fn tls12_is_off() -> Error {
    Error::General("TLS 1.2 is not spoken".into())
}

fn names(domains: &TrustDomains) -> String {
    domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
