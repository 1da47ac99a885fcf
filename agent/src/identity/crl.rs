//! Certificate revocation lists, as X.509 has them (RFC 5280 §5).

use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::CertificateRevocationListDer;
use std::fmt;
use time::OffsetDateTime;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::{Any, Sequence};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// What one authority has revoked.
pub(crate) struct Crl {
    pub der: CertificateRevocationListDer<'static>,
    /// As verifiers ask it.
    pub list: CertRevocationList<'static>,
    /// As people read it.
    pub issuer: String,
    pub this_update: OffsetDateTime,
    pub revoked: Vec<Revoked>,
    signed: Signed,
}

/// An entry.
#[derive(Clone)]
pub(crate) struct Revoked {
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    pub since: OffsetDateTime,
}

/// What the signature is of, and how it was made.
struct Signed {
    message: Vec<u8>,
    /// An AlgorithmIdentifier's content.
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

impl Crl {
    /// # Errors
    /// When it is none, or one of a form that verifiers do not take: a delta, version 1, an unknown critical extension.
    pub fn parse(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let list = OwnedCertRevocationList::from_der(&der).map_err(|e| e.to_string())?;
        let (_, parsed) = CertificateRevocationList::from_der(&der).map_err(|e| e.to_string())?;
        let revoked = parsed.iter_revoked_certificates().map(|entry| Revoked {
            serial: entry.user_certificate.to_bytes_be(),
            since: entry.revocation_date.to_datetime(),
        });
        let signed = Signed {
            message: parsed.tbs_cert_list.as_ref().to_vec(),
            algorithm: algorithm(&der).ok_or("it names no signature algorithm")?,
            signature: parsed.signature_value.data.to_vec(),
        };
        Ok(Self {
            list: list.into(),
            issuer: parsed.issuer().to_string(),
            this_update: parsed.last_update().to_datetime(),
            revoked: revoked.collect(),
            signed,
            der,
        })
    }

    pub fn pem(&self) -> String {
        pem::encode(&pem::Pem::new("X509 CRL", self.der.to_vec()))
    }

    /// Whether the owner of this public key has signed the list.
    pub fn is_signed_by(&self, key: &[u8]) -> bool {
        let Signed { message, algorithm, signature } = &self.signed;
        let algorithms = default_provider().signature_verification_algorithms.all;
        let mut fitting = algorithms.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm);
        fitting.any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
    }

    /// `issuer` and `serial` as the certificate has them.
    pub fn revokes(&self, issuer: &[u8], serial: &[u8]) -> bool {
        self.list.issuer() == issuer && matches!(self.list.find_serial(serial), Ok(Some(_)))
    }
}

/// The parser gives it in parts only: it is the second element of the outer sequence.
fn algorithm(der: &[u8]) -> Option<Vec<u8>> {
    let (_, list) = Sequence::from_der(der).ok()?;
    let (rest, _) = Any::from_der(&list.content).ok()?;
    let (_, algorithm) = Any::from_der(rest).ok()?;
    Some(algorithm.data.to_vec())
}

impl PartialEq for Crl {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crl").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}
