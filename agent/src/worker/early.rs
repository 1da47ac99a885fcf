//! What an app says before its connection is up at the far side: most clients speak first, and at once.

use super::relay::read_now;
use bytes::Bytes;
use std::future::pending;
use std::io;
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

/// The most of it that is taken early. A first message is rarely larger, and the peer holds it until its app is there.
const EARLY: usize = 16 * 1024;

/// The first bytes of an app, kept: a request that the peer never looked at is made again with them.
pub(super) struct Early<'a> {
    app: ReadHalf<'a>,
    bytes: Bytes,
}

impl<'a> Early<'a> {
    pub fn new(app: &'a mut TcpStream) -> Self {
        Self { app: app.split().0, bytes: Bytes::new() }
    }

    /// How much was taken from the app.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Resolves when the app has said something; never where it waits to be spoken to, or has ended its direction.
    pub async fn said(&mut self) -> io::Result<Bytes> {
        while self.bytes.is_empty() {
            self.app.as_ref().readable().await?;
            match read_now(&mut self.app, EARLY).await {
                // A FIN. The relay will see it, too.
                Some(Ok(bytes)) if bytes.is_empty() => pending().await,
                // A copy: a piece of the shared buffer would keep all of it.
                Some(Ok(bytes)) => self.bytes = Bytes::copy_from_slice(&bytes),
                Some(Err(e)) => return Err(e),
                None => {}
            }
        }
        Ok(self.bytes.clone())
    }
}
