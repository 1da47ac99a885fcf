//! An HTTP/1.1 server that takes a known time: what validates the generator.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlate\n";
/// Enough for a request's head.
const BUFFER: usize = 4 << 10;

/// Where, and how long an answer takes; never less.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub port: u16,
    pub time: Duration,
}

impl FromStr for Stall {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (port, millis) = text.split_once(':')?;
            Some(Self { port: port.parse().ok()?, time: Duration::from_millis(millis.parse().ok()?) })
        };
        parse().ok_or_else(|| format!("{text:?} is not a port and milliseconds like 8081:50"))
    }
}

impl Stall {
    pub async fn serve(self, listener: TcpListener) -> Result<()> {
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept")?;
            tokio::spawn(self.answer(stream));
        }
    }

    /// Requests without a body, one at a time.
    async fn answer(self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut request = Vec::with_capacity(BUFFER);
        loop {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
            if request.ends_with(b"\r\n\r\n") {
                request.clear();
                tokio::time::sleep(self.time).await;
                stream.write_all(ANSWER).await?;
            }
        }
    }
}
