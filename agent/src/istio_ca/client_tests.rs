//! The client, and a server of the protocol that says whatever a test wants it to.

use super::*;
use crate::grpc::frame;
use crate::identity::{EmbeddedCa, LeafKey, certificate_pem, issue_to_server};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What to answer to a request with these headers: a chain, or how it failed.
type Answer = Box<dyn Fn(&CertificateRequest, &HeaderMap) -> Result<Vec<String>, Status> + Send + Sync>;

#[derive(Debug)]
struct Certificate(Arc<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

struct Stage {
    dir: PathBuf,
    ca: Arc<EmbeddedCa>,
    answer: Arc<Mutex<Answer>>,
    trust: watch::Sender<Arc<Trust>>,
    client: RemoteCa,
    port: u16,
    server: JoinSet<()>,
}

impl Stage {
    /// Everything in order, at `localhost`; the server's certificate is for `name`.
    async fn set(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-client-{:x}", rand::random::<u64>()));
        let ca = Arc::new(EmbeddedCa::open(&dir, &"cluster.local".parse().unwrap()).unwrap());
        std::fs::write(dir.join("token"), "first\n").unwrap();
        let signer = ca.clone();
        let good: Answer = Box::new(move |request, _| Ok(sign(&signer, request, None)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (trust, trusted) = watch::channel(ca.trust().borrow().clone());
        let client = RemoteCa {
            channel: Channel::new(
                format!("localhost:{port}").parse().unwrap(),
                "east".parse().unwrap(),
                watch::channel(Arc::default()).1,
            ),
            token: dir.join("token"),
            trust: trusted,
            errors: watch::channel(vec!["the ConfigMap is not there".to_owned()]).1,
            follower: tokio::spawn(async {}),
        };
        let mut stage =
            Self { dir, ca, answer: Arc::new(Mutex::new(good)), trust, client, port, server: JoinSet::new() };
        stage.serve(listener, name);
        stage
    }

    fn serve(&mut self, listener: TcpListener, name: &str) {
        let signing = self.ca.signing().borrow().clone().unwrap();
        let (certificate, _) =
            issue_to_server(&signing, &[name.to_owned()], Duration::from_secs(60)).unwrap();
        let config = tls::authority_server_config(Arc::new(Certificate(Arc::new(certificate)))).unwrap();
        let (acceptor, answer) = (TlsAcceptor::from(config), self.answer.clone());
        self.server.spawn(async move {
            // Connections end with the server.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| respond(answer.clone(), request));
                    let http = http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    }

    fn answers(
        &self,
        answer: impl Fn(&CertificateRequest, &HeaderMap) -> Result<Vec<String>, Status> + Send + Sync + 'static,
    ) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    async fn ask(&self) -> Result<crate::identity::WorkloadCertificate, CaError> {
        let key = LeafKey::generate().unwrap();
        let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let csr = key.signing_request(&identity).unwrap();
        let request = SigningRequest { identity, csr, lifetime: Duration::from_secs(3600) };
        self.client.sign(request).await.map(|issued| key.certificate(issued).unwrap())
    }

    async fn error(&self) -> String {
        self.ask().await.expect_err("an error").to_string()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn respond(
    answer: Arc<Mutex<Answer>>,
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let request = crate::grpc::unframe(body.collect().await.unwrap().to_bytes()).unwrap();
    let said = (*answer.lock().unwrap())(&request, &head.headers);
    let (body, end) = match said {
        Ok(cert_chain) => (frame(&CertificateResponse { cert_chain }), Status::headers(Ok(()))),
        Err(status) => (Bytes::new(), Status::headers(Err(&status))),
    };
    Ok(Response::new(Full::new(body).with_trailers(async { Some(Ok(end)) }).boxed()))
}

/// As the server does: for the identity that is asked for, or another, with the root at the end.
fn sign(ca: &EmbeddedCa, request: &CertificateRequest, other: Option<&str>) -> Vec<String> {
    let csr = pem::parse(&request.csr).unwrap().into_contents();
    let identity = other.or(request.impersonated()).unwrap().parse().unwrap();
    let lifetime = Duration::from_secs(60);
    let issued = ca.sign(SigningRequest { identity, csr: csr.into(), lifetime }).now_or_never().unwrap();
    let root = ca.trust().borrow().roots().next().unwrap().certificate.clone();
    issued.unwrap().chain.iter().chain([&root]).map(certificate_pem).collect()
}

#[tokio::test]
async fn a_certificate_comes_without_the_root_and_with_the_life_that_was_granted() {
    let stage = Stage::set("localhost").await;
    let certificate = stage.ask().await.unwrap();
    assert_eq!(certificate.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(certificate.key.cert.len(), 1);
    let life = certificate.not_after - time::OffsetDateTime::now_utc();
    assert!(life <= time::Duration::minutes(1), "{life}");
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_taken() {
    let stage = Stage::set("localhost").await;
    let ca = stage.ca.clone();
    stage.answers(move |request, _| Ok(sign(&ca, request, Some("spiffe://cluster.local/ns/shop/sa/web"))));
    assert!(stage.error().await.contains("the certificate is for [URI"));
    let (ca, key) = (stage.ca.clone(), LeafKey::generate().unwrap());
    let csr = key.signing_request(&"spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()).unwrap();
    let csr = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", csr.to_vec()));
    stage.answers(move |request, _| {
        Ok(sign(&ca, &CertificateRequest { csr: csr.clone(), ..request.clone() }, None))
    });
    assert!(stage.error().await.contains("for another key"));
    let other = Stage::set("localhost").await;
    let ca = other.ca.clone();
    stage.answers(move |request, _| Ok(sign(&ca, request, None)));
    assert!(stage.error().await.contains("peers would not accept"));
    stage.answers(|_, _| Ok(vec![]));
    assert!(stage.error().await.contains("no certificate in it"));
}

#[tokio::test]
async fn a_refusal_is_one_and_the_token_is_read_for_each_request() {
    let stage = Stage::set("localhost").await;
    stage.answers(|_, headers| {
        let token = headers["authorization"].to_str().unwrap();
        Err(Status::new(Code::PermissionDenied, format!("not by {token}")))
    });
    let error = stage.ask().await.err().unwrap();
    assert!(
        matches!(error, CaError::Refused { .. }) && error.to_string().contains("not by Bearer first"),
        "{error}"
    );
    std::fs::write(stage.dir.join("token"), "second").unwrap();
    assert!(stage.error().await.contains("not by Bearer second"));
    stage.answers(|_, _| Err(Status::new(Code::Unauthenticated, "who?")));
    let error = stage.ask().await.err().unwrap();
    assert!(
        matches!(error, CaError::Unavailable { .. }) && error.to_string().contains("UNAUTHENTICATED: who?"),
        "{error}"
    );
    std::fs::remove_file(stage.dir.join("token")).unwrap();
    assert!(stage.error().await.contains("--ca-token"));
}

/// istiod's answers do not say why.
#[tokio::test]
async fn the_cluster_is_named_in_every_request_and_a_refusal_of_istiods_says_what_to_look_at() {
    let stage = Stage::set("localhost").await;
    stage.answers(|_, headers| match headers.get("clusterid").map(|id| id.as_bytes()) {
        Some(b"east") => {
            Err(Status::new(Code::Unauthenticated, "request impersonation authentication failure"))
        }
        other => Err(Status::new(Code::InvalidArgument, format!("the cluster is {other:?}"))),
    });
    let error = stage.ask().await.err().unwrap();
    assert!(matches!(error, CaError::Refused { .. }), "{error}");
    let said = error.to_string();
    for part in ["impersonation", "CA_TRUSTED_NODE_ACCOUNTS", "--cluster-id east", "ns/shop/sa/cart"] {
        assert!(said.contains(part), "{said}");
    }
    stage.answers(|_, _| Err(Status::new(Code::Unauthenticated, "request authenticate failure")));
    let said = stage.error().await;
    assert!(said.contains("--cluster-id east") && said.contains("--ca-token"), "{said}");
}

#[tokio::test]
async fn nobody_is_asked_before_the_roots_are_known_and_only_one_of_them() {
    let stage = Stage::set("localhost").await;
    let trust = stage.trust.send_replace(Arc::default());
    let said = stage.error().await;
    assert!(said.contains("the roots are not known yet: the ConfigMap is not there"), "{said}");
    let other = Stage::set("localhost").await;
    stage.trust.send_replace(other.ca.trust().borrow().clone());
    let said = stage.error().await;
    assert!(said.contains("UnknownIssuer") || said.contains("BadSignature"), "{said}");
    stage.trust.send_replace(trust);
    stage.ask().await.unwrap();

    let elsewhere = Stage::set("another.name").await;
    let said = elsewhere.error().await;
    assert!(said.contains("not valid for name"), "{said}");
}

#[tokio::test]
async fn an_authority_that_was_away_is_found_again() {
    let mut stage = Stage::set("localhost").await;
    stage.ask().await.unwrap();
    stage.server.shutdown().await;
    let error = stage.ask().await.err().unwrap();
    assert!(matches!(error, CaError::Unavailable { .. }), "{error}");
    let listener = TcpListener::bind(("127.0.0.1", stage.port)).await.unwrap();
    stage.serve(listener, "localhost");
    stage.ask().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_has_ended_unseen_costs_no_request() {
    let mut stage = Stage::set("localhost").await;
    stage.ask().await.unwrap();
    stage.server.shutdown().await;
    let listener = TcpListener::bind(("127.0.0.1", stage.port)).await.unwrap();
    stage.serve(listener, "localhost");
    stage.ask().await.unwrap();
}
