//! The accepting side: CONNECT requests of one peer's connection.

use super::batch::Batched;
use super::forwarded::parse_forwarded;
use super::held::Held;
use super::ledger::Account;
use super::load::Load;
use super::sending::Sending;
use super::stream::{PRODUCT, Peer, Shared, Stream};
use super::window::{INITIAL_WINDOW, Tuner};
use super::{
    CONNECTION_WINDOW, FRAME_SIZE, HEADER_LIST_SIZE, RESET_STREAMS_REMEMBERED, SEND_BUFFER,
    SMALL_FRAMES_BUDGET, STREAMS_ACCEPTED, WITHDRAWN_REQUESTS,
};
use futures::future::LocalBoxFuture;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Response, StatusCode, header};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};

/// What a client says before its first frame, in bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Requests of a tenant that are taken in a turn of the loop: each costs some 0.2 ms, until it is refused or its app is dialled.
const REQUESTS_A_TURN: usize = 32;

/// A peer's connection. [`next`](Self::next) has to be awaited for anything on it to move.
pub struct Server<T> {
    connection: Connection<Batched<T>, Sending>,
    io: Batched<T>,
    shared: Shared,
}

/// A peer's wish for a connection. It is answered once, by [`accept`](Self::accept) or [`refuse`](Self::refuse).
pub struct Request {
    pub method: Method,
    /// Where the peer wants to connect to; empty when it did not say.
    authority: String,
    /// On whose behalf, as the peer says; the rest of the head is not kept, since it costs more than it looks.
    pub forwarded: Option<SocketAddr>,
    peer: Peer,
    body: RecvStream,
    respond: SendResponse<Sending>,
    shared: Shared,
    account: Rc<Account>,
    /// What the peer has sent while it waits for the answer.
    held: Held,
    /// It has ended its direction, or its stream.
    has_ended: bool,
}

/// Why a request needs no answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The peer has withdrawn it.
    Withdrawn,
    /// The pod's streams hold more than they may, and this one has to be reset for it.
    OverMemory,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Server<T> {
    /// Speaks HTTP/2's opening over a finished TLS handshake. `tenant` is the peer's namespace: connections of one tenant share what
    /// a turn of the loop has for it, and are counted together where memory is short.
    pub async fn handshake(io: T, tenant: &str) -> Result<Self, h2::Error> {
        let io = Batched::new(io, PREFACE, tenant);
        let mut handshake = h2::server::Builder::new()
            .initial_window_size(INITIAL_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS_ACCEPTED)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(HEADER_LIST_SIZE)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(WITHDRAWN_REQUESTS)
            .max_concurrent_reset_streams(RESET_STREAMS_REMEMBERED)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .handshake::<_, Sending>(io.clone());
        let mut connection = poll_fn(|cx| io.poll(cx, |cx| Pin::new(&mut handshake).poll(cx))).await?;
        let tuner = Rc::new(Tuner::new(connection.ping_pong()));
        Ok(Self { connection, io, shared: Shared { tuner, load: Rc::new(Load::default()) } })
    }

    /// The next request, while all streams make progress; `None` when the connection has ended in order.
    pub async fn next(&mut self) -> Option<Result<Request, h2::Error>> {
        poll_fn(|cx| {
            // Fails only while an earlier change is not acknowledged.
            self.shared.tuner.poll(cx, |window| self.connection.set_initial_window_size(window).is_ok());
            loop {
                match self.io.poll(cx, |cx| self.connection.poll_accept(cx)) {
                    Poll::Ready(Some(Ok((request, mut respond)))) => {
                        let is_withdrawn = respond.poll_reset(cx).is_ready();
                        if !is_withdrawn {
                            return Poll::Ready(Some(Ok((request, respond))));
                        }
                    }
                    Poll::Pending => break,
                    ended => return ended,
                }
            }
            // Every request that was read has been taken.
            if self.io.renew_read_budget(cx)
                && !self.shared.tuner.heard(|window| self.connection.set_initial_window_size(window).is_ok())
            {
                return Poll::Ready(Some(Err(Reason::SETTINGS_TIMEOUT.into())));
            }
            Poll::Pending
        })
        .await
        .map(|accepted| {
            let (request, respond) = accepted?;
            let (head, body) = request.into_parts();
            let forwarded = head.headers.get(header::FORWARDED).and_then(|value| value.to_str().ok());
            let account = Account::open(&self.io.tenant());
            let held = Held::new(account.clone());
            Ok(Request {
                forwarded: forwarded.and_then(parse_forwarded),
                peer: Peer::of(&head.headers, header::USER_AGENT),
                authority: head.uri.authority().map_or_else(String::new, ToString::to_string),
                method: head.method,
                body,
                respond,
                shared: self.shared.clone(),
                account,
                held,
                has_ended: false,
            })
        })
    }

    /// Requests that may be taken before others on this thread have their turn.
    pub fn requests_a_turn(&self) -> usize {
        self.io.part_of(REQUESTS_A_TURN)
    }

    /// Resolves when the connection has to end for want of memory.
    pub fn evicted(&self) -> LocalBoxFuture<'static, ()> {
        self.io.evicted()
    }

    /// Sends GOAWAY: the peer opens no more streams here, those that are open go on.
    pub fn drain(&mut self) {
        self.connection.graceful_shutdown();
    }
}

impl Request {
    /// Where the peer wants to connect to; empty when it did not say.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Answers 200: from here on the stream is the connection.
    pub fn accept(mut self) -> Result<Stream, h2::Error> {
        let peer = self.peer;
        let mut response = status(StatusCode::OK);
        response.headers_mut().insert(header::SERVER, PRODUCT);
        let outgoing = self.respond.send_response(response, false)?;
        Ok(Stream::new(outgoing, self.body, self.shared, (self.account, self.held), None, peer))
    }

    /// Answers with an error, and ends the stream.
    pub fn refuse(mut self, code: StatusCode) {
        // The peer may be gone already; then nobody waits for the answer.
        let _ = self.respond.send_response(status(code), true);
    }

    /// Ends the stream as one that was not looked at: the peer may ask again on another connection.
    pub fn turn_away(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// Resolves when the peer no longer wants the connection it asked for, or when it cannot have it. Takes in what it sends
    /// meanwhile.
    pub async fn gone(&mut self) -> Gone {
        let account = self.account.clone();
        let mut evicted = pin!(account.evicted());
        poll_fn(|cx| {
            if evicted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Gone::OverMemory);
            }
            while !self.has_ended
                && let Poll::Ready(arrived) = self.body.poll_data(cx)
            {
                match arrived {
                    Some(Ok(bytes)) => self.held.push(bytes),
                    // The stream will say it again.
                    Some(Err(_)) | None => self.has_ended = true,
                }
            }
            self.respond.poll_reset(cx).map(|_| Gone::Withdrawn)
        })
        .await
    }

    /// Ends the stream for want of memory.
    pub fn reset(mut self) {
        self.respond.send_reset(Reason::CANCEL);
    }
}

fn status(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}
