//! Keys of an API server, and how an administrator reaches it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

pub(super) const KUBECONFIG: &str = "admin.conf";

/// What an administrator of the cluster says to be one: it is as secret as the node that it is on.
pub(super) const TOKEN: &str = "pillion-tests";

/// Writes everything into the directory.
pub(super) fn write(dir: &Path) -> Result<()> {
    let mut params = named("authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = named("kube-apiserver");
    params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    let (key, accounts) = (KeyPair::generate()?, KeyPair::generate()?);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": dir.join("ca.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "admin"}}],
        "current-context": "bed",
    });
    for (file, text) in [
        ("ca.crt", authority.pem()),
        ("server.crt", params.signed_by(&key, &authority)?.pem()),
        ("server.key", key.serialize_pem()),
        ("sa.key", accounts.serialize_pem()),
        ("sa.pub", accounts.public_key_pem()),
        ("tokens.csv", format!("{TOKEN},admin,admin,\"system:masters\"\n")),
        (KUBECONFIG, Value::to_string(&config)),
    ] {
        fs::write(dir.join(file), text)?;
    }
    Ok(())
}

/// An authority and what it signs have to have different names.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
