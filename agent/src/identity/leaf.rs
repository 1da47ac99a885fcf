//! A worker's own key and the certificate made for it.

use super::{ChainId, IssuedCertificate, serial_text};
use crate::mesh::{SpiffeId, SpiffeIdError};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A fresh ECDSA P-256 key that has no certificate yet.
pub struct LeafKey(KeyPair);

/// A certificate with its key, as a worker holds it.
#[derive(Debug)]
pub struct WorkloadCertificate {
    pub identity: SpiffeId,
    pub key: Arc<CertifiedKey>,
    /// Who signed it, as people read it.
    pub issuer: String,
    /// Hexadecimal, as `openssl x509 -serial` prints it in lower case.
    pub serial: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// Why a key or what the authority answered cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    #[error("could not make a key or a signing request: {0}")]
    Key(String),
    #[error("the certificate authority's answer is not usable: {0}")]
    Certificate(String),
    #[error("the certificate authority's answer carries no identity of this mesh: {0}")]
    Identity(#[from] SpiffeIdError),
}

impl LeafKey {
    pub fn generate() -> Result<Self, LeafError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(|e| LeafError::Key(e.to_string()))
    }

    /// A signing request that proves possession of the key. Remote authorities read the identity from it.
    pub fn signing_request(
        &self,
        identity: &SpiffeId,
    ) -> Result<CertificateSigningRequestDer<'static>, LeafError> {
        let error = |e: rcgen::Error| LeafError::Key(e.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(identity.to_string().as_str().try_into().map_err(error)?)];
        Ok(params.serialize_request(&self.0).map_err(error)?.into())
    }

    /// Joins the key with what the authority issued for it.
    pub fn certificate(self, issued: IssuedCertificate) -> Result<WorkloadCertificate, LeafError> {
        let unusable = |e: &dyn std::fmt::Display| LeafError::Certificate(e.to_string());
        let leaf = issued.chain.first().ok_or_else(|| unusable(&"it is empty"))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|e| unusable(&e))?;
        let identity = uri_name(&parsed).ok_or_else(|| unusable(&"it names no URI"))?.parse()?;
        let (serial, issuer) = (serial_text(&parsed.serial.to_bytes_be()), parsed.issuer().to_string());
        let validity = parsed.validity().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()));
        let signing_key = any_ecdsa_type(&key).map_err(|e| LeafError::Key(e.to_string()))?;
        let key = CertifiedKey::new(issued.chain, signing_key);
        key.keys_match().map_err(|e| unusable(&e))?;
        Ok(WorkloadCertificate {
            identity,
            key: Arc::new(key),
            issuer,
            serial,
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
        })
    }
}

impl WorkloadCertificate {
    /// To find it among what is revoked.
    pub fn chain_id(&self) -> ChainId {
        ChainId::of(&self.key.cert)
    }
}

fn uri_name<'a>(certificate: &'a X509Certificate<'a>) -> Option<&'a str> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    })
}
