//! The connection to the authority: one, kept, made anew when it is gone or when what it was verified against has changed.

use super::address::CaAddr;
use super::messages::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use crate::grpc::{self, CONTENT_TYPE, Code, Status};
use crate::identity::Trust;
use crate::mesh::Mesh;
use crate::tls;
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For one endpoint, TLS included; then it is the next one's turn.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// An authority asks the API server about each token.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A peer that is gone without a word is noticed before somebody needs it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A chain of a few certificates.
const MAX_ANSWER: usize = 256 << 10;

type Sender = SendRequest<Full<Bytes>>;

pub struct Channel {
    pub address: CaAddr,
    mesh: watch::Receiver<Arc<Mesh>>,
    connection: Mutex<Option<Connection>>,
    /// Which endpoint is tried first: another one after each that failed, and for each agent.
    turn: AtomicUsize,
}

struct Connection {
    sender: Sender,
    trust: Arc<Trust>,
}

impl Channel {
    pub fn new(address: CaAddr, mesh: watch::Receiver<Arc<Mesh>>) -> Self {
        let turn = AtomicUsize::new(rand::random::<u16>().into());
        Self { address, mesh, connection: Mutex::default(), turn }
    }

    /// Asks for a certificate, of an authority that `trust` vouches for.
    pub async fn create_certificate(
        &self,
        request: &CertificateRequest,
        token: &str,
        trust: &Arc<Trust>,
    ) -> Result<CertificateResponse, Status> {
        let (sender, is_kept) = self.sender(trust).await.map_err(unavailable)?;
        let answer = self.exchange(sender, request, token).await;
        match &answer {
            Err(status) if status.code == Code::Unavailable => self.forget().await,
            _ => return answer,
        }
        if !is_kept {
            return answer;
        }
        // What was kept may have ended just now, and another endpoint may know better.
        let (sender, _) = self.sender(trust).await.map_err(unavailable)?;
        self.exchange(sender, request, token).await
    }

    /// Has a connection to an authority that `trust` vouches for, which is kept for the first question.
    pub async fn reach(&self, trust: &Arc<Trust>) -> Result<(), String> {
        self.sender(trust).await.map(drop)
    }

    async fn exchange(
        &self,
        sender: Sender,
        request: &CertificateRequest,
        token: &str,
    ) -> Result<CertificateResponse, Status> {
        match timeout(ANSWER_WITHIN, ask(sender, &self.address, request, token)).await {
            Ok(answer) => answer,
            Err(_) => Err(unavailable(format!("no answer within {ANSWER_WITHIN:?}"))),
        }
    }

    /// The next connection is to another endpoint.
    async fn forget(&self) {
        *self.connection.lock().await = None;
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection, and whether it had been there.
    async fn sender(&self, trust: &Arc<Trust>) -> Result<(Sender, bool), String> {
        let mut connection = self.connection.lock().await;
        if let Some(Connection { sender, trust: its }) = &*connection
            && Arc::ptr_eq(its, trust)
            && sender.is_ready()
        {
            return Ok((sender.clone(), true));
        }
        let sender = self.dial(trust).await?;
        *connection = Some(Connection { sender: sender.clone(), trust: trust.clone() });
        Ok((sender, false))
    }

    async fn dial(&self, trust: &Arc<Trust>) -> Result<Sender, String> {
        let endpoints = self.address.endpoints(&self.mesh).await?;
        let mut error = format!("{} has no address", self.address.host);
        let first = self.turn.load(Ordering::Relaxed);
        for turn in 0..endpoints.len() {
            let endpoint = endpoints[(first + turn) % endpoints.len()];
            match timeout(CONNECT_WITHIN, connect(endpoint, &self.address.host, trust)).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(e)) => error = format!("{endpoint}: {e}"),
                Err(_) => error = format!("{endpoint}: no connection within {CONNECT_WITHIN:?}"),
            }
        }
        Err(error)
    }
}

async fn connect(endpoint: SocketAddr, host: &str, trust: &Arc<Trust>) -> Result<Sender, String> {
    let stream = TcpStream::connect(endpoint).await.map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let config = tls::authority_client_config(trust.clone()).map_err(|e| e.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|e| e.to_string())?;
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            tracing::debug!(%endpoint, "the connection to the certificate authority has ended: {e}");
        }
    });
    Ok(sender)
}

async fn ask(
    mut sender: Sender,
    address: &CaAddr,
    request: &CertificateRequest,
    token: &str,
) -> Result<CertificateResponse, Status> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| unavailable("--ca-token holds no token: a token is one line".to_owned()))?;
    bearer.set_sensitive(true);
    let request = Request::post(format!("https://{address}{CREATE_CERTIFICATE}"))
        .header("content-type", CONTENT_TYPE)
        .header("te", "trailers")
        .header("authorization", bearer)
        .body(Full::new(grpc::frame(request)))
        .map_err(|e| unavailable(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| unavailable(e.to_string()))?;
    let (head, body) = response.into_parts();
    match Status::read(&head.headers) {
        Some(Err(status)) => return Err(status),
        None if head.status != http::StatusCode::OK => {
            return Err(unavailable(format!("it answers {}, which is no gRPC", head.status)));
        }
        _ => {}
    }
    read(body).await
}

async fn read(body: Incoming) -> Result<CertificateResponse, Status> {
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| unavailable(e.to_string()))?;
    match body.trailers().and_then(Status::read) {
        Some(Ok(())) => {}
        Some(Err(status)) => return Err(status),
        None => return Err(unavailable("the answer is cut off".to_owned())),
    }
    grpc::unframe(body.to_bytes()).map_err(unavailable)
}

fn unavailable(message: String) -> Status {
    Status::new(Code::Unavailable, message)
}
