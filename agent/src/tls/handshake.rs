//! The opening of a TLS connection, on either side.

use super::session::Session;
use super::stream::{Arrival, Stage, TlsStream};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The dialling side's connection.
pub type TlsClient<T> = TlsStream<UnbufferedClientConnection, T>;

/// The accepting side's connection.
pub type TlsServer<T> = TlsStream<UnbufferedServerConnection, T>;

/// Shakes hands with the server behind `socket`. [`explain`](super::explain()) tells what an error means.
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    socket: T,
) -> io::Result<TlsClient<T>> {
    let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    shake_hands(TlsStream::new(socket, session)).await
}

/// Shakes hands with the client behind `socket`. [`explain`](super::explain()) tells what an error means.
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    socket: T,
) -> io::Result<TlsServer<T>> {
    let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    shake_hands(TlsStream::new(socket, session)).await
}

/// The bytes that the other side may send before its handshake is done. A ClientHello with a post-quantum key share is 1.5 KiB;
/// the longest chain that is accepted (`verify.rs`) is nine certificates of 1 to 2 KiB each.
pub const LARGEST_HANDSHAKE: usize = 32 * 1024;

async fn shake_hands<S: Session, T: AsyncRead + AsyncWrite + Unpin>(
    mut stream: TlsStream<S, T>,
) -> io::Result<TlsStream<S, T>> {
    // A client has the first word.
    let mut step = stream.take_in(&mut []).map(Some);
    let mut received = 0;
    loop {
        // Also an alert that says what went wrong; the error counts, whether it can be sent or not.
        let sent = poll_fn(|cx| stream.poll_send(cx)).await;
        match step? {
            Some(Stage::Open) => {
                sent?;
                return Ok(stream);
            }
            Some(Stage::Handshake) if received > LARGEST_HANDSHAKE => {
                let kib = LARGEST_HANDSHAKE / 1024;
                let reason = format!("the peer's handshake is not done after {kib} KiB");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            Some(Stage::Handshake) => sent?,
            Some(Stage::Ended) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        step = poll_fn(|cx| stream.poll_arrival(cx)).await.map(|arrival| {
            let Arrival { stage, bytes } = arrival?;
            received += bytes;
            Some(stage)
        });
    }
}
