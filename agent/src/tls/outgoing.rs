//! What is on its way out: plaintext that waits to fill a record, and records that wait for the socket.

use super::session::{Held, Session};
use super::spares::Spares;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, WriteTraffic};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// What one system call moves at the most.
pub const BATCH: usize = 128 * 1024;

/// The largest plaintext of a record (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;

/// What a record adds: header, content type, tag (RFC 8446 §5.2).
const OVERHEAD: usize = 5 + 1 + 16;

thread_local! {
    static SPARES: Spares<Sealed> = const { Spares::new() };
}

#[derive(Default)]
pub(super) struct Outgoing {
    /// Less than a record.
    pending: Vec<u8>,
    sealed: Option<Sealed>,
}

/// Records, from `sent` to `filled`; behind them the bytes are zero or old.
#[derive(Default)]
struct Sealed {
    buffer: Vec<u8>,
    sent: usize,
    filled: usize,
}

impl Outgoing {
    /// A batch waits for the socket.
    pub fn is_full(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.filled - sealed.sent >= BATCH)
    }

    /// Adds plaintext. What fills records is sealed at once, the rest waits for more.
    pub fn write(&mut self, session: &mut Held<impl Session>, mut data: &[u8]) -> io::Result<()> {
        if self.pending.len() + data.len() < RECORD {
            self.pending.extend_from_slice(data);
            return Ok(());
        }
        if !self.pending.is_empty() {
            let (head, rest) = data.split_at(RECORD - self.pending.len());
            self.pending.extend_from_slice(head);
            self.seal_all(session)?;
            data = rest;
        }
        let (full, rest) = data.split_at(data.len() / RECORD * RECORD);
        self.seal(session, full)?;
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    /// Makes a record of what waits.
    pub fn seal_all(&mut self, session: &mut Held<impl Session>) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.seal(session, &pending)?;
        // Its capacity for the rest of this turn of the loop; `poll_send` lets it go.
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    fn seal(&mut self, session: &mut Held<impl Session>, data: &[u8]) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let size = data.len() + data.len().div_ceil(RECORD) * OVERHEAD;
        self.send_by(session, size, |traffic, room| traffic.encrypt(data, room))
    }

    /// Says that nothing follows. A session that is over has said it, or cannot.
    pub fn close(&mut self, session: &mut Held<impl Session>) -> io::Result<()> {
        self.seal_all(session)?;
        let _ = self.send_by(session, OVERHEAD, |traffic, room| traffic.queue_close_notify(room));
        Ok(())
    }

    /// Lets `write` make records of about `size` bytes, behind what the session itself has to say (key updates).
    fn send_by<S: Session>(
        &mut self,
        session: &mut Held<S>,
        size: usize,
        mut write: impl FnMut(&mut WriteTraffic<'_, S::Data>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        loop {
            match session.state().map_err(io::Error::other)? {
                ConnectionState::EncodeTlsData(mut data) => self.encode(&mut data),
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    return self.sealed().fill(size, |room| Ok(write(&mut traffic, room)?));
                }
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    pub fn encode<D>(&mut self, data: &mut EncodeTlsData<'_, D>) {
        let encoded = self.sealed().fill(RECORD, |room| Ok(data.encode(room)?));
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// Sends what is sealed; then nothing is kept.
    pub fn poll_send<T: AsyncWrite>(
        &mut self,
        mut socket: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(sealed) = &mut self.sealed else { return Poll::Ready(Ok(())) };
        while sealed.sent < sealed.filled {
            let left = &sealed.buffer[sealed.sent..sealed.filled];
            match ready!(socket.as_mut().poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => sealed.sent += n,
            }
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        (sealed.sent, sealed.filled) = (0, 0);
        if let Some(sealed) = self.sealed.take() {
            SPARES.with(|spares| spares.give(sealed));
        }
        Poll::Ready(Ok(()))
    }

    fn sealed(&mut self) -> &mut Sealed {
        self.sealed.get_or_insert_with(|| SPARES.with(Spares::take))
    }
}

impl Sealed {
    /// Lets `write` fill the room behind what there is: at least `size` bytes, more when it asks for more.
    fn fill(
        &mut self,
        mut size: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, NotWritten>,
    ) -> io::Result<()> {
        loop {
            if self.buffer.len() < self.filled + size {
                self.buffer.resize(self.filled + size, 0);
            }
            match write(&mut self.buffer[self.filled..]) {
                Ok(written) => {
                    self.filled += written;
                    return Ok(());
                }
                Err(NotWritten::Needs(more)) => size = more,
                Err(NotWritten::Failed(e)) => return Err(e),
            }
        }
    }
}

/// Why a session has not written what it was asked to.
enum NotWritten {
    /// It needs so many bytes.
    Needs(usize),
    Failed(io::Error),
}

impl From<EncryptError> for NotWritten {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(e) => Self::Needs(e.required_size),
            e @ EncryptError::EncryptExhausted => Self::Failed(io::Error::other(e)),
        }
    }
}

impl From<EncodeError> for NotWritten {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(e) => Self::Needs(e.required_size),
            e @ EncodeError::AlreadyEncoded => Self::Failed(io::Error::other(e)),
        }
    }
}
