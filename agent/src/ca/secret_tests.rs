use super::super::memory::PrivateDir;
use super::*;
use crate::identity::{EmbeddedCa, mint};
use serde_json::json;

fn secret(value: serde_json::Value) -> Secret {
    serde_json::from_value(value).unwrap()
}

fn dir() -> PrivateDir {
    PrivateDir::new(&std::env::temp_dir()).unwrap()
}

#[test]
fn a_secret_is_a_directory_and_back_with_the_times_of_its_files() {
    let root = mint::root("cluster.local").unwrap();
    let mut first = secret(json!({"data": {"note": "aGVsbG8="}}));
    let mut files = Files::of_root(root.pem());
    let trusted = Content { text: "certificate".to_owned(), written: 7 };
    files.0.insert("trusted.ab12.pem".to_owned(), trusted);
    files.clone().put_into(&mut first);
    assert!(first.data.as_ref().unwrap().contains_key("note"), "what is not ours stays");
    assert_eq!(Files::of_secret(&first).unwrap(), files);

    let dir = dir();
    files.write(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("trusted/ab12.pem")).unwrap(), "certificate");
    assert_eq!(Files::of_dir(dir.path()).unwrap(), files);
    files.0.remove("trusted.ab12.pem");
    files.write(dir.path()).unwrap();
    assert_eq!(Files::of_dir(dir.path()).unwrap(), files);
}

#[test]
fn a_secret_without_a_root_says_so() {
    let said = Files::of_secret(&secret(json!({"data": {"ca-crl.pem": ""}}))).unwrap_err();
    assert!(said.contains("no ca.pem"), "{said}");
    let said =
        Files::of_secret(&secret(json!({"type": TLS, "data": {"tls.key": "", "ca.crt": ""}}))).unwrap_err();
    assert!(said.contains("no tls.crt"), "{said}");
}

#[test]
fn names_that_lead_elsewhere_are_nobodys() {
    for key in ["trusted.", "trusted..pem", "trusted.x", "trusted/../x.pem", "other.pem", "ca.pem.bak"] {
        assert_eq!(path(key), None, "{key}");
    }
}

#[tokio::test]
async fn what_cert_manager_makes_signs_below_the_root_that_it_names() {
    use crate::identity::{CertificateAuthority, LeafKey, SigningRequest};
    use crate::mesh::SpiffeId;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = authority("root").self_signed(&root_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(root.der(), &root_key).unwrap();
    let below = authority("below").signed_by(&key, &issuer).unwrap();
    let data = [
        ("tls.key", key.serialize_pem()),
        ("tls.crt", format!("{}{}", below.pem(), root.pem())),
        ("ca.crt", root.pem()),
    ];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    let foreign = Secret { type_: Some(TLS.to_owned()), data: Some(data.into()), ..Secret::default() };

    let dir = dir();
    Files::of_secret(&foreign).unwrap().write(dir.path()).unwrap();
    let domain = "cluster.local".parse().unwrap();
    let ca = EmbeddedCa::open(dir.path(), &domain).unwrap();
    assert_eq!(ca.trust().borrow().roots().count(), 2);
    let identity = SpiffeId::new(&domain, "shop", "cart");
    let csr = LeafKey::generate().unwrap().signing_request(&identity).unwrap();
    let issued = ca.sign(SigningRequest { identity, csr, lifetime: Duration::from_secs(60) }).await.unwrap();
    assert_eq!(
        issued.chain[1..],
        [below.der().clone()],
        "peers that know the root alone get what is between"
    );
}
