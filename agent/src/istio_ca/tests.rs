use super::messages::CertificateRequest;
use super::roots::{Follower, Published};
use super::*;
use crate::cluster::What;
use crate::grpc::{Code, Status, frame, unframe};
use crate::identity::mint;
use crate::manifest::names;
use crate::mesh::{Backend, Host, Locality, Mesh, Service, ServicePort};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::watch;

fn mesh(endpoints: &[(&str, bool)]) -> watch::Receiver<Arc<Mesh>> {
    let hosts = endpoints.iter().map(|(address, draining)| Host {
        address: address.parse().unwrap(),
        node: None,
        draining: *draining,
    });
    let backends = vec![Backend { slice: 0, port: 15012 }];
    let port = ServicePort { port: 15012, name: String::new(), backends };
    let address = "10.96.0.7".parse().unwrap();
    let service = Service {
        namespace: "mesh".into(),
        name: "ca".into(),
        cluster_ips: vec![address],
        locality: Locality::Anywhere,
        is_refused: false,
        ports: vec![port],
        slices: vec![hosts.collect()],
    };
    let services = [(address, Arc::new(service))].into();
    watch::channel(Arc::new(Mesh { generation: 1, services, ..Mesh::default() })).1
}

#[tokio::test]
async fn a_service_of_the_cluster_is_found_without_dns_the_ready_endpoints_first() {
    let mesh = mesh(&[("10.0.0.1", true), ("10.0.0.2", false)]);
    for host in ["ca.mesh.svc", "ca.mesh.svc.cluster.local", "ca.mesh.svc.corp.example"] {
        let address: CaAddr = format!("{host}:15012").parse().unwrap();
        let found = address.endpoints(&mesh).await.unwrap();
        assert_eq!(found, ["10.0.0.2:15012", "10.0.0.1:15012"].map(|a| a.parse().unwrap()), "{host}");
    }
    let error = |address: &str| {
        let address: CaAddr = address.parse().unwrap();
        let mesh = mesh.clone();
        async move { address.endpoints(&mesh).await.unwrap_err() }
    };
    assert!(error("other.mesh.svc:15012").await.contains("no Service mesh/other"));
    assert!(error("ca.mesh.svc:443").await.contains("no port 443"));
    let nobody = self::mesh(&[]);
    let address: CaAddr = "ca.mesh.svc:15012".parse().unwrap();
    assert!(address.endpoints(&nobody).await.unwrap_err().contains("no ready endpoint"));
    let unknown = watch::channel(Arc::default()).1;
    assert!(address.endpoints(&unknown).await.unwrap_err().contains("no mesh is known yet"));
    let local: CaAddr = "localhost:15012".parse().unwrap();
    assert!(local.endpoints(&unknown).await.unwrap()[0].ip().is_loopback());
}

#[test]
fn an_address_has_a_host_name_and_a_port() {
    for bad in ["", "ca", "ca:", "ca:0", ":15012", "ca:http", "https://ca:1", "[::1]:15012", "ca.:15012"] {
        assert!(bad.parse::<CaAddr>().is_err(), "{bad}");
    }
    assert!(names::is_subdomain("ca.mesh.svc"));
}

#[test]
fn messages_and_statuses_read_back_as_written() {
    let request = CertificateRequest::for_identity("csr".into(), 7, "spiffe://a/ns/b/sa/c".into());
    let framed = frame(&request);
    assert_eq!(unframe::<CertificateRequest>(framed.clone()), Ok(request.clone()));
    assert_eq!(request.impersonated(), Some("spiffe://a/ns/b/sa/c"));
    for bad in [&framed[..3], &framed[..9], &[&framed[..], b"x"].concat(), &[&[1], &framed[1..]].concat()] {
        assert!(unframe::<CertificateRequest>(Bytes::copy_from_slice(bad)).is_err());
    }
    let status = Status::new(Code::PermissionDenied, "100 % »no«\n");
    assert_eq!(Status::read(&Status::headers(Err(&status))), Some(Err(status)));
    assert_eq!(Status::read(&Status::headers(Ok(()))), Some(Ok(())));
    assert_eq!(Status::read(&http::HeaderMap::new()), None);
}

/// As Istio's own clients write it: fields in any order, values of other kinds beside.
#[test]
fn a_request_of_ztunnel_is_read() {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart";
    let mut value = vec![0x1a, identity.len() as u8];
    value.extend(identity.as_bytes());
    let field = |key: &str, value: &[u8]| {
        let mut field = vec![0x0a, key.len() as u8];
        field.extend(key.as_bytes());
        field.extend([0x12, value.len() as u8]);
        field.extend(value);
        [&[0x0a, field.len() as u8][..], &field[..]].concat()
    };
    let metadata = [field("ImpersonatedIdentity", &value), field("Other", &[0x20, 1])].concat();
    let mut message = vec![0x22, metadata.len() as u8];
    message.extend(metadata);
    message.extend([0x18, 0x80, 0xa3, 0x05]);
    message.extend([0x0a, 1, b'x']);
    let mut body = vec![0, 0, 0, 0, message.len() as u8];
    body.extend(message);
    let request: CertificateRequest = unframe(body.into()).unwrap();
    assert_eq!((request.csr.as_str(), request.validity_duration), ("x", 86400));
    assert_eq!(request.impersonated(), Some(identity));
}

#[test]
fn what_is_no_good_in_the_config_map_leaves_the_last_good_trust() {
    let mut follower = Follower::new("mesh/roots".parse().unwrap());
    let (trust, errors) = (follower.trust(), follower.errors());
    assert_eq!(trust.borrow().roots().count(), 0, "before, nobody is trusted");
    assert!(errors.borrow()[0].contains("mesh/roots has not been heard of yet"));
    let root = || crate::identity::certificate_pem(&mint::root("cluster.local").unwrap().root.certificate);
    let says = |roots: &str, crls: &str| Published::of(roots, crls);
    follower.take(What::All(vec![]));
    assert!(errors.borrow()[0].contains("there is no ConfigMap"));
    let first = root();
    follower.take(What::Put(says(&first, "")));
    assert_eq!((trust.borrow().roots().count(), errors.borrow().len()), (1, 0));
    for bad in [
        says("", ""),
        says("garbage", ""),
        says(&first, "-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n"),
    ] {
        follower.take(What::Put(bad));
        assert!(errors.borrow()[0].contains("mesh/roots cannot be used"), "{:?}", errors.borrow());
        // A watch that is made anew says nothing of what it has brought before.
        follower.take(What::Connected);
        assert_eq!((trust.borrow().roots().count(), errors.borrow().len()), (1, 1));
    }
    follower.take(What::Put(says(&format!("{first}{}", root()), "")));
    assert_eq!((trust.borrow().roots().count(), errors.borrow().len()), (2, 0));
    follower.take(What::Disconnected("away".into()));
    follower.take(What::Deleted(says("", "")));
    assert_eq!((trust.borrow().roots().count(), errors.borrow().len()), (2, 2));
}
