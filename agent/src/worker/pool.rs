//! HBONE connections to peers, kept for the next stream.
//!
//! A connection belongs to one peer *under one identity*: a pod that takes over another's address, or the same
//! pod made anew, is another peer and is dialled anew.

use super::PoolReport;
use super::budget::{Budget, OverBudget, OverMemory};
use super::certificate::Identity;
use super::dial::{DialError, Dialer};
use super::early::Early;
use super::proof::{Before, Proof};
use super::revocation::peer_revoked;
use super::tasks::{self, Companion};
use crate::hbone::{Client, HBONE_PORT, OpenError, Stream};
use crate::mesh::{Mesh, SpiffeId, Workload};
use crate::tally::{Counted, Tally};
use crate::telemetry::{HandshakeRole, WorkerMetrics};
use crate::tls::{self, PeerRole, explain};
use futures::future::select_all;
use rustls_pki_types::ServerName;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// A connection without streams is kept this long: longer than the pauses of a busy app, shorter than a peer
/// would mind.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A peer gets more connections while those that it has are busy, up to this many. They are for streams that would wait
/// behind large or stalled ones; when none are busy, they end with [`IDLE_TIMEOUT`].
const CONNECTIONS_WHILE_BUSY: usize = 4;

/// A peer that has so many connections gets another one only where those carry [`STREAMS_EACH`] streams each. A peer says itself
/// how many streams it takes on one: it may not have a connection for each.
const CONNECTIONS_AT_ONCE: usize = 16;

/// Envoy and ztunnel take 100 or more, Pillion 1,024.
const STREAMS_EACH: usize = 32;

/// A peer never has more: 100,000 streams to Pillion.
const CONNECTIONS_AT_MOST: usize = 512;

/// A new stream waits this long for such a connection before it takes a busy one.
const PATIENCE_WHILE_BUSY: Duration = Duration::from_millis(250);

pub(super) struct Pool {
    means: Means,
    peers: RefCell<HashMap<PeerKey, Rc<Peer>>>,
}

/// What it takes to connect to a peer.
struct Means {
    dialer: Rc<Dialer>,
    identity: Rc<Identity>,
    metrics: Arc<WorkerMetrics>,
    budget: Budget,
}

/// Who a connection is to. The uid tells a pod from its successor under the same name, address and identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PeerKey {
    address: IpAddr,
    uid: String,
    identity: SpiffeId,
}

#[derive(Default)]
struct Peer {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Connections that are no longer for new streams but still carry old ones.
    leaving: RefCell<Vec<Leaving>>,
    /// One dials, the others wait for what comes of it.
    dialling: Mutex<Option<Failure>>,
}

struct Leaving {
    driver: AbortHandle,
    streams: Tally,
}

struct Connection {
    client: Client,
    driver: AbortHandle,
    proof: Rc<Proof>,
    /// It has carried a stream.
    proven: Cell<bool>,
}

/// A dial that failed, with the time it began: whoever was waiting by then shares the answer.
struct Failure {
    began: Instant,
    error: Arc<PeerError>,
}

/// Why there is no stream to a peer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("could not connect: {0}")]
    Dial(#[from] DialError),
    #[error("mutual TLS with {peer} at {address} failed: {reason}")]
    Tls { peer: SpiffeId, address: SocketAddr, reason: String },
    #[error("{address} did not finish its TLS handshake within {limit:?}")]
    HandshakeTimeout { address: SocketAddr, limit: Duration },
    #[error("HTTP/2 with {address} failed: {source}")]
    Http2 { address: SocketAddr, source: h2::Error },
    #[error("{0}")]
    Budget(#[from] OverBudget),
    #[error("{0} takes few streams on a connection, and has all the connections that it may")]
    Crowded(SpiffeId),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("no answer to CONNECT within {0:?}")]
    OpenTimeout(Duration),
    #[error("{0}")]
    Shared(Arc<PeerError>),
}

