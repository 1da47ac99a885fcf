//! TLS whose errors are already explained.

use super::explain::explain;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client learns only after its own handshake that the server refused its certificate, by an alert in place of
/// the first data (RFC 8446 §2: its own Finished is the last word of the handshake). HTTP/2 keeps no more of an error than its text.
pub struct Explained<T>(pub T);

impl<T: AsyncRead + AsyncWrite + Unpin> Explained<T> {
    /// A peer that refused us has closed its socket: a write may fail before the alert that says why was read. So
    /// what there is is read first; a socket that cannot be written any more soon has an end to be read.
    fn why<R>(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Result<R>> {
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            return Poll::Ready(Err(explained(&error)));
        }
        let mut scratch = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => return Poll::Ready(Err(error)),
                Ok(()) => {}
                Err(reason) => return Poll::Ready(Err(explained(&reason))),
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Explained<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map_err(|e| explained(&e))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Explained<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.0).poll_write(cx, buf)) {
            Err(e) => self.why(cx, e),
            ok => Poll::Ready(ok),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.0).poll_write_vectored(cx, bufs)) {
            Err(e) => self.why(cx, e),
            ok => Poll::Ready(ok),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_flush(cx)) {
            Err(e) => self.why(cx, e),
            ok => Poll::Ready(ok),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn explained(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), explain(error))
}
