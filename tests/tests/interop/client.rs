//! A small HBONE client that can be wrong on purpose.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};
use pillion_tests::Pod;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::credentials::Credentials;

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the server answered a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// The stream was reset, with this code of HTTP/2.
    Reset(u32),
    /// There is no connection to ask on: it ended in the handshake, or on the first read after it.
    NoConnection,
}

/// TLS as HBONE has it, unless changed: TLS 1.3, ALPN h2. The server may be anybody.
pub fn tls(credentials: Option<&Credentials>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut config = match credentials.map(Credentials::load).transpose()? {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// Sends one request without a body, and gives the answer's kind.
pub fn ask(pod: &Pod, server: SocketAddr, tls: ClientConfig, method: Method, target: &str) -> Result<Answer> {
    let request = Request::builder().method(method).uri(target).body(())?;
    in_pod(pod, async move {
        match connect(server, tls).await {
            Ok(stream) => answer(h2::client::handshake(stream).await, request).await,
            Err(_) => Ok(Answer::NoConnection),
        }
    })
}

/// The same without TLS.
pub fn ask_plain(pod: &Pod, server: SocketAddr) -> Result<Answer> {
    let request = Request::builder().method(Method::CONNECT).uri(server.to_string()).body(())?;
    in_pod(pod, async move {
        let stream = TcpStream::connect(server).await?;
        answer(h2::client::handshake(stream).await, request).await
    })
}

/// Sends a request with these pseudo-headers, which no HTTP library would. Gives the type of the frame that
/// answers it (RFC 9113, section 6).
pub fn ask_raw(pod: &Pod, server: SocketAddr, tls: ClientConfig, fields: &[(&str, &str)]) -> Result<u8> {
    // Literals without indexing, without Huffman coding (RFC 7541, section 6.2.2); all shorter than 127.
    let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let block: Vec<u8> =
        fields.iter().flat_map(|(name, value)| [vec![0], string(name), string(value)].concat()).collect();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
    in_pod(pod, async move {
        let mut stream = connect(server, tls).await?;
        stream.write_all(&bytes).await?;
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.context("the connection ended without an answer")?;
            let mut body = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            stream.read_exact(&mut body).await?;
            let of_stream = header[5..] == [0, 0, 0, 1];
            if of_stream || header[3] == GOAWAY {
                return Ok(header[3]);
            }
        }
    })
}

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

async fn connect(server: SocketAddr, tls: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server).await?;
    TlsConnector::from(Arc::new(tls)).connect(ServerName::from(server.ip()), stream).await
}

type Opened<T> = Result<(SendRequest<Bytes>, h2::client::Connection<T, Bytes>), h2::Error>;

async fn answer<T>(opened: Opened<T>, request: Request<()>) -> Result<Answer>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Ok((send, connection)) = opened else { return Ok(Answer::NoConnection) };
    let exchange = async {
        let mut send = send.ready().await?;
        let (response, _body): (ResponseFuture, _) = send.send_request(request, false)?;
        response.await
    };
    tokio::pin!(exchange);
    let response = tokio::select! {
        biased;
        response = &mut exchange => response,
        // What it read before it ended counts.
        _ = connection => exchange.await,
    };
    Ok(match response {
        Ok(response) => Answer::Status(response.status().as_u16()),
        Err(e) if e.is_reset() => Answer::Reset(e.reason().context("a reset has a reason")?.into()),
        Err(_) => Answer::NoConnection,
    })
}

fn in_pod<T: Send>(pod: &Pod, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    pod.visit(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.context("no answer came")? })
    })
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