impl PeerError {
    /// Envoy's response flags.
    pub fn response_flags(&self) -> &'static str {
        match self {
            Self::Dial(e) => e.response_flags(),
            Self::Budget(_) | Self::Crowded(_) => OverBudget::RESPONSE_FLAGS,
            Self::HandshakeTimeout { .. } | Self::OpenTimeout(_) => "UT",
            Self::Tls { .. } | Self::Http2 { .. } => "UF",
            Self::Open(OpenError::Status(http::StatusCode::UNAUTHORIZED)) => "DENY",
            Self::Open(OpenError::Withdrawn(_)) => "DC",
            Self::Open(OpenError::OverMemory) => OverMemory::RESPONSE_FLAGS,
            Self::Open(_) => "UF",
            Self::Shared(e) => e.response_flags(),
        }
    }
}

impl Pool {
    pub fn new(
        dialer: Rc<Dialer>,
        identity: Rc<Identity>,
        metrics: Arc<WorkerMetrics>,
        budget: Budget,
    ) -> Self {
        Self { means: Means { dialer, identity, metrics, budget }, peers: RefCell::default() }
    }

    /// A stream to `target` on `peer`, over a connection that is there or a new one. What the app says early is on it.
    pub async fn open(
        &self,
        workload: &Workload,
        target: SocketAddr,
        source: SocketAddr,
        early: &mut Early<'_>,
    ) -> Result<Stream, PeerError> {
        let key =
            PeerKey { address: target.ip(), uid: workload.uid.clone(), identity: workload.identity.clone() };
        let limit = self.means.dialer.settings.connect_timeout;
        loop {
            let peer = self.peers.borrow_mut().entry(key.clone()).or_default().clone();
            let (connection, guard) = peer.connection(&self.means, &key).await?;
            match timeout(limit, connection.client.open(target, source, early.said(), guard)).await {
                Ok(Ok(stream)) => {
                    connection.proven.set(true);
                    return Ok(stream);
                }
                // On its way out just now: the request was not looked at, and the next connection gets it. One that
                // never carried a stream has no such excuse (a peer that refuses our certificate says so only now).
                Ok(Err(OpenError::Unusable(reason))) if connection.proven.get() => {
                    tracing::debug!(peer = %key.identity, "connection takes no stream: {reason}");
                    peer.forget(&connection);
                }
                Ok(Err(e)) => {
                    if let OpenError::OverMemory = e {
                        self.means.metrics.budget_refused("memory");
                    }
                    return Err(e.into());
                }
                Err(_) => return Err(PeerError::OpenTimeout(limit)),
            }
        }
    }

    /// Drops what the mesh no longer has. A pod that only left the mesh finishes its streams; one that is gone,
    /// or whose address is another's now, is cut off.
    pub fn update(&self, mesh: &Mesh) {
        self.peers.borrow_mut().retain(|key, peer| match mesh.owner(key.address) {
            Some(w) if w.uid == key.uid && w.identity == key.identity => {
                if !w.captured {
                    peer.leave();
                }
                w.captured || peer.is_leaving()
            }
            _ => {
                peer.cut();
                false
            }
        });
    }

    pub fn report(&self) -> Vec<PoolReport> {
        let peers = self.peers.borrow();
        let report = |(key, peer): (&PeerKey, &Rc<Peer>)| {
            let connections = peer.connections.borrow();
            PoolReport {
                peer: SocketAddr::new(key.address, HBONE_PORT),
                identity: key.identity.to_string(),
                connections: connections.len(),
                streams: connections.iter().map(|c| c.client.streams()).sum(),
            }
        };
        peers.iter().map(report).filter(|r| r.connections > 0).collect()
    }
}

