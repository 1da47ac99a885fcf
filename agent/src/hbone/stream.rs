//! One tunnelled TCP connection: bytes out, bytes in, each direction with an end of its own.

use super::window::Tuner;
use crate::tally::Counted;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use std::future::poll_fn;
use std::rc::Rc;

pub struct Stream {
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    /// Held for as long as the stream counts against its connection.
    pub guard: Option<Counted>,
}

/// The direction towards the peer.
pub struct Outgoing(SendStream<Bytes>);

/// The direction from the peer.
pub struct Incoming {
    body: RecvStream,
    tuner: Rc<Tuner>,
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
        send: SendStream<Bytes>,
        body: RecvStream,
        tuner: Rc<Tuner>,
        guard: Option<Counted>,
    ) -> Self {
        Self { outgoing: Outgoing(send), incoming: Incoming { body, tuner }, guard }
    }
}

impl Outgoing {
    /// Waits until the peer and the send buffer have room; how many bytes of it, `wanted` at the most.
    pub async fn room(&mut self, wanted: usize) -> Result<usize, StreamError> {
        self.0.reserve_capacity(wanted);
        loop {
            let capacity = self.0.capacity();
            if capacity > 0 {
                return Ok(capacity.min(wanted));
            }
            match poll_fn(|cx| self.0.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(e.into()),
                None => return Err(self.ended_early().await),
            }
        }
    }

    /// Sends what [`room`](Self::room) was given for, and gives back the rest of it.
    pub fn send(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.0.send_data(bytes, false)?;
        self.give_back_room();
        Ok(())
    }

    /// Lets other streams of the connection have the room that was not used. A stream that kept it while it has
    /// nothing to send would starve them where the peer's connection window is small.
    pub fn give_back_room(&mut self) {
        self.0.reserve_capacity(0);
    }

    /// This direction ends in order (a FIN).
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.give_back_room();
        Ok(self.0.send_data(Bytes::new(), true)?)
    }

    /// Both directions end now (an RST).
    pub fn reset(&mut self) {
        self.0.send_reset(Reason::CANCEL);
    }

    /// Resolves when the peer or the connection ends the stream early.
    pub async fn ended_early(&mut self) -> StreamError {
        match poll_fn(|cx| self.0.poll_reset(cx)).await {
            Ok(reason) => h2::Error::from(reason).into(),
            Err(e) => e.into(),
        }
    }
}

impl Incoming {
    /// The next bytes, or `None` when the peer ended its direction in order.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        match self.body.data().await {
            Some(Ok(bytes)) => {
                self.tuner.on_data(bytes.len());
                Ok(Some(bytes))
            }
            Some(Err(e)) => Err(e.into()),
            None => Ok(None),
        }
    }

    /// Gives the peer credit for `bytes` that were passed on.
    pub fn release(&mut self, bytes: usize) -> Result<(), StreamError> {
        Ok(self.body.flow_control().release_capacity(bytes)?)
    }
}
