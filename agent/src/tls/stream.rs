//! TLS over a socket, made for few system calls.
//!
//! A read takes all that has arrived, up to [`BATCH`], and decrypts it where it lies. What is written gathers into
//! full records, and leaves when it is flushed or when a batch is full. rustls keeps the keys and the rules;
//! only the buffers are ours, and a connection that is idle has none.

use super::explain::explain;
use super::outgoing::{BATCH, Outgoing};
use super::session::{Held, Session};
use super::spares::Spares;
use rustls::CommonState;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room before a batch for the record that the last one cut in two, or the handshake message (64 KiB, rustls's
/// limit, and the record that it ends in).
const CUT: usize = 96 * 1024;

thread_local! {
    /// Where all connections of a worker read to. Pages that were never read to cost nothing.
    static ARRIVED: RefCell<Box<[u8]>> = RefCell::new(vec![0; CUT + BATCH].into_boxed_slice());
    static PLAINTEXTS: Spares<Vec<u8>> = const { Spares::new() };
}

/// One side's end of a TLS connection whose handshake is done, over the socket `T`.
pub struct TlsStream<S, T> {
    socket: T,
    session: Held<S>,
    outgoing: Outgoing,
    /// Decrypted, and not yet asked for; read up to `taken`.
    plaintext: Vec<u8>,
    taken: usize,
    /// The peer has said that it sends no more.
    ended: bool,
    closing: bool,
}

/// How far a connection is, once all that has arrived is worked through.
pub(super) enum Stage {
    Handshake,
    Open,
    /// The peer sends no more.
    Ended,
}

/// What came of one read.
pub(super) struct Arrival {
    pub stage: Stage,
    /// How many bytes were read.
    pub bytes: usize,
}

impl<S: Session, T: AsyncRead + AsyncWrite + Unpin> TlsStream<S, T> {
    pub(super) fn new(socket: T, session: S) -> Self {
        Self {
            socket,
            session: Held::new(session),
            outgoing: Outgoing::default(),
            plaintext: Vec::new(),
            taken: 0,
            ended: false,
            closing: false,
        }
    }

    /// What was negotiated, and the peer's certificates.
    pub fn common(&self) -> &CommonState {
        self.session.common()
    }

    /// Works through `records`, and keeps what is not a whole one.
    pub(super) fn take_in(&mut self, records: &mut [u8]) -> io::Result<Stage> {
        if let Some(error) = self.session.failure() {
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        let mut rest = records;
        let stage = loop {
            let UnbufferedStatus { mut discard, state } = self.session.process(rest);
            let state = match state {
                Ok(state) => state,
                Err(e) => {
                    self.session.fail(&rest[discard..], &e, |alert| self.outgoing.encode(alert));
                    return Err(io::Error::new(ErrorKind::InvalidData, e));
                }
            };
            let stage = match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
                        discard += record.discard;
                        if self.plaintext.capacity() == 0 {
                            self.plaintext = PLAINTEXTS.with(Spares::take);
                        }
                        self.plaintext.extend_from_slice(record.payload);
                    }
                    None
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    self.outgoing.encode(&mut data);
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    // It goes with the next flush.
                    data.done();
                    None
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.ended = true;
                    Some(Stage::Ended)
                }
                ConnectionState::WriteTraffic(_) => Some(Stage::Open),
                // BlockedHandshake; early data is never offered.
                _ => Some(Stage::Handshake),
            };
            rest = &mut rest[discard..];
            if let Some(stage) = stage {
                break stage;
            }
        };
        self.session.keep(rest);
        Ok(stage)
    }

    /// Reads once, and takes it in; `None` at the socket's end.
    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Arrival>>> {
        ARRIVED.with_borrow_mut(|arrived| {
            let mut batch = ReadBuf::new(&mut arrived[CUT..]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut batch))?;
            let bytes = batch.filled().len();
            let end = CUT + bytes;
            if bytes == 0 {
                return Poll::Ready(Ok(None));
            }
            let Range { start, end } = self.mend(arrived, end)?;
            let stage = self.take_in(&mut arrived[start..end])?;
            Poll::Ready(Ok(Some(Arrival { stage, bytes })))
        })
    }

    /// Puts what was cut off before what has arrived.
    fn mend(&mut self, arrived: &mut [u8], end: usize) -> io::Result<Range<usize>> {
        let cut = self.session.cut();
        let start = CUT.checked_sub(cut.len()).ok_or(ErrorKind::InvalidData)?;
        arrived[start..CUT].copy_from_slice(cut);
        Ok(start..end)
    }

    fn forget_plaintext(&mut self) {
        let mut plaintext = mem::take(&mut self.plaintext);
        self.taken = 0;
        plaintext.clear();
        PLAINTEXTS.with(|spares| spares.give(plaintext));
    }

    /// Sends what is sealed.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.poll_send(Pin::new(&mut self.socket), cx)
    }

    /// A client learns only after its own handshake that the server refused its certificate, by an alert in place of
    /// the first data (RFC 8446 §2: its own Finished is the last word of the handshake). A peer that refused us has
    /// closed its socket, so that a write may fail before the alert was read. So what there is is read first; a
    /// socket that cannot be written any more soon has an end to be read.
    fn why<R>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<R>> {
        if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            loop {
                match ready!(self.poll_arrival(cx)) {
                    Ok(None) => break,
                    Ok(Some(_)) => self.forget_plaintext(),
                    Err(reason) => return Poll::Ready(Err(explained(&reason))),
                }
            }
        }
        Poll::Ready(Err(explained(&error)))
    }
}

impl<S: Session + Unpin, T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let left = &this.plaintext[this.taken..];
            if !left.is_empty() {
                let n = left.len().min(buf.remaining());
                buf.put_slice(&left[..n]);
                this.taken += n;
                if this.taken == this.plaintext.len() {
                    this.forget_plaintext();
                }
                return Poll::Ready(Ok(()));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_arrival(cx)) {
                Ok(Some(_)) => {}
                // Without a close_notify anybody may have cut it (RFC 8446 §6.1).
                Ok(None) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Err(e) => return Poll::Ready(Err(explained(&e))),
            }
        }
    }
}

impl<S: Session + Unpin, T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S, T> {
    /// Takes all of it, up to a batch; none while the socket does not take the batch before it.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.outgoing.is_full()
            && let Err(e) = ready!(this.poll_send(cx))
        {
            return this.why(cx, e);
        }
        let data = &data[..data.len().min(BATCH)];
        this.outgoing.write(&mut this.session, data)?;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.outgoing.seal_all(&mut this.session)?;
        match ready!(this.poll_send(cx)) {
            Err(e) => this.why(cx, e),
            Ok(()) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.closing {
            this.closing = true;
            this.outgoing.close(&mut this.session)?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

/// HTTP/2 keeps no more of an error than its text.
fn explained(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), explain(error))
}
