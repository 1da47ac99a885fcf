//! Certificates for peers that are no Pillion agents, for sidecars, and for those that should be refused.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::bed::Bed;

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The root certificate's PEM file.
    pub root: PathBuf,
    /// Where what it issues is written.
    dir: PathBuf,
}

/// What a certificate shall say.
pub struct Leaf {
    pub uris: Vec<String>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// A certificate with its key, in memory and as PEM files.
pub struct Credentials {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// The mesh's own: the root that the agents of the bed share. An agent has to have started.
    pub fn of_mesh(bed: &Bed) -> Result<Self> {
        let file = bed.ca_dir().join("ca.pem");
        let pem = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let key = KeyPair::try_from(&PrivateKeyDer::from_pem_slice(&pem)?)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from_pem_slice(&pem)?, key)?;
        Ok(Self { issuer, root: bed.ca_dir().join("root-cert.pem"), dir: make_dir(bed, "mesh")? })
    }

    /// Another one, that no agent trusts.
    pub fn stranger(bed: &Bed) -> Result<Self> {
        Self::new(bed, "stranger")
    }

    /// A new one. `name` is its directory's, in the bed's.
    pub fn new(bed: &Bed, name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        let dir = make_dir(bed, name)?;
        let root = dir.join("root-cert.pem");
        fs::write(&root, certificate.pem())?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(certificate.der(), key)?, root, dir })
    }

    /// A sound certificate for the service account of that name.
    pub fn issue(&self, service_account: &str) -> Result<Credentials> {
        self.sign(service_account, &Leaf::of(service_account))
    }

    /// Signs whatever is asked for. `name` is the files'.
    pub fn sign(&self, name: &str, leaf: &Leaf) -> Result<Credentials> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let san = |uri: &String| Ok(SanType::URI(uri.as_str().try_into()?));
        params.subject_alt_names = leaf.uris.iter().map(san).collect::<Result<_>>()?;
        (params.not_before, params.not_after) = (leaf.not_before, leaf.not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |kind: &str| self.dir.join(format!("{name}.{kind}"));
        let written = Credentials { certificate: file("crt"), key: file("key") };
        fs::write(&written.certificate, certificate.pem())?;
        fs::write(&written.key, key.serialize_pem())?;
        Ok(written)
    }
}

impl Leaf {
    /// What Pillion's own authority would say.
    pub fn of(service_account: &str) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            uris: vec![identity(service_account)],
            not_before: now - Duration::MINUTE,
            not_after: now + Duration::HOUR,
        }
    }

    pub fn uris<const N: usize>(self, uris: [&str; N]) -> Self {
        Self { uris: uris.map(str::to_owned).to_vec(), ..self }
    }

    /// As if it was issued by this much earlier, or later.
    pub fn shifted(self, by: Duration) -> Self {
        Self { not_before: self.not_before + by, not_after: self.not_after + by, ..self }
    }
}

impl Credentials {
    pub fn load(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let certificate = CertificateDer::from_pem_slice(&read(&self.certificate)?)?;
        Ok((certificate, PrivateKeyDer::from_pem_slice(&read(&self.key)?)?))
    }

    /// Envoy's `CommonTlsContext`: TLS 1.3 under this certificate, with peers of `root` whose SPIFFE
    /// id the matcher takes (`{"exact": …}`), and with these protocols offered by ALPN.
    pub fn envoy_tls(&self, root: &Path, identity: &Value, alpn: &[&str]) -> Value {
        json!({
            "alpn_protocols": alpn,
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": {"filename": self.certificate}, "private_key": {"filename": self.key},
            }],
            "validation_context": {
                "trusted_ca": {"filename": root},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": identity}],
            },
        })
    }
}

fn make_dir(bed: &Bed, name: &str) -> Result<PathBuf> {
    let dir = bed.dir().join("foreign").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The SPIFFE identity of a pod of the bed.
pub fn identity(service_account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{service_account}")
}