impl Peer {
    async fn connection(
        self: &Rc<Self>,
        means: &Means,
        key: &PeerKey,
    ) -> Result<(Rc<Connection>, Counted), PeerError> {
        let asked = Instant::now();
        let mut dialling = loop {
            if let Some(found) = self.with_room() {
                return Ok(found);
            }
            if self.may_dial() {
                let dialling = self.dialling.lock().await;
                if let Some(found) = self.with_room() {
                    return Ok(found);
                }
                // Others may have dialled meanwhile.
                if self.may_dial() {
                    break dialling;
                }
            }
            let left = means.dialer.settings.connect_timeout.saturating_sub(asked.elapsed());
            if timeout(left, self.stream_ended()).await.is_err() {
                means.metrics.budget_refused("connections");
                return Err(PeerError::Crowded(key.identity.clone()));
            }
        };
        // A busy connection is better than none, and than a long wait.
        let busy_or = |error| self.least_busy().ok_or(PeerError::Shared(error));
        if let Some(failure) = dialling.as_ref().filter(|f| f.began >= asked) {
            return busy_or(failure.error.clone());
        }
        let began = Instant::now();
        let dial = self.dial(means, key);
        let dialled = match self.least_busy() {
            None => dial.await,
            Some(_) => {
                let late = |_| Err(PeerError::OpenTimeout(PATIENCE_WHILE_BUSY));
                timeout(PATIENCE_WHILE_BUSY, dial).await.unwrap_or_else(late)
            }
        };
        match dialled {
            Ok(dialled) => {
                *dialling = None;
                Ok(dialled)
            }
            Err(e) => {
                let error = Arc::new(e);
                *dialling = Some(Failure { began, error: error.clone() });
                busy_or(error)
            }
        }
    }

    /// A connection for a new stream; `None` where another is to be made.
    fn with_room(&self) -> Option<(Rc<Connection>, Counted)> {
        let connections = self.connections.borrow();
        match connections.iter().find(|c| c.has_room() && !c.client.is_busy()) {
            Some(connection) => Some((connection.clone(), connection.client.reserve())),
            None if connections.len() < CONNECTIONS_WHILE_BUSY => None,
            None => {
                drop(connections);
                self.least_busy()
            }
        }
    }

    /// Whether the peer may have one more connection.
    fn may_dial(&self) -> bool {
        let streams = self.streams();
        let count = streams.len();
        count < CONNECTIONS_AT_ONCE
            || count < CONNECTIONS_AT_MOST
                && streams.iter().map(Tally::count).sum::<usize>() >= count * STREAMS_EACH
    }

    /// Resolves when a stream of any of the peer's connections has ended.
    async fn stream_ended(&self) {
        let streams = self.streams();
        let ended: Vec<_> = streams.iter().map(|streams| Box::pin(streams.fewer())).collect();
        select_all(ended).await;
    }

    /// The streams of each connection that there is, those included that take no more.
    fn streams(&self) -> Vec<Tally> {
        let leaving = self.leaving.borrow();
        let leaving = leaving.iter().filter(|l| !l.driver.is_finished()).map(|l| l.streams.clone());
        leaving.chain(self.connections.borrow().iter().map(|c| c.client.streams_tally())).collect()
    }

    fn least_busy(&self) -> Option<(Rc<Connection>, Counted)> {
        let connections = self.connections.borrow();
        let with_room = connections.iter().filter(|c| c.has_room());
        let connection = with_room.min_by_key(|c| (c.client.waiting(), c.client.streams()))?;
        Some((connection.clone(), connection.client.reserve()))
    }

