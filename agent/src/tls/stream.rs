//! TLS whose errors are already explained.

use super::explain::explain;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A client learns only after its own handshake that the server refused its certificate, by an alert in place of
/// the first data (RFC 8446 §2: its own Finished is the last word of the handshake). HTTP/2 keeps no more of an error than its text.
pub struct Explained<T>(pub T);

impl<T: AsyncRead + AsyncWrite + Unpin> Explained<T> {
    /// A peer that refused us has closed its socket: a write may fail before the alert that says why was read.
    fn why(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        let mut scratch = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.0).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(Err(reason)) if reason.kind() == io::ErrorKind::InvalidData => {
                    return explained(&reason);
                }
                _ => return error,
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
        Pin::new(&mut self.0).poll_write(cx, buf).map_err(|e| self.why(cx, e))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs).map_err(|e| self.why(cx, e))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx).map_err(|e| self.why(cx, e))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn explained(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), explain(error))
}
