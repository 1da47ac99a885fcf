//! Serves HTTP/1 on a listener, TCP or Unix, within limits: few connections, short requests, little time, one request each.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections served at a time. One more ends the oldest: a hundred clients that say nothing must not keep
/// the kubelet's probe waiting, and what the oldest asked for is long answered.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a whole connection may take: slow is the reader, not the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The size of a request's head, at most.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The time until the next try when no connection can be accepted, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests.
pub trait Route: Send + Sync + 'static {
    fn route(&self, request: &Request<Incoming>) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Where connections come from.
pub trait Listener: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

/// Serves until dropped, and every connection with it.
pub async fn serve<R: Route>(listener: impl Listener, routes: Arc<R>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!("a connection cannot be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() >= MAX_CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        let routes = routes.clone();
        oldest_first.push_back(connections.spawn(async move {
            // Late, slow and broken clients are theirs to mend.
            let _ = timeout(CONNECTION_TIMEOUT, connection(stream, &*routes)).await;
        }));
    }
}

pub async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    routes: &impl Route,
) -> hyper::Result<()> {
    let service =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(routes.route(&request).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        // One request a connection: none is held by a client that has nothing to ask.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    pin!(connection).await
}
