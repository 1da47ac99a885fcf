//! What the certificates of the embedded authority say: its roots' and those that it signs for workloads.

use super::ca_dir::SigningRoot;
use super::trust::Root;
use crate::mesh::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// A root outlives any machine it is made on; `pillion ca rotate` makes another when it is wanted.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Certificates are valid from a little before they are made: peers' clocks differ (Istio backdates by 2 minutes).
const BACKDATE: Duration = Duration::from_secs(120);

/// A new root of `organization`, which is the trust domain. No two have the same name: a verifier finds root and CRL by it.
pub(crate) fn root(organization: &str) -> Result<SigningRoot, String> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, format!("Pillion root {:08x}", rand::random::<u32>()));
    params.not_before = OffsetDateTime::now_utc() - BACKDATE;
    params.not_after = OffsetDateTime::now_utc() + ROOT_LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(|e| e.to_string())?;
    Ok(SigningRoot { key, root: Arc::new(Root::new(certificate.der().clone())?) })
}

/// A workload's certificate, from a little before `now` on.
pub(super) fn leaf(
    identity: &SpiffeId,
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = end_entity(now, not_after);
    params.subject_alt_names = vec![SanType::URI(identity.to_string().as_str().try_into()?)];
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    Ok(params)
}

/// The certificate of a server that is known by host names, and is no workload.
pub(super) fn server(
    names: &[String],
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = end_entity(now, not_after);
    let san = |name: &String| Ok(SanType::DnsName(name.as_str().try_into()?));
    params.subject_alt_names = names.iter().map(san).collect::<Result<_, rcgen::Error>>()?;
    Ok(params)
}

fn end_entity(now: OffsetDateTime, not_after: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = now - BACKDATE;
    params.not_after = not_after;
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params
}
