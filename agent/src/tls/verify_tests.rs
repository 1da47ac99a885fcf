//! Whose certificates are accepted: chains, what is revoked, and the names of the mesh.

use super::*;
use crate::identity::{Crl, Root};
use crate::mesh::TrustDomain;
use crate::tls::explain;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::ServerName;
use std::time::Duration;
use time::OffsetDateTime;

const CART: &str = "spiffe://new/ns/shop/sa/cart";

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: Arc<Root>,
}

impl Authority {
    fn new(name: &str, life: Duration) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(7200);
        params.not_after = params.not_before + life;
        let certificate = params.self_signed(&key).unwrap();
        let root = Arc::new(Root::new(certificate.der().clone()).unwrap());
        Self { issuer: Issuer::new(params, key), root }
    }

    fn leaf(&self, uri: &str, serial: u64) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.serial_number = Some(serial.into());
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn crl(&self, serial: u64) -> Arc<Crl> {
        let now = OffsetDateTime::now_utc();
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            // What is out of date is better than none.
            next_update: now + Duration::from_secs(1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Arc::new(Crl::parse(list.signed_by(&self.issuer).unwrap().into()).unwrap())
    }
}

const HOURS_3: Duration = Duration::from_secs(3 * 3600);

fn domains(own: &str, aliases: &[&str]) -> TrustDomains {
    let domain = |name: &str| name.parse::<TrustDomain>().unwrap();
    TrustDomains::new(domain(own), aliases.iter().map(|name| domain(name)))
}

/// What a dialling and an accepting worker say of a peer with that certificate.
fn said(trust: Trust, domains: &TrustDomains, leaf: &CertificateDer<'_>) -> [String; 2] {
    let (trust, domains) = (Arc::new(trust), domains.clone());
    let now = UnixTime::now();
    let expected = SpiffeId::new(domains.own(), "shop", "cart");
    let server = ServerVerifier { trust: trust.clone(), domains: domains.clone(), expected };
    let name = ServerName::try_from("10.0.0.1").unwrap();
    let client = ClientVerifier { trust: watch::channel(trust).1, domains };
    let results = [
        server.verify_server_cert(leaf, &[], &name, &[], now).map(drop),
        client.verify_client_cert(leaf, &[], now).map(drop),
    ];
    results.map(|result| match result {
        Ok(()) => "accepted".to_owned(),
        Err(e) => explain(&std::io::Error::other(e)),
    })
}

// proves: ISO-1
#[test]
fn a_chain_that_is_longer_than_any_authoritys_is_refused_before_it_is_verified() {
    let authority = Authority::new("root", HOURS_3);
    let trust = Trust::new(slice::from_ref(&authority.root), &[]).unwrap();
    let leaf = authority.leaf(CART, 1);
    let shown = vec![authority.leaf(CART, 2); MOST_INTERMEDIATES + 1];
    let verified = |shown: &[CertificateDer<'_>]| {
        verify_chain(&trust, &leaf, shown, UnixTime::now(), KeyUsage::client_auth())
    };
    let refused = verified(&shown).unwrap_err();
    assert!(explain(&std::io::Error::other(refused)).contains("9 certificates between its own and a root"));
    verified(&shown[1..]).unwrap();
}

fn assert_says(said: &[String; 2], what: &str) {
    assert!(said.iter().all(|said| said.contains(what)), "{said:?}");
}

// proves: ID-2
#[test]
fn a_revoked_certificate_is_refused_in_either_role_and_others_are_not() {
    let authority = Authority::new("root", HOURS_3);
    let trust = || Trust::new(slice::from_ref(&authority.root), &[authority.crl(7)]).unwrap();
    let mesh = domains("new", &[]);
    assert_says(&said(trust(), &mesh, &authority.leaf(CART, 7)), "its certificate is revoked");
    assert_says(&said(trust(), &mesh, &authority.leaf(CART, 8)), "accepted");
}

// proves: ID-2
#[test]
fn of_two_roots_with_one_name_each_revokes_its_own() {
    let (one, other) = (Authority::new("root", HOURS_3), Authority::new("root", HOURS_3));
    let roots = [one.root.clone(), other.root.clone()];
    let trust = || Trust::new(&roots, &[one.crl(7), other.crl(8)]).unwrap();
    let mesh = domains("new", &[]);
    for (authority, serial, expected) in [
        (&one, 7, "its certificate is revoked"),
        (&one, 8, "accepted"),
        (&other, 7, "accepted"),
        (&other, 8, "its certificate is revoked"),
    ] {
        assert_says(&said(trust(), &mesh, &authority.leaf(CART, serial)), expected);
    }
}

// proves: ID-2
#[test]
fn a_list_counts_only_under_its_own_roots_signature() {
    let (own, stranger) = (Authority::new("root", HOURS_3), Authority::new("root", HOURS_3));
    let error = Trust::new(slice::from_ref(&own.root), &[stranger.crl(7)]).unwrap_err().to_string();
    assert!(error.contains("CN=root") && error.contains("not signed by"), "{error}");
    // The list of a root that is trusted no longer says nothing of others.
    let former = Authority::new("former", HOURS_3);
    let trust = Trust::new(slice::from_ref(&own.root), &[former.crl(7)]).unwrap();
    assert_says(&said(trust, &domains("new", &[]), &own.leaf(CART, 7)), "accepted");
}

// proves: ID-2
#[test]
fn certificates_of_all_trusted_roots_are_accepted_and_of_no_other() {
    let (one, other) = (Authority::new("one", HOURS_3), Authority::new("other", HOURS_3));
    let expired = Authority::new("expired", Duration::from_secs(3600));
    let roots = [one.root.clone(), other.root.clone(), expired.root.clone()];
    let (trust, mesh) = (|roots: &[Arc<Root>]| Trust::new(roots, &[]).unwrap(), domains("new", &[]));
    for authority in [&one, &other] {
        assert_says(&said(trust(&roots), &mesh, &authority.leaf(CART, 1)), "accepted");
    }
    let foreign = "an authority that is not this mesh's";
    assert_says(&said(trust(&roots), &mesh, &expired.leaf(CART, 1)), foreign);
    assert_says(&said(trust(&roots[1..]), &mesh, &one.leaf(CART, 1)), foreign);
    assert_says(&said(Trust::default(), &mesh, &one.leaf(CART, 1)), foreign);
}

// proves: ID-1
#[test]
fn a_workload_is_known_under_each_of_the_meshs_names() {
    let authority = Authority::new("root", HOURS_3);
    let said = |uri: &str, aliases: &[&str]| {
        let trust = Trust::new(slice::from_ref(&authority.root), &[]).unwrap();
        said(trust, &domains("new", aliases), &authority.leaf(uri, 1))
    };
    assert_says(&said("spiffe://old/ns/shop/sa/cart", &["older", "old"]), "accepted");
    let [dialling, accepting] = said("spiffe://old/ns/shop/sa/cart", &["older"]);
    assert!(dialling.contains("but spiffe://new/ns/shop/sa/cart was expected"), "{dialling}");
    assert!(accepting.contains("not of trust domain new or older"), "{accepting}");
    // Another workload is another one under any name.
    let [dialling, accepting] = said("spiffe://old/ns/shop/sa/admin", &["old"]);
    assert!(dialling.contains("was expected") && accepting == "accepted", "{dialling}, {accepting}");
}
