//! TLS with a certificate authority over the network: no workload, but a server that is known by its host name.

use super::provider::provider;
use super::verify::{tls12_is_off, verify_chain};
use crate::identity::Trust;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use webpki::{EndEntityCert, KeyUsage};

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// For dialling the authority, under what it has us trust now.
pub fn authority_client_config(trust: Arc<Trust>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AuthorityVerifier { trust }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For being the authority. Who asks says so by a token, later.
pub fn authority_server_config(certificate: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Whether peers that trust the same would take this chain, leaf first, for a workload's.
pub fn verify_workload_chain(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(Error::NoCertificatesPresented) };
    let now = UnixTime::now();
    verify_chain(trust, leaf, intermediates, now, KeyUsage::server_auth())?;
    verify_chain(trust, leaf, intermediates, now, KeyUsage::client_auth())
}

/// A chain to a root of the mesh, and the host name that was dialled. A workload's certificate has no host name.
#[derive(Debug)]
struct AuthorityVerifier {
    trust: Arc<Trust>,
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_chain(&self.trust, end_entity, intermediates, now, KeyUsage::server_auth())?;
        let bad = |error| Error::InvalidCertificate(error);
        let parsed = EndEntityCert::try_from(end_entity).map_err(|_| bad(CertificateError::BadEncoding))?;
        match parsed.verify_is_valid_for_subject_name(server_name) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(_) => Err(bad(CertificateError::NotValidForNameContext {
                expected: server_name.to_owned(),
                presented: parsed.valid_dns_names().map(str::to_owned).collect(),
            })),
        }
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
