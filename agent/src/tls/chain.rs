//! A peer's certificates, kept for as long as its connection: what was verified once may not hold for ever.

use super::verify::verify_chain;
use crate::identity::{ChainId, Trust};
use rustls::Error;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a peer has shown: its own certificate first, those of its authorities after it. One or two KiB.
pub struct PeerChain(Box<[CertificateDer<'static>]>);

/// Which part the peer had in the handshake.
#[derive(Clone, Copy, Debug)]
pub enum PeerRole {
    Client,
    Server,
}

impl PeerChain {
    pub fn new(shown: &[CertificateDer<'_>]) -> Self {
        Self(shown.iter().map(|certificate| certificate.clone().into_owned()).collect())
    }

    /// What to find the certificates by among those that are revoked later.
    pub fn id(&self) -> ChainId {
        ChainId::of(&self.0)
    }

    /// When the first of them expires; `None` where none can be read.
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        let expiry = |certificate: &CertificateDer<'static>| {
            let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
            Some(parsed.validity().not_after.to_datetime())
        };
        self.0.iter().filter_map(expiry).min()
    }

    /// Verifies the chain once more, by what is trusted now.
    ///
    /// # Errors
    /// Why a handshake with this chain would fail now.
    pub fn verify(&self, trust: &Trust, role: PeerRole) -> Result<(), Error> {
        let Some((own, intermediates)) = self.0.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        let usage = match role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        verify_chain(trust, own, intermediates, UnixTime::now(), usage)
    }
}
