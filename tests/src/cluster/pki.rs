//! Keys, certificates and kubeconfigs, as files in a directory. What is there is kept.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::network;

/// The keys of one cluster.
pub(super) struct Pki {
    dir: PathBuf,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Components that ask the API server, and as whom: the file's name, the common name, the organisation.
const CLIENTS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("kube-controller-manager", "system:kube-controller-manager", ""),
    ("kube-scheduler", "system:kube-scheduler", ""),
    ("kube-proxy", "system:kube-proxy", ""),
];

impl Pki {
    pub(super) fn at(state: &Path) -> Self {
        Self { dir: state.join("pki") }
    }

    /// Makes all that the control plane and these nodes need, unless it is there.
    pub(super) fn create(&self, nodes: &[String]) -> Result<()> {
        if self.file("done").exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        let (ca, front_proxy) = (self.authority("ca")?, self.authority("front-proxy-ca")?);
        self.certificate("apiserver", &ca, "kube-apiserver", "", &server_names()?)?;
        self.certificate(
            "apiserver-kubelet-client",
            &ca,
            "kube-apiserver-kubelet-client",
            "system:masters",
            &[],
        )?;
        self.certificate("front-proxy-client", &front_proxy, "front-proxy-client", "", &[])?;
        for (file, name, organisation) in CLIENTS {
            self.certificate(file, &ca, name, organisation, &[])?;
            self.kubeconfig(file)?;
        }
        for (number, node) in (1..).zip(nodes) {
            let names = [
                SanType::DnsName(node.as_str().try_into()?),
                SanType::IpAddress(network::node(number).into()),
            ];
            self.certificate(node, &ca, &format!("system:node:{node}"), "system:nodes", &names)?;
            self.kubeconfig(node)?;
        }
        // Signs service accounts' tokens.
        let key = KeyPair::generate()?;
        self.write("sa.key", &key.serialize_pem())?;
        self.write("sa.pub", &key.public_key_pem())?;
        self.write("done", "")
    }

    /// A file's path, for a command line.
    pub(super) fn path(&self, file: &str) -> String {
        self.file(file).display().to_string()
    }

    fn file(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn authority(&self, name: &str) -> Result<Authority> {
        let mut params = params(name, "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        self.write(&format!("{name}.crt"), &authority.pem())?;
        self.write(&format!("{name}.key"), &authority.key().serialize_pem())?;
        Ok(authority)
    }

    fn certificate(
        &self,
        file: &str,
        ca: &Authority,
        name: &str,
        organisation: &str,
        names: &[SanType],
    ) -> Result<()> {
        let (key, mut params) = (KeyPair::generate()?, params(name, organisation));
        params.subject_alt_names = names.to_vec();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.write(&format!("{file}.crt"), &params.signed_by(&key, ca)?.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    /// How whoever holds the certificate `name` reaches the API server.
    fn kubeconfig(&self, name: &str) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "pillion", "cluster": {
                "server": network::api_server(), "certificate-authority": self.file("ca.crt"),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": self.file(&format!("{name}.crt")), "client-key": self.file(&format!("{name}.key")),
            }}],
            "contexts": [{"name": "pillion", "context": {"cluster": "pillion", "user": name}}],
            "current-context": "pillion",
        });
        self.write(&format!("{name}.conf"), &Value::to_string(&config))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.file(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

fn params(name: &str, organisation: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    if !organisation.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::DAY, now + Duration::days(3650));
    params
}

/// The names and addresses that the API server is reached by.
fn server_names() -> Result<Vec<SanType>> {
    const NAMES: [&str; 5] = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = [network::CONTROL_PLANE, network::API_SERVICE, Ipv4Addr::LOCALHOST];
    let mut names: Vec<SanType> = addresses.map(|address| SanType::IpAddress(IpAddr::V4(address))).into();
    for name in NAMES {
        names.push(SanType::DnsName(name.try_into()?));
    }
    Ok(names)
}
