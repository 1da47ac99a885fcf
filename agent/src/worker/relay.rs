//! Carries bytes between an app's connection and its far side until both directions have ended.
//!
//! What one end does, the other end sees: a FIN stays a FIN of that direction, a reset becomes a reset, a slow
//! reader slows the writer down. Nothing is read from one side before the other has room for it, and a
//! connection that is idle holds no buffer.

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
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::sleep;
use tokio_util::io::poll_read_buf;

use super::socket::reset_on_drop;

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
    /// The pod's streams held more than they may, and nobody had taken anything from this one for the longest time.
    OverMemory,
}

/// Counts bytes while they pass.
pub(super) trait Traffic {
    fn sent_by_app(&self, bytes: usize);
    fn sent_to_app(&self, bytes: usize);
}

/// The way out of the pod: an HBONE stream or a plain connection.
pub(super) enum Far {
    Mesh(Stream),
    Plain(TcpStream),
}

enum FarOut<'a> {
    Mesh(Outgoing),
    Plain(WriteHalf<'a>),
}

enum FarIn<'a> {
    Mesh(Incoming),
    Plain(ReadHalf<'a>),
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
        Far::Mesh(Stream { outgoing, incoming, guard: _guard }) => {
            relay_halves(&mut app, FarOut::Mesh(outgoing), FarIn::Mesh(incoming), traffic, revoked).await
        }
        Far::Plain(mut stream) => {
            let (incoming, outgoing) = stream.split();
            relay_halves(&mut app, FarOut::Plain(outgoing), FarIn::Plain(incoming), traffic, revoked).await
        }
    }
}

async fn relay_halves(
    app: &mut TcpStream,
    mut out: FarOut<'_>,
    mut inc: FarIn<'_>,
    traffic: &impl Traffic,
    revoked: impl Future<Output = String>,
) -> Ending {
    let (mut from, to) = app.split();
    let evicted = out.evicted();
    let ending = {
        let both = async {
            tokio::try_join!(from_app(&mut from, &mut out, traffic), to_app(to.as_ref(), &mut inc, traffic))
        };
        tokio::select! {
            ended = both => ended.map_or_else(|ending| ending, |_| Ending::Finished),
            error = failed(to.as_ref()) => Ending::App(error),
            verdict = revoked => Ending::Revoked(verdict),
            () = evicted => Ending::OverMemory,
        }
    };
    match &ending {
        Ending::Finished => {}
        Ending::App(_) | Ending::Revoked(_) | Ending::OverMemory => {
            reset_on_drop(to.as_ref());
            out.reset();
        }
        Ending::Far(_) => reset_on_drop(to.as_ref()),
    }
    ending
}

/// Why nothing more goes from the app to the far side.
enum Stop {
    /// The far side has said all it has to say and reads no more (Envoy, when the server closes first). What it
    /// said is still on its way to the app, and ends that direction, in order or not.
    Unwanted,
    Ended(Ending),
}

async fn from_app(
    app: &mut ReadHalf<'_>,
    out: &mut FarOut<'_>,
    traffic: &impl Traffic,
) -> Result<(), Ending> {
    match send_on(app, out, traffic).await {
        Ok(()) | Err(Stop::Unwanted) => Ok(()),
        Err(Stop::Ended(ending)) => Err(ending),
    }
}

async fn send_on(app: &mut ReadHalf<'_>, out: &mut FarOut<'_>, traffic: &impl Traffic) -> Result<(), Stop> {
    loop {
        tokio::select! {
            biased;
            readable = app.as_ref().readable() => readable.map_err(Ending::App)?,
            stop = out.ended_early() => return Err(stop),
        }
        out.pause().await;
        let room = out.room(CHUNK).await?;
        match read_now(app, room).await {
            Some(Ok(bytes)) if bytes.is_empty() => return out.finish(),
            Some(Ok(bytes)) => {
                traffic.sent_by_app(bytes.len());
                out.send(bytes).await?;
            }
            Some(Err(e)) => return Err(Ending::App(e).into()),
            None => out.give_back_room(),
        }
    }
}

async fn to_app(app: &TcpStream, inc: &mut FarIn<'_>, traffic: &impl Traffic) -> Result<(), Ending> {
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
async fn pass_on(app: &TcpStream, mut bytes: Bytes, inc: &mut FarIn<'_>) -> io::Result<()> {
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

impl FarOut<'_> {
    /// Lets small writes of an app that gets no answer gather.
    async fn pause(&self) {
        if let Self::Mesh(stream) = self
            && let pause = stream.pause()
            && !pause.is_zero()
        {
            sleep(pause).await;
        }
    }

    async fn room(&mut self, wanted: usize) -> Result<usize, Stop> {
        match self {
            Self::Mesh(stream) => Ok(stream.room(wanted).await?),
            Self::Plain(_) => Ok(wanted),
        }
    }

    fn give_back_room(&mut self) {
        if let Self::Mesh(stream) = self {
            stream.give_back_room();
        }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Stop> {
        match self {
            Self::Mesh(stream) => Ok(stream.send(bytes)?),
            Self::Plain(stream) => Ok(write_all(stream.as_ref(), bytes).await.map_err(far)?),
        }
    }

    fn finish(&mut self) -> Result<(), Stop> {
        match self {
            Self::Mesh(stream) => Ok(stream.finish()?),
            Self::Plain(stream) => Ok(shut_down_write(stream.as_ref()).map_err(far)?),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Mesh(stream) => stream.reset(),
            Self::Plain(stream) => reset_on_drop(stream.as_ref()),
        }
    }

    /// Resolves when the stream has to be reset for want of memory.
    fn evicted(&self) -> impl Future<Output = ()> + use<> {
        let evicted = match self {
            Self::Mesh(stream) => Some(stream.evicted()),
            Self::Plain(_) => None,
        };
        async move {
            match evicted {
                Some(evicted) => evicted.await,
                None => pending().await,
            }
        }
    }

    async fn ended_early(&mut self) -> Stop {
        match self {
            Self::Mesh(stream) => stream.ended_early().await.into(),
            Self::Plain(stream) => far(failed(stream.as_ref()).await).into(),
        }
    }
}

impl FarIn<'_> {
    /// What has to wait for the app, in no more memory than it needs.
    fn keep(&self, bytes: Bytes) -> Bytes {
        match self {
            Self::Mesh(stream) => stream.keep(bytes),
            Self::Plain(_) => bytes,
        }
    }

    async fn hold_until<T>(&mut self, ready: impl Future<Output = T>) -> T {
        match self {
            Self::Mesh(stream) => stream.hold_until(ready).await,
            Self::Plain(_) => ready.await,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Ending> {
        match self {
            Self::Mesh(stream) => Ok(stream.next().await?),
            Self::Plain(stream) => loop {
                stream.as_ref().readable().await.map_err(far)?;
                if let Some(read) = read_now(stream, CHUNK).await {
                    return read.map(|bytes| (!bytes.is_empty()).then_some(bytes)).map_err(far);
                }
            },
        }
    }

    fn release(&mut self, bytes: usize) -> Result<(), Ending> {
        match self {
            Self::Mesh(stream) => Ok(stream.release(bytes)?),
            Self::Plain(_) => Ok(()),
        }
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

async fn write_all(stream: &TcpStream, mut bytes: Bytes) -> io::Result<()> {
    while bytes.has_remaining() {
        match stream.try_write(&bytes) {
            Ok(written) => bytes.advance(written),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// An app that closed in the meantime has no use for the FIN; its close is seen where it is read.
fn shut_down_write(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(Shutdown::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}