    async fn dial(
        self: &Rc<Self>,
        means: &Means,
        key: &PeerKey,
    ) -> Result<(Rc<Connection>, Counted), PeerError> {
        let address = SocketAddr::new(key.address, HBONE_PORT);
        let limit = means.dialer.settings.connect_timeout;
        let permit = means.budget.take(1)?;
        let stream = means.dialer.peer(address).await?;
        let tls_error = |reason: String| PeerError::Tls { peer: key.identity.clone(), address, reason };
        let before = Before::now(&means.identity);
        let config = means.identity.client_config(&key.identity).map_err(|e| tls_error(e.to_string()))?;
        // An IP address as server name sends no SNI; the verifier goes by the SPIFFE identity alone.
        let handshake = tls::connect(config, ServerName::from(key.address), stream);
        let result = match timeout(limit, handshake).await {
            Ok(Ok(tls)) => Ok(tls),
            Ok(Err(e)) => Err(tls_error(explain(&e))),
            Err(_) => Err(PeerError::HandshakeTimeout { address, limit }),
        };
        means.metrics.handshake(HandshakeRole::Client, if result.is_ok() { "ok" } else { "failed" });
        let tls = result?;
        let proof = Rc::new(before.proof(tls::peer_chain(tls.common()), PeerRole::Server));
        let (client, driver) = Client::handshake(tls, key.identity.namespace())
            .await
            .map_err(|source| PeerError::Http2 { address, source })?;
        let guard = client.reserve();
        let peer = Rc::downgrade(self);
        let (identity, expected, proven) = (means.identity.clone(), key.identity.clone(), proof.clone());
        let (this, that) = oneshot::channel::<(Weak<Connection>, Companion)>();
        let driver = tasks::spawn(async move {
            let _permit = permit;
            // Whoever spawns this sends it before anything else runs.
            let Ok((connection, _closer)) = that.await else { return };
            let forget = || {
                if let (Some(peer), Some(connection)) = (peer.upgrade(), connection.upgrade()) {
                    peer.forget(&connection);
                }
            };
            let mut driver = pin!(driver);
            let mut revoked = pin!(peer_revoked(&identity, &expected, address, proven.peer()));
            let (mut over, mut is_over) = (pin!(proven.over()), false);
            loop {
                tokio::select! {
                    ended = &mut driver => {
                        if let Err(e) = ended {
                            tracing::debug!(%address, "connection to a peer ended: {e}");
                        }
                        break;
                    }
                    // The driver is dropped, and its connection with it.
                    () = &mut revoked => break,
                    why = &mut over, if !is_over => {
                        tracing::debug!(%address, "a connection takes no more streams: {why}");
                        is_over = true;
                        forget();
                    }
                }
            }
            forget();
        });
        let driver = driver.abort_handle();
        let connection = Rc::new(Connection { client, driver, proof, proven: Cell::new(false) });
        let closer = tasks::spawn_companion(close_when_idle(Rc::downgrade(self), Rc::downgrade(&connection)));
        // The receiver lives in the driver's task, which cannot have run yet.
        let _ = this.send((Rc::downgrade(&connection), closer));
        self.connections.borrow_mut().push(connection.clone());
        Ok((connection, guard))
    }

    /// The connection takes no more streams; those it has go on.
    fn forget(&self, connection: &Rc<Connection>) {
        let mut leaving = self.leaving.borrow_mut();
        leaving.retain(|l| !l.driver.is_finished());
        let of_it = |c: &mut Rc<Connection>| Rc::ptr_eq(c, connection);
        leaving.extend(self.connections.borrow_mut().extract_if(.., of_it).map(|c| c.leaving()));
    }

    fn leave(&self) {
        let mut leaving = self.leaving.borrow_mut();
        leaving.extend(self.connections.borrow_mut().drain(..).map(|c| c.leaving()));
        leaving.retain(|l| !l.driver.is_finished());
    }

    fn is_leaving(&self) -> bool {
        self.leaving.borrow().iter().any(|l| !l.driver.is_finished())
    }

    fn cut(&self) {
        self.leave();
        for leaving in self.leaving.borrow().iter() {
            leaving.driver.abort();
        }
    }
}

impl Connection {
    /// Whether it may carry one more stream. One that is suspect does not: its path may be down, and a new connection is there at
    /// once when it is up again.
    fn has_room(&self) -> bool {
        self.client.has_room() && !self.client.is_suspect() && !self.proof.has_expired()
    }

    fn leaving(&self) -> Leaving {
        Leaving { driver: self.driver.clone(), streams: self.client.streams_tally() }
    }
}

async fn close_when_idle(peer: Weak<Peer>, connection: Weak<Connection>) {
    loop {
        // Upgraded for a moment only: a strong reference here would keep the connection itself.
        match connection.upgrade() {
            Some(connection) => connection.client.idle().await,
            None => return,
        }
        sleep(IDLE_TIMEOUT).await;
        let (Some(peer), Some(connection)) = (peer.upgrade(), connection.upgrade()) else { return };
        if connection.client.streams() == 0 {
            peer.forget(&connection);
            return;
        }
    }
}
