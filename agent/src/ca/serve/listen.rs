//! Connections: TLS and HTTP/2, within limits.

use super::certificate::OwnCertificate;
use super::service::Service;
use super::shares::{Connections, Place, Source};
use super::told;
use crate::tls;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// A node has one, and that for a minute: more than the largest cluster has nodes.
const MAX_CONNECTIONS: usize = 8192;

/// A node asks for 16 certificates at once.
const MAX_STREAMS: u32 = 64;

/// A token and a few other headers.
const MAX_HEAD: u32 = 32 << 10;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// A connection that nobody has asked by for so long, or twice as long, is ended.
const IDLE: Duration = Duration::from_secs(60);

/// A node opens a connection to ask by it. One that asks nothing for so long after its handshake is ended.
const FIRST_REQUEST: Duration = Duration::from_secs(5);

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What requests that are under way get when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// The time until the next try when no connection can be accepted, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<OwnCertificate>,
    service: Arc<Service>,
    stop: watch::Receiver<bool>,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(tls::authority_server_config(certificate)?);
    let places = Connections::new(MAX_CONNECTIONS);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = told(stop.clone()) => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = places.enter(Source::of(peer.ip())) else {
                    // Whoever brings them about could fill the log.
                    tracing::debug!(%peer, "refused: its source has as many connections as it may have");
                    continue;
                };
                let (acceptor, service, stop) = (acceptor.clone(), service.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(e) = connection(stream, peer, Arc::new(place), acceptor, service, stop).await {
                        tracing::debug!(%peer, "a connection has ended: {e}");
                    }
                });
            }
            Err(e) => {
                tracing::warn!("a connection cannot be accepted: {e}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, ended).await.is_err() {
        tracing::warn!("requests that were under way are cut");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    place: Arc<Place>,
    acceptor: TlsAcceptor,
    service: Arc<Service>,
    stop: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::select! {
        stream = timeout(HANDSHAKE, acceptor.accept(stream)) => stream??,
        () = place.is_taken() => return Ok(()),
    };
    let is_used = Arc::new(AtomicBool::new(false));
    let (used, entered) = (is_used.clone(), place.clone());
    let answer = service_fn(move |request| {
        used.store(true, Ordering::Relaxed);
        let (service, place) = (service.clone(), entered.clone());
        async move {
            let _request = place.request();
            Ok::<_, Infallible>(service.answer(request, peer).await)
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(KEEP_ALIVE);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // The first look is after the time for the first request, the others are as far apart as a connection may be idle.
    let mut idle = interval_at(Instant::now() + FIRST_REQUEST, IDLE);
    loop {
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = told(stop.clone()) => break,
            () = place.is_taken() => return Ok(()),
            _ = idle.tick() => if !is_used.swap(false, Ordering::Relaxed) { break },
        }
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
