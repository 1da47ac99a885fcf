//! What certificates are verified against: the roots of the mesh, and the lists of what they have revoked.

use super::crl::Crl;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use webpki::{CertRevocationList, EndEntityCert};
use x509_parser::prelude::{FromDer, X509Certificate};

/// One consistent picture, immutable. Verifiers take the latest at every handshake.
#[derive(Debug, Default)]
pub struct Trust {
    roots: Vec<Trusted>,
}

/// A root, with the lists that count for chains to it.
#[derive(Debug)]
pub struct Trusted {
    pub root: Arc<Root>,
    /// Newest first: of several lists for one issuer the first is asked.
    crls: Vec<Arc<Crl>>,
}

/// A certificate that chains may end at.
#[derive(Debug)]
pub struct Root {
    pub certificate: CertificateDer<'static>,
    pub anchor: TrustAnchor<'static>,
    /// As people read it; names alone do not tell roots apart.
    pub subject: String,
    /// SHA-256 of the certificate, in lower-case hexadecimal digits.
    pub fingerprint: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// Its public key's bits, as signatures are verified by.
    key: Vec<u8>,
}

/// A list that says it is a trusted root's, and is not.
#[derive(Debug, thiserror::Error)]
#[error("the CRL of {issuer} is not signed by the trusted root of that name")]
pub struct ForgedCrl {
    issuer: String,
}

/// What tells each certificate of a chain from all others: its issuer, and its number there. A connection keeps this of
/// its peer, a hundred bytes or so.
#[derive(Clone, Debug)]
pub struct ChainId(Box<[CertificateId]>);

#[derive(Clone, Debug)]
struct CertificateId {
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
}

impl Trust {
    /// Joins each list with its root. One that names no root is an intermediate authority's, or of a root that is trusted
    /// no longer: it stays with all roots, and its signature is verified when it is asked.
    pub(crate) fn new(roots: &[Arc<Root>], crls: &[Arc<Crl>]) -> Result<Self, ForgedCrl> {
        let mut newest_first: Vec<&Arc<Crl>> = crls.iter().collect();
        newest_first.sort_by_key(|crl| std::cmp::Reverse(crl.this_update));
        let names_a_root = |crl: &Crl| roots.iter().any(|root| root.is_named_by(crl));
        let forged = |crl: &&&Arc<Crl>| names_a_root(crl) && !roots.iter().any(|root| root.has_signed(crl));
        if let Some(forged) = newest_first.iter().find(forged) {
            return Err(ForgedCrl { issuer: forged.issuer.clone() });
        }
        let trusted = |root: &Arc<Root>| {
            let counts = |crl: &&&Arc<Crl>| root.has_signed(crl) || !names_a_root(crl);
            Trusted {
                root: root.clone(),
                crls: newest_first.iter().filter(counts).map(|&crl| crl.clone()).collect(),
            }
        };
        Ok(Self { roots: roots.iter().map(trusted).collect() })
    }

    pub fn roots(&self) -> impl Iterator<Item = &Arc<Root>> {
        self.roots.iter().map(|trusted| &trusted.root)
    }

    /// Those that have not expired.
    pub fn valid_at(&self, now: UnixTime) -> impl Iterator<Item = &Trusted> {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        self.roots.iter().filter(move |trusted| now < trusted.root.not_after)
    }

    /// The serial number of a certificate of the chain that is revoked, if one is.
    pub fn revoked(&self, chain: &ChainId) -> Option<String> {
        let lists = || self.roots.iter().flat_map(|trusted| &trusted.crls);
        let revoked = chain.0.iter().find(|id| lists().any(|crl| crl.revokes(&id.issuer, &id.serial)))?;
        Some(serial_text(&revoked.serial))
    }

    /// How many certificates are revoked.
    pub fn revocations(&self) -> usize {
        self.lists().map(|crl| crl.revoked.len()).sum()
    }

    /// From what others have made of it for them, as it was written down: certificates of roots, and lists of what they have
    /// revoked; `crls` may be empty.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_pem(roots: &str, crls: &str) -> Result<Self, String> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(roots.as_bytes())
            .map(|certificate| Root::new(certificate.map_err(|e| e.to_string())?).map(Arc::new))
            .collect::<Result<_, _>>()?;
        if roots.is_empty() {
            return Err("there is no certificate in it".into());
        }
        let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(crls.as_bytes())
            .map(|crl| Crl::parse(crl.map_err(|e| e.to_string())?).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Self::new(&roots, &crls).map_err(|e| e.to_string())
    }

    /// What [`Trust::from_pem`] reads.
    pub fn pem(&self) -> (String, String) {
        let roots = self.roots().map(|root| certificate_pem(&root.certificate)).collect();
        (roots, self.lists().map(|crl| crl.pem()).collect())
    }

    /// Each list once.
    fn lists(&self) -> impl Iterator<Item = &Arc<Crl>> {
        let mut lists: Vec<&Arc<Crl>> = Vec::new();
        for crl in self.roots.iter().flat_map(|trusted| &trusted.crls) {
            if !lists.iter().any(|there| Arc::ptr_eq(there, crl)) {
                lists.push(crl);
            }
        }
        lists.into_iter()
    }
}

impl Trusted {
    pub fn crls(&self) -> Vec<&CertRevocationList<'static>> {
        self.crls.iter().map(|crl| &crl.list).collect()
    }
}

impl Root {
    /// # Errors
    /// Why the certificate is none that chains may end at.
    pub(crate) fn new(certificate: CertificateDer<'static>) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| e.to_string())?;
        if !parsed.is_ca() {
            return Err("its certificate is not a certificate authority's".into());
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|e| e.to_string())?.to_owned();
        Ok(Self {
            anchor,
            subject: parsed.subject().to_string(),
            fingerprint: fingerprint(&certificate),
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            key: parsed.public_key().subject_public_key.data.to_vec(),
            certificate,
        })
    }

    /// Enough of it to tell roots apart.
    pub fn short_fingerprint(&self) -> &str {
        &self.fingerprint[..16]
    }

    /// Whether chains end here by right, and not only because it is trusted itself.
    pub(crate) fn is_self_issued(&self) -> bool {
        is_self_issued(&self.certificate)
    }

    pub(crate) fn is_named_by(&self, crl: &Crl) -> bool {
        crl.list.issuer() == self.anchor.subject.as_ref()
    }

    pub(crate) fn has_signed(&self, crl: &Crl) -> bool {
        self.is_named_by(crl) && crl.is_signed_by(&self.key)
    }
}

impl ChainId {
    /// Of what a peer has shown, or shows itself; what cannot be read was not verified either.
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let id = |certificate| {
            let parsed = EndEntityCert::try_from(certificate).ok()?;
            Some(CertificateId { issuer: parsed.issuer().into(), serial: parsed.serial().into() })
        };
        Self(chain.iter().filter_map(id).collect())
    }
}

/// Whether a certificate is in its issuer's name: a root's.
pub(crate) fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|parsed| parsed.subject() == parsed.issuer())
}

pub(crate) fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))
}

/// As `openssl x509 -serial` prints it, in lower case.
pub(crate) fn serial_text(serial: &[u8]) -> String {
    hexadecimal(serial.iter().skip_while(|byte| **byte == 0))
}

fn hexadecimal<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// rustls's SHA-256 is the one that is there.
fn fingerprint(certificate: &[u8]) -> String {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("a suite of TLS 1.3");
    hexadecimal(suite.common.hash_provider.hash(certificate).as_ref())
}
