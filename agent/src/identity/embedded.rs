//! The embedded certificate authority: a self-signed root, kept in one file, shared by the nodes that see it.
//!
//! It is meant for a machine, a demo and a test bed. A cluster has an authority of its own.

use super::authority::{BoxFuture, CaError, CertificateAuthority, IssuedCertificate, SigningRequest};
use super::files::{self, RootFileError};
use crate::mesh::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;

/// The root outlives any machine it is made on; rotating it is a matter of trust bundles, not of its age.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Leafs are valid from a little before they are made: peers' clocks differ (Istio backdates by 2 minutes).
const BACKDATE: Duration = Duration::from_secs(120);

pub struct EmbeddedCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    not_after: OffsetDateTime,
}

impl EmbeddedCa {
    /// Loads the root from `dir`, or makes one there; of several agents that start at once one wins, and all
    /// use its root. The file holds a private key and is readable by its owner only.
    ///
    /// # Errors
    /// When the directory cannot be used, or the root in it is not usable: each with the path and the remedy.
    pub fn open(dir: &Path, trust_domain: &TrustDomain) -> Result<Self, RootFileError> {
        let root = files::load_or_create(dir, || new_root(trust_domain))?;
        let issuer = Issuer::from_ca_cert_der(&root.certificate, root.key)
            .map_err(|e| RootFileError::unusable(&root.path, e))?;
        Ok(Self { issuer, root: root.certificate, not_after: root.not_after })
    }

    fn issue(&self, request: &SigningRequest) -> Result<IssuedCertificate, CaError> {
        let identity = &request.identity;
        let refused = |reason: String| CaError::Refused { identity: identity.clone(), reason };
        let csr =
            CertificateSigningRequestParams::from_der(&request.csr).map_err(|e| refused(e.to_string()))?;
        let now = OffsetDateTime::now_utc();
        let not_after = (now + request.lifetime).min(self.not_after);
        if not_after <= now {
            let reason = format!("its root expired on {}; remove it and restart every agent", self.not_after);
            return Err(CaError::Unavailable { identity: identity.clone(), reason });
        }
        let leaf = CertificateSigningRequestParams {
            params: leaf_params(identity, now - BACKDATE, not_after).map_err(|e| refused(e.to_string()))?,
            public_key: csr.public_key,
        };
        let leaf = leaf.signed_by(&self.issuer).map_err(|e| refused(e.to_string()))?;
        Ok(IssuedCertificate { chain: vec![leaf.der().clone()], roots: vec![self.root.clone()] })
    }
}

impl CertificateAuthority for EmbeddedCa {
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<IssuedCertificate, CaError>> {
        Box::pin(async move { self.issue(&request) })
    }
}

fn leaf_params(
    identity: &SpiffeId,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().as_str().try_into()?)];
    params.not_before = not_before;
    params.not_after = not_after;
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn new_root(trust_domain: &TrustDomain) -> Result<(KeyPair, CertificateDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.to_string());
    params.distinguished_name.push(DnType::CommonName, "Pillion root");
    params.not_before = OffsetDateTime::now_utc() - BACKDATE;
    params.not_after = OffsetDateTime::now_utc() + ROOT_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    Ok((key, certificate.der().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::LeafKey;

    #[tokio::test]
    async fn a_leaf_carries_its_identity_and_nothing_that_the_request_claimed() {
        let dir = std::env::temp_dir().join(format!("pillion-ca-{}", rand::random::<u64>()));
        let ca = EmbeddedCa::open(&dir, &"cluster.local".parse().unwrap()).unwrap();
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/admin".parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let request = SigningRequest {
            identity: identity.clone(),
            csr: key.signing_request(&other).unwrap(),
            lifetime: Duration::from_secs(3600),
        };
        let issued = ca.sign(request).await.unwrap();
        let certificate = key.certificate(issued).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(certificate.identity, identity);
        let life = certificate.not_after - certificate.not_before;
        assert_eq!(life.whole_seconds(), 3600 + 120);
    }
}
