//! The one call: who asks, for whom, and the signature.

use super::caller;
use super::metrics::Metrics;
use super::permit::Permits;
use super::shares::{Slots, Source};
use super::token::check_form;
use crate::grpc::{self, CONTENT_TYPE, Code, Status};
use crate::identity::{
    CaError, CertificateAuthority, EmbeddedCa, SigningRequest, certificate_pem, is_self_issued,
};
use crate::istio_ca::messages::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::mesh::SpiffeId;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use webpki::EndEntityCert;

/// A CSR of a long RSA key has 2 KiB.
const MAX_REQUEST: usize = 64 << 10;

/// Requests that are answered at once, each with a question or two to the API server.
const AT_ONCE: usize = 64;

/// Of one node: it asks for so many certificates at once.
const AT_ONCE_OF_EACH: usize = 16;

/// More wait for so long.
const WAIT: Duration = Duration::from_secs(5);

/// How long a request may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

type Answer = Response<BoxBody<Bytes, Infallible>>;

pub struct Service {
    pub client: kube::Client,
    pub audience: String,
    pub permits: Permits,
    pub ca: Arc<EmbeddedCa>,
    pub max_lifetime: Duration,
    pub slots: Slots,
    pub metrics: Arc<Metrics>,
}

pub fn slots() -> Slots {
    Slots::new(AT_ONCE, AT_ONCE_OF_EACH)
}

impl Service {
    pub async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let begun = Instant::now();
        let mut asker = Asker::default();
        let result = self.create_certificate(request, Source::of(peer.ip()), &mut asker).await;
        let code = result.as_ref().map_or_else(|status| status.code.name(), |_| "OK");
        self.metrics.answered(code, begun.elapsed());
        match result {
            Ok(response) => answer(&response),
            Err(status) => {
                let Asker { account, wanted } = asker;
                tracing::warn!(%peer, account, wanted, code = status.code.name(), "refused: {}", status.message);
                refusal(&status)
            }
        }
    }

    async fn create_certificate(
        &self,
        request: Request<Incoming>,
        source: Source,
        asker: &mut Asker,
    ) -> Result<CertificateResponse, Status> {
        if request.uri().path() != CREATE_CERTIFICATE {
            return Err(Status::new(Code::Unimplemented, format!("there is {CREATE_CERTIFICATE} alone")));
        }
        let (head, body) = request.into_parts();
        let token = bearer(&head.headers)?;
        let is_none = |why| Status::new(Code::Unauthenticated, format!("the token is not accepted: {why}"));
        check_form(&token, &self.audience).map_err(is_none)?;
        let (request, csr) = read_request(read(body).await?)?;
        asker.wanted = request.impersonated().map(str::to_owned);
        let Ok(Some(_slot)) = timeout(WAIT, self.slots.acquire(source)).await else {
            return Err(Status::new(Code::Unavailable, "too many ask at once; try again"));
        };
        let caller = caller::review(&self.client, &self.audience, token).await?;
        asker.account = Some(caller.account.to_string());
        let identity = self.permits.identity(&caller, request.impersonated()).await?;
        let lifetime = match u64::try_from(request.validity_duration) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds).min(self.max_lifetime),
            _ => self.max_lifetime,
        };
        self.sign(identity, csr, lifetime).await
    }

    async fn sign(
        &self,
        identity: SpiffeId,
        csr: Vec<u8>,
        lifetime: Duration,
    ) -> Result<CertificateResponse, Status> {
        let request = SigningRequest { identity, csr: csr.into(), lifetime };
        let issued = self.ca.sign(request).await.map_err(|e| match e {
            CaError::Refused { reason, .. } => invalid(format!("the CSR cannot be signed: {reason}")),
            CaError::Unavailable { .. } => {
                Status::new(Code::Unavailable, "the authority has no good root now")
            }
        })?;
        let mut chain = issued.chain;
        chain.extend(chain.last().and_then(|last| self.root_of(last)));
        Ok(CertificateResponse { cert_chain: chain.iter().map(certificate_pem).collect() })
    }

    /// Whoever has signed the end of a chain, if he is trusted: clients of Istio expect a root there.
    fn root_of(&self, last: &CertificateDer<'static>) -> Option<CertificateDer<'static>> {
        if is_self_issued(last) {
            return None;
        }
        let parsed = EndEntityCert::try_from(last).ok()?;
        let trust = self.ca.trust().borrow().clone();
        let mut roots = trust.roots();
        let root = roots.find(|root| root.anchor.subject.as_ref() == parsed.issuer())?;
        Some(root.certificate.clone())
    }
}

/// For the log.
#[derive(Default)]
struct Asker {
    account: Option<String>,
    wanted: Option<String>,
}

fn bearer(headers: &HeaderMap) -> Result<String, Status> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|given| given.strip_prefix("Bearer ")).map(str::trim);
    match token {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(Status::new(Code::Unauthenticated, "there is no bearer token in `authorization`")),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Status> {
    let body = timeout(ARRIVES_WITHIN, Limited::new(body, MAX_REQUEST).collect()).await;
    let body = body.map_err(|_| invalid("the request has not arrived in time".to_owned()))?;
    let body = body.map_err(|e| invalid(format!("the request cannot be read: {e}")))?;
    Ok(body.to_bytes())
}

/// What is asked, and the CSR's contents (DER).
pub(crate) fn read_request(body: Bytes) -> Result<(CertificateRequest, Vec<u8>), Status> {
    let request: CertificateRequest =
        grpc::unframe(body).map_err(|e| invalid(format!("the request cannot be read: {e}")))?;
    let csr = pem::parse(&request.csr).map_err(|e| invalid(format!("the CSR is no PEM: {e}")))?;
    if csr.tag() != "CERTIFICATE REQUEST" {
        return Err(invalid(format!("a CERTIFICATE REQUEST is needed, and this is a {}", csr.tag())));
    }
    Ok((request, csr.into_contents()))
}

fn answer(response: &CertificateResponse) -> Answer {
    let body = Full::new(grpc::frame(response));
    let trailers = Status::headers(Ok(()));
    let body = body.with_trailers(async move { Some(Ok(trailers)) });
    with_content_type(Response::new(body.boxed()))
}

/// Without a message the head is the end.
fn refusal(status: &Status) -> Answer {
    let mut answer = Response::new(Empty::new().boxed());
    answer.headers_mut().extend(Status::headers(Err(status)));
    with_content_type(answer)
}

fn with_content_type(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(CONTENT_TYPE));
    answer
}

fn invalid(message: String) -> Status {
    Status::new(Code::InvalidArgument, message)
}
