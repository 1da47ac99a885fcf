//! One tunnelled TCP connection: bytes out, bytes in, each direction with an end of its own.

use super::held::{Held, compact};
use super::ledger::Account;
use super::load::Load;
use super::sending::Sending;
use super::window::{Passed, Tuner};
use crate::tally::Counted;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How Pillion calls itself to a peer.
pub(super) const PRODUCT: HeaderValue = HeaderValue::from_static("pillion");

/// A frame below this costs its receiver more than its bytes (the engine's `data_frame_budget` counts from here).
const SMALL_FRAME: usize = 256;

/// So many small frames may follow each other without an answer before the next ones are held back.
const SMALL_FRAMES_AT_ONCE: u32 = 64;

/// The longest time that they are held back, below what people notice: 32 frames a second are left.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

pub struct Stream {
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    /// Held for as long as the stream counts against its connection.
    pub guard: Option<Counted>,
}

/// The direction towards the peer.
pub struct Outgoing {
    send: SendStream<Sending>,
    account: Rc<Account>,
    /// Small frames in a row, since the peer has said something.
    small: Rc<Cell<u32>>,
    /// Whether small frames may have to gather for this peer.
    gathers: bool,
    load: Rc<Load>,
}

/// The direction from the peer.
pub struct Incoming {
    body: RecvStream,
    tuner: Rc<Tuner>,
    /// What has arrived and nobody has asked for yet.
    held: Box<Held>,
    /// What comes after that, if the peer says no more.
    end: Option<Result<(), StreamError>>,
    passed: Passed,
    small: Rc<Cell<u32>>,
    load: Rc<Load>,
}

/// What is at the other end of a stream, as it says itself. It says so for its own good only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Pillion,
    Another,
}

impl Peer {
    /// By the header `user-agent` of a request, or `server` of a response.
    pub fn of(headers: &HeaderMap, name: HeaderName) -> Self {
        match headers.get(name) {
            Some(product) if product == PRODUCT => Self::Pillion,
            _ => Self::Another,
        }
    }
}

/// What all streams of a connection share.
#[derive(Clone)]
pub(super) struct Shared {
    pub tuner: Rc<Tuner>,
    pub load: Rc<Load>,
}

