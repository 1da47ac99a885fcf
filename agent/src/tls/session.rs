//! The two sides of a TLS connection as one type: rustls's state machines without its buffers.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error};
use std::mem;

/// A client's or a server's part of a TLS connection.
pub trait Session {
    type Data;

    /// Works through the records until there is something to do; see rustls's `process_tls_records`.
    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What both sides have: the peer's certificates among it.
    fn common(&self) -> &CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// A session with what it has been given and not yet worked through. rustls remembers where in that it is, so it has
/// to be shown the same bytes every time that it is asked.
pub(super) struct Held<S> {
    session: S,
    /// The beginning of a record whose end has not arrived.
    cut: Vec<u8>,
    /// How much of `cut` is worked through.
    done: usize,
    /// Why it is over. A session that failed is not to be asked again.
    failed: Option<Error>,
}

impl<S: Session> Held<S> {
    pub fn new(session: S) -> Self {
        Self { session, cut: Vec::new(), done: 0, failed: None }
    }

    pub fn common(&self) -> &CommonState {
        self.session.common()
    }

    /// What there is to do, while nothing more has arrived.
    pub fn state(&mut self) -> Result<ConnectionState<'_, '_, S::Data>, Error> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        self.discard();
        let UnbufferedStatus { discard, state } = self.session.process(&mut self.cut);
        self.done = discard;
        state
    }

    /// Why it is over, if it is.
    pub fn failure(&self) -> Option<Error> {
        self.failed.clone()
    }

    /// It is over, with `rest` not worked through; `alert` gets what tells the peer, if anything does.
    pub fn fail(&mut self, rest: &[u8], error: &Error, alert: impl FnOnce(&mut EncodeTlsData<'_, S::Data>)) {
        self.keep(rest);
        // Once: what was sent before the error has been taken before.
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = self.state() {
            alert(&mut data);
        }
        self.failed = Some(error.clone());
    }

    /// Works through `records`, which begin with what was cut.
    pub fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, S::Data> {
        self.session.process(records)
    }

    /// What was cut, to be put before what has arrived.
    pub fn cut(&mut self) -> &[u8] {
        self.discard();
        &self.cut
    }

    /// Keeps what is not worked through.
    pub fn keep(&mut self, rest: &[u8]) {
        self.done = 0;
        self.cut.clear();
        self.cut.extend_from_slice(rest);
    }

    fn discard(&mut self) {
        self.cut.drain(..mem::take(&mut self.done));
    }
}
