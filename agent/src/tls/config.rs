//! rustls configurations of a worker, made anew for each certificate.

use super::provider::provider;
use super::verify::{self, ClientVerifier, ServerVerifier};
use crate::identity::WorkloadCertificate;
use crate::mesh::SpiffeId;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, Error, RootCertStore, ServerConfig};
use std::sync::Arc;

/// HBONE is HTTP/2, and says so.
const ALPN: &[u8] = b"h2";

/// For accepting HBONE connections under `certificate`.
pub fn server_config(certificate: &WorkloadCertificate) -> Result<Arc<ServerConfig>, Error> {
    let trust_domain = certificate.identity.trust_domain().clone();
    let verifier =
        ClientVerifier::new(roots(certificate)?, trust_domain).map_err(|e| Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For dialling the peer that has to be `expected`.
pub fn client_config(
    certificate: &WorkloadCertificate,
    expected: &SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ServerVerifier { roots: roots(certificate)?, expected: expected.clone() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key.clone())));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The verified identity on the other side of a finished handshake.
pub fn peer_identity(connection: &CommonState) -> Option<SpiffeId> {
    verify::identity(connection.peer_certificates()?.first()?).ok()
}

fn roots(certificate: &WorkloadCertificate) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for root in &certificate.roots {
        store.add(root.clone())?;
    }
    Ok(Arc::new(store))
}
