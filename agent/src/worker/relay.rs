//! Carries bytes between an app's connection and its far side until both directions have ended.
//!
//! What one end does, the other end sees: a FIN stays a FIN of that direction, a reset becomes a reset, a slow
//! reader slows the writer down. Nothing is read from one side before the other has room for it, and a
//! connection that is idle holds no buffer. What goes by an HBONE stream is relayed here, what goes plain by `passing.rs`.

use crate::hbone::{Incoming, Outgoing, Stream, StreamError};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::SockRef;
use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::sleep;
use tokio_util::io::poll_read_buf;

use super::buffers::Buffers;
use super::passing::{Broken, Passed, pass};
use super::socket::reset_on_drop;
use super::traffic::Traffic;

/// Bytes moved at a time. The buffer sizes that were tried (16 to 256 KiB) hardly differ; memory does.
const CHUNK: usize = 64 * 1024;

/// Less than this left in the read buffer asks for a fresh one, so that a bulk stream reads large pieces.
const SMALLEST_READ: usize = 8 * 1024;

thread_local! {
    /// Where all connections of a worker read to: what is read is split off at once, so that it is never shared.
    static READ_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// How a relayed connection ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// Both directions ended in order.
    Finished,
    /// The app reset its connection, or vanished.
    App(io::Error),
    /// The far side did.
    Far(String),
    /// Policies allow the connection no longer, in these words.
    Revoked(String),
    /// The pod's connections held more than they may, and nobody had taken anything from this one for the longest time.
    OverMemory,
}

/// The way out of the pod: an HBONE stream or a plain connection.
pub(super) enum Far {
    Mesh(Stream),
    Plain(TcpStream),
}

/// Relays until the end, and ends both sides as the other one ended; or until the connection is `revoked`, and resets
/// both.
pub(super) async fn relay(
    mut app: TcpStream,
    far: Far,
    traffic: &impl Traffic,
    revoked: impl Future<Output = String>,
) -> Ending {
    match far {
        Far::Mesh(Stream { mut outgoing, mut incoming, guard: _guard }) => {
            let buffers = Buffers::of_stream(&app, outgoing.account());
            let traffic = &buffers.counting(traffic);
            let (mut from, to) = app.split();
            let both = async {
                let from_app = from_app(&mut from, &mut outgoing, traffic);
                tokio::try_join!(from_app, to_app(to.as_ref(), &mut incoming, traffic))
            };
            let ending = end(to.as_ref(), both, cut(revoked, &buffers)).await;
            if ending.resets_far() {
                outgoing.reset();
            }
            ending
        }
        Far::Plain(far) => {
            let buffers = Buffers::of_plain(&app, &far);
            let traffic = &buffers.counting(traffic);
            let both = async {
                tokio::try_join!(plain_from_app(&app, &far, traffic), plain_to_app(&app, &far, traffic))
            };
            let ending = end(&app, both, cut(revoked, &buffers)).await;
            if ending.resets_far() {
                reset_on_drop(&far);
            }
            ending
        }
    }
}

/// What ends a connection that both ends would keep.
async fn cut(revoked: impl Future<Output = String>, buffers: &Buffers) -> Ending {
    tokio::select! {
        verdict = revoked => Ending::Revoked(verdict),
        () = buffers.evicted() => Ending::OverMemory,
    }
}

/// Waits for the end of both directions, or for what ends them before; the app's side of it is ended accordingly.
async fn end(
    app: &TcpStream,
    both: impl Future<Output = Result<((), ()), Ending>>,
    cut: impl Future<Output = Ending>,
) -> Ending {
    let ending = tokio::select! {
        ended = both => ended.map_or_else(|ending| ending, |_| Ending::Finished),
        error = failed(app) => Ending::App(error),
        ending = cut => ending,
    };
    if !matches!(ending, Ending::Finished) {
        reset_on_drop(app);
    }
    ending
}

async fn plain_from_app(app: &TcpStream, far: &TcpStream, traffic: &impl Traffic) -> Result<(), Ending> {
    loop {
        let passed = tokio::select! {
            biased;
            passed = pass(app, far) => passed,
            error = failed(far) => return Err(self::far(error)),
        };
        match passed {
            Ok(Passed::Bytes(bytes)) => traffic.sent_by_app(bytes),
            Ok(Passed::End) => return shut_down_write(far).map_err(self::far),
            Err(Broken::From(e)) => return Err(Ending::App(e)),
            Err(Broken::To(e)) => return Err(self::far(e)),
        }
    }
}

async fn plain_to_app(app: &TcpStream, far: &TcpStream, traffic: &impl Traffic) -> Result<(), Ending> {
    loop {
        match pass(far, app).await {
            Ok(Passed::Bytes(bytes)) => traffic.sent_to_app(bytes),
            Ok(Passed::End) => return shut_down_write(app).map_err(Ending::App),
            Err(Broken::From(e)) => return Err(self::far(e)),
            Err(Broken::To(e)) => return Err(Ending::App(e)),
        }
    }
}

