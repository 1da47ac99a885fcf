//! The dialling side: one connection to one peer, many streams.

use super::batch::Batched;
use super::held::Held;
use super::ledger::{self, Account};
use super::load::Load;
use super::sending::Sending;
use super::stream::{PRODUCT, Peer, Shared, Stream};
use super::window::{INITIAL_WINDOW, Tuner};
use super::{
    CONNECTION_WINDOW, FRAME_SIZE, HEADER_LIST_SIZE, RESET_STREAMS_REMEMBERED, SEND_BUFFER,
    SMALL_FRAMES_BUDGET, STREAMS_PER_CONNECTION, format_forwarded,
};
use crate::tally::{Counted, Tally};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use h2::client::{Connection, SendRequest};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use std::cell::OnceCell;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

/// A peer answers in a round trip, unless its app takes long or the path is down. A ping tells which.
const SUSPICION: Duration = Duration::from_secs(1);

/// Opens streams on one connection. The connection ends in order when the client and its streams are gone.
pub struct Client {
    send: SendRequest<Sending>,
    streams: Tally,
    /// Why the connection broke. Its streams are told no more than that it did.
    broke: Rc<OnceCell<String>>,
    shared: Shared,
    tenant: Rc<str>,
}

/// Moves a connection's bytes; spawned by whoever made it. Aborting it cuts the connection and its streams.
pub struct Driver<T> {
    connection: Connection<Batched<T>, Sending>,
    io: Batched<T>,
    broke: Rc<OnceCell<String>>,
    tuner: Rc<Tuner>,
    /// Resolves when the connection has to end for want of memory.
    evicted: LocalBoxFuture<'static, ()>,
}

/// Why a stream did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection was on its way out; the peer has not seen the request, so another connection may take it.
    #[error("the connection takes no more streams: {0}")]
    Unusable(String),
    /// The peer answered, but not with 200.
    #[error("the peer answered {0}")]
    Status(StatusCode),
    /// The connection broke while the request was under way.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nobody waits for the stream any more.
    #[error("the app ended its connection: {0}")]
    Withdrawn(io::Error),
    /// The pod's streams hold more than they may.
    #[error("the pod's streams hold all the memory that they may")]
    OverMemory,
    #[error("{0} cannot be written as an authority")]
    Authority(SocketAddr),
}

