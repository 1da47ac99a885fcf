//! rustls configurations of a worker, made anew for each certificate. Trust may change in between.

use super::chain::PeerChain;
use super::provider::provider;
use super::verify::{self, ClientVerifier, ServerVerifier};
use crate::identity::{Trust, WorkloadCertificate};
use crate::mesh::{SpiffeId, TrustDomains};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use std::sync::Arc;
use tokio::sync::watch;

/// HBONE is HTTP/2, and says so.
const ALPN: &[u8] = b"h2";

/// For accepting HBONE connections under `certificate`, from whoever `trust` vouches for at that time.
pub fn server_config(
    certificate: &WorkloadCertificate,
    trust: watch::Receiver<Arc<Trust>>,
    domains: &TrustDomains,
) -> Result<Arc<ServerConfig>, Error> {
    let verifier = ClientVerifier { trust, domains: domains.clone() };
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
    trust: Arc<Trust>,
    domains: &TrustDomains,
    expected: &SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = ServerVerifier { trust, domains: domains.clone(), expected: expected.clone() };
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

/// What the peer has shown in a finished handshake.
pub fn peer_chain(connection: &CommonState) -> PeerChain {
    PeerChain::new(connection.peer_certificates().unwrap_or_default())
}