/// Why nothing more goes from the app to the far side.
enum Stop {
    /// The far side has said all it has to say and reads no more (Envoy, when the server closes first). What it
    /// said is still on its way to the app, and ends that direction, in order or not.
    Unwanted,
    Ended(Ending),
}

async fn from_app(app: &mut ReadHalf<'_>, out: &mut Outgoing, traffic: &impl Traffic) -> Result<(), Ending> {
    match send_on(app, out, traffic).await {
        Ok(()) | Err(Stop::Unwanted) => Ok(()),
        Err(Stop::Ended(ending)) => Err(ending),
    }
}

async fn send_on(app: &mut ReadHalf<'_>, out: &mut Outgoing, traffic: &impl Traffic) -> Result<(), Stop> {
    loop {
        tokio::select! {
            biased;
            readable = app.as_ref().readable() => readable.map_err(Ending::App)?,
            error = out.ended_early() => return Err(error.into()),
        }
        pause(out).await;
        let room = out.room(CHUNK).await?;
        match read_now(app, room).await {
            Some(Ok(bytes)) if bytes.is_empty() => return Ok(out.finish()?),
            Some(Ok(bytes)) => {
                traffic.sent_by_app(bytes.len());
                out.send(bytes)?;
            }
            Some(Err(e)) => return Err(Ending::App(e).into()),
            None => out.give_back_room(),
        }
    }
}

async fn to_app(app: &TcpStream, inc: &mut Incoming, traffic: &impl Traffic) -> Result<(), Ending> {
    while let Some(bytes) = inc.next().await? {
        let length = bytes.len();
        pass_on(app, bytes, inc).await.map_err(Ending::App)?;
        traffic.sent_to_app(length);
        inc.release(length)?;
    }
    shut_down_write(app).map_err(Ending::App)
}

/// Writes all of it to the app. While the app reads nothing, what arrives for it is held here: the engine of HTTP/2 has its
/// frames off its hands, and other streams are not in their way.
async fn pass_on(app: &TcpStream, mut bytes: Bytes, inc: &mut Incoming) -> io::Result<()> {
    while bytes.has_remaining() {
        match app.try_write(&bytes) {
            Ok(written) => bytes.advance(written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                bytes = inc.keep(bytes);
                inc.hold_until(app.writable()).await?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl Ending {
    /// Whether the far side learns by a reset that it has ended. One that has ended by itself needs none.
    fn resets_far(&self) -> bool {
        matches!(self, Self::App(_) | Self::Revoked(_) | Self::OverMemory)
    }
}

/// Lets small writes of an app that gets no answer gather.
async fn pause(out: &Outgoing) {
    let pause = out.pause();
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

impl From<StreamError> for Ending {
    fn from(error: StreamError) -> Self {
        Self::Far(error.to_string())
    }
}

impl From<StreamError> for Stop {
    fn from(error: StreamError) -> Self {
        if error.is_unwanted() { Self::Unwanted } else { Self::Ended(error.into()) }
    }
}

impl From<Ending> for Stop {
    fn from(ending: Ending) -> Self {
        Self::Ended(ending)
    }
}

fn far(error: io::Error) -> Ending {
    Ending::Far(error.to_string())
}

/// Resolves when the connection breaks (RST, keep-alive), also while nobody reads from it or writes to it.
async fn failed(stream: &TcpStream) -> io::Error {
    loop {
        match stream.ready(Interest::ERROR).await {
            Err(e) => return e,
            Ok(ready) if !ready.is_error() => pending().await,
            Ok(_) => match stream.take_error() {
                Ok(Some(e)) | Err(e) => return e,
                // Somebody else has read the error, and ends the connection for it; or it was none.
                Ok(None) => {
                    let clear: io::Result<()> =
                        stream.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
                    debug_assert!(clear.is_err());
                }
            },
        }
    }
}

/// What has arrived, up to `limit`; `None` when nothing has. A read that comes back short has found the end of it, so
/// that the next one waits for more without asking the kernel.
pub(super) async fn read_now(stream: &mut ReadHalf<'_>, limit: usize) -> Option<io::Result<Bytes>> {
    poll_fn(|cx| {
        READ_BUFFER.with_borrow_mut(|buffer| {
            if buffer.capacity() - buffer.len() < limit.min(SMALLEST_READ) {
                buffer.reserve(CHUNK);
            }
            match poll_read_buf(Pin::new(&mut *stream), cx, &mut (&mut *buffer).limit(limit)) {
                Poll::Ready(read) => Poll::Ready(Some(read.map(|_| buffer.split().freeze()))),
                Poll::Pending => Poll::Ready(None),
            }
        })
    })
    .await
}

/// An app that closed in the meantime has no use for the FIN; its close is seen where it is read.
pub(super) fn shut_down_write(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}