impl Client {
    /// Speaks HTTP/2's opening over a finished TLS handshake. `tenant` is the peer's namespace.
    pub async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
        io: T,
        tenant: &str,
    ) -> Result<(Self, Driver<T>), h2::Error> {
        let io = Batched::new(io, 0, tenant);
        let (send, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(INITIAL_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(HEADER_LIST_SIZE)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESET_STREAMS_REMEMBERED)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .handshake::<_, Sending>(io.clone())
            .await?;
        let tuner = Rc::new(Tuner::new(connection.ping_pong()));
        let broke = Rc::<OnceCell<String>>::default();
        let client = Self {
            send,
            streams: Tally::default(),
            broke: broke.clone(),
            tenant: io.tenant(),
            shared: Shared { tuner: tuner.clone(), load: Rc::new(Load::default()) },
        };
        let evicted = io.evicted();
        Ok((client, Driver { connection, io, broke, tuner, evicted }))
    }

    /// Whether one more stream may open here; the peer's own limit counts too.
    pub fn has_room(&self) -> bool {
        self.streams() < STREAMS_PER_CONNECTION.min(self.send.current_max_send_streams())
    }

    pub fn streams(&self) -> usize {
        self.streams.count()
    }

    /// The same count, for who outlives the client.
    pub fn streams_tally(&self) -> Tally {
        self.streams.clone()
    }

    /// Whether the peer has left a request unanswered for a second, and has said nothing since: a new stream is better off on
    /// another connection.
    pub fn is_suspect(&self) -> bool {
        self.shared.tuner.is_suspect()
    }

    /// Whether a new stream is better off on another connection: one of this one's waits for room, or moves much.
    pub fn is_busy(&self) -> bool {
        self.shared.load.is_high()
    }

    /// Streams that have something to send, and no room for it.
    pub fn waiting(&self) -> usize {
        self.shared.load.waiting()
    }

    /// Resolves when the last stream has ended, at once where there is none.
    pub async fn idle(&self) {
        self.streams.none().await;
    }

    /// Counts a stream that is about to open.
    pub fn reserve(&self) -> Counted {
        self.streams.add()
    }

    /// Asks the peer for a connection to `target`, on behalf of an app at `source`.
    ///
    /// `early` yields what the app says first. It does not wait for the answer, which saves most apps a round trip; a peer
    /// that refuses drops it. An app that ends its connection meanwhile ends the request.
    pub async fn open(
        &self,
        target: SocketAddr,
        source: SocketAddr,
        early: impl Future<Output = io::Result<Bytes>>,
        guard: Counted,
    ) -> Result<Stream, OpenError> {
        if ledger::is_full() {
            return Err(OpenError::OverMemory);
        }
        let before_sent = |e| OpenError::Unusable(self.reason(&e));
        let mut send = self.send.clone().ready().await.map_err(before_sent)?;
        let (response, mut outgoing) =
            send.send_request(request(target, source)?, false).map_err(before_sent)?;
        let account = Account::open(&self.tenant);
        let mut response = pin!(response);
        let answered = async {
            tokio::select! {
                biased;
                response = &mut response => response.map_err(Ok),
                early = early => {
                    let early = Sending::new(early.map_err(|e| Err(OpenError::Withdrawn(e)))?, &account);
                    // What is wrong with the stream is the response's error, too.
                    let _ = outgoing.send_data(early, false);
                    response.await.map_err(Ok)
                }
            }
        };
        let response = tokio::select! {
            response = answered => response,
            () = account.evicted() => return Err(OpenError::OverMemory),
            never = self.suspect_silence() => match never {},
        };
        self.shared.tuner.answered();
        let response = response.map_err(|e| match e {
            Err(e) => e,
            Ok(e) if e.reason() == Some(h2::Reason::REFUSED_STREAM) => before_sent(e),
            // A graceful GOAWAY: streams above its last id were never looked at (RFC 9113 §6.8).
            Ok(e) if e.reason() == Some(h2::Reason::NO_ERROR) && e.is_go_away() => before_sent(e),
            Ok(e) => OpenError::Broken(self.reason(&e)),
        })?;
        if response.status() != StatusCode::OK {
            return Err(OpenError::Status(response.status()));
        }
        let peer = Peer::of(response.headers(), header::SERVER);
        let held = Held::new(account.clone());
        Ok(Stream::new(
            outgoing,
            response.into_body(),
            self.shared.clone(),
            (account, held),
            Some(guard),
            peer,
        ))
    }

    /// Suspects the peer when it has not answered for a while; does not resolve.
    async fn suspect_silence(&self) -> Infallible {
        sleep(SUSPICION).await;
        self.shared.tuner.suspect();
        pending().await
    }

    fn reason(&self, error: &h2::Error) -> String {
        self.broke.get().cloned().unwrap_or_else(|| error.to_string())
    }
}

fn request(target: SocketAddr, source: SocketAddr) -> Result<Request<()>, OpenError> {
    let authority = || OpenError::Authority(target);
    let uri = Uri::builder().authority(target.to_string()).build().map_err(|_| authority())?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    let forwarded = HeaderValue::from_str(&format_forwarded(source)).map_err(|_| authority())?;
    request.headers_mut().insert(header::FORWARDED, forwarded);
    request.headers_mut().insert(header::USER_AGENT, PRODUCT);
    Ok(request)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.evicted.as_mut().poll(cx).is_ready() {
            let e = h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM);
            let _ = this.broke.set("what the connection holds is more than memory has room for".to_owned());
            return Poll::Ready(Err(e));
        }
        // Fails only while an earlier change is not acknowledged.
        this.tuner.poll(cx, |window| this.connection.set_initial_window_size(window).is_ok());
        let polled = this.io.poll(cx, |cx| Pin::new(&mut this.connection).poll(cx));
        // Streams take what they were sent before the next read.
        if polled.is_pending()
            && this.io.renew_read_budget(cx)
            && !this.tuner.heard(|window| this.connection.set_initial_window_size(window).is_ok())
        {
            let e = h2::Error::from(h2::Reason::SETTINGS_TIMEOUT);
            let _ = this.broke.set(e.to_string());
            return Poll::Ready(Err(e));
        }
        if let Poll::Ready(Err(e)) = &polled {
            // It ends once.
            let _ = this.broke.set(e.to_string());
        }
        polled
    }
}