/// The peer or the connection ended the stream early: to an app, a TCP reset.
#[derive(Debug, thiserror::Error)]
#[error("the peer ended the stream: {0}")]
pub struct StreamError(#[from] h2::Error);

impl StreamError {
    /// The peer ended its own direction in order and wants nothing more of ours: the one meaning that HTTP/2
    /// gives to a reset with NO_ERROR (RFC 9113 §8.1). Only [`Incoming`] tells whether the peer keeps to it.
    pub fn is_unwanted(&self) -> bool {
        self.0.reason() == Some(Reason::NO_ERROR)
    }
}

impl Stream {
    pub(super) fn new(
        send: SendStream<Sending>,
        body: RecvStream,
        Shared { tuner, load }: Shared,
        (account, held): (Rc<Account>, Held),
        guard: Option<Counted>,
        peer: Peer,
    ) -> Self {
        let small = Rc::<Cell<u32>>::default();
        let gathers = peer == Peer::Another;
        let outgoing = Outgoing { send, account, small: small.clone(), gathers, load: load.clone() };
        let (held, passed) = (Box::new(held), Passed::default());
        Self { outgoing, incoming: Incoming { body, tuner, held, end: None, passed, small, load }, guard }
    }
}

impl Outgoing {
    /// How long to wait for more before the next bytes are sent, so that they share a frame.
    ///
    /// Zero, but for an app that writes a few bytes again and again to a peer that is not Pillion, and gets no answer: that
    /// peer may not be reading, and each frame costs it memory that no window counts. A receiver that has enough of it ends the
    /// whole connection (Envoy, h2), and with it the streams of others. Pillion's own streams take their frames at once.
    pub fn pause(&self) -> Duration {
        if !self.gathers {
            return Duration::ZERO;
        }
        let doublings = (self.small.get() / SMALL_FRAMES_AT_ONCE).min(6);
        Duration::from_millis((1 << doublings) / 2).min(LONGEST_PAUSE)
    }

    /// Waits until the peer and the send buffer have room; how many bytes of it, `wanted` at the most.
    ///
    /// While memory is short, the buffer is a small one, and what is in it has to get to the wire first.
    pub async fn room(&mut self, wanted: usize) -> Result<usize, StreamError> {
        let mut waiting = None;
        let account = self.account.clone();
        let wanted = loop {
            match account.send_room() {
                0 => {
                    waiting.get_or_insert_with(|| self.load.waits());
                    tokio::select! {
                        error = self.ended_early() => return Err(error),
                        () = account.sent() => {}
                    }
                }
                room => break wanted.min(room),
            }
        };
        self.send.reserve_capacity(wanted);
        loop {
            let capacity = self.send.capacity();
            if capacity > 0 {
                return Ok(capacity.min(wanted));
            }
            waiting.get_or_insert_with(|| self.load.waits());
            match poll_fn(|cx| self.send.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Err(self.ended_early().await),
            }
        }
    }

    /// Sends what [`room`](Self::room) was given for, and gives back the rest of it.
    pub fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.small.set(if bytes.len() < SMALL_FRAME { self.small.get() + 1 } else { 0 });
        self.load.moved(bytes.len());
        self.send.send_data(Sending::new(bytes, &self.account), false)?;
        self.give_back_room();
        Ok(())
    }

    /// Lets other streams of the connection have the room that was not used. A stream that kept it while it has
    /// nothing to send would starve them where the peer's connection window is small.
    pub fn give_back_room(&mut self) {
        self.send.reserve_capacity(0);
    }

    /// This direction ends in order (a FIN).
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.give_back_room();
        Ok(self.send.send_data(Sending::end(), true)?)
    }

    /// Both directions end now (an RST).
    pub fn reset(&mut self) {
        self.send.send_reset(Reason::CANCEL);
    }

    /// What the stream holds, in both directions.
    pub fn account(&self) -> Rc<Account> {
        self.account.clone()
    }

    /// Resolves when the peer or the connection ends the stream early.
    pub async fn ended_early(&mut self) -> StreamError {
        match poll_fn(|cx| self.send.poll_reset(cx)).await {
            Ok(reason) => h2::Error::from(reason).into(),
            Err(e) => e.into(),
        }
    }
}

impl Incoming {
    /// The next bytes, or `None` when the peer ended its direction in order.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        if let Some(bytes) = self.held.pop() {
            return Ok(Some(bytes));
        }
        if self.end.is_none() {
            match self.receive().await {
                Ok(Some(bytes)) => {
                    self.held.pass(bytes.len());
                    return Ok(Some(bytes));
                }
                Ok(None) => self.end = Some(Ok(())),
                Err(e) => return Err(e),
            }
        }
        self.end.take().unwrap_or(Ok(())).map(|()| None)
    }

    /// What [`next`](Self::next) gave, if it has to wait: in no more memory than it needs.
    pub fn keep(&self, bytes: Bytes) -> Bytes {
        compact(bytes)
    }

    /// Takes in what arrives until `ready` resolves, for the calls of [`next`](Self::next) that follow.
    pub async fn hold_until<T>(&mut self, ready: impl Future<Output = T>) -> T {
        let mut ready = pin!(ready);
        loop {
            if self.end.is_some() {
                return ready.await;
            }
            let arrived = {
                let mut receive = pin!(self.receive());
                poll_fn(|cx| match ready.as_mut().poll(cx) {
                    Poll::Ready(done) => Poll::Ready(Err(done)),
                    Poll::Pending => receive.as_mut().poll(cx).map(Ok),
                })
                .await
            };
            match arrived {
                Err(done) => return done,
                Ok(Ok(Some(bytes))) => self.held.push(bytes),
                Ok(Ok(None)) => self.end = Some(Ok(())),
                Ok(Err(e)) => self.end = Some(Err(e)),
            }
        }
    }

    /// Gives the peer credit for `bytes` that were passed on.
    pub fn release(&mut self, bytes: usize) -> Result<(), StreamError> {
        self.held.give_up(bytes);
        self.tuner.on_passed(&self.passed, bytes);
        self.load.moved(bytes);
        Ok(self.body.flow_control().release_capacity(bytes)?)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, StreamError> {
        let arrived = self.body.data().await.transpose()?;
        if arrived.is_some() {
            self.small.set(0);
        }
        Ok(arrived)
    }
}
