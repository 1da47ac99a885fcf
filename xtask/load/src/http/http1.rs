//! An HTTP/1.1 client for one kind of request: written at once, answers read into one buffer.

use std::fmt;
use std::io::{self, ErrorKind};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::Answer;

/// Of wrk's order, and enough for any head.
const BUFFER: usize = 16 << 10;
const HEADERS: usize = 32;

pub struct Http1 {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

/// The server closed the connection before it said anything of the request: nobody knows whether it saw it.
#[derive(Debug)]
pub struct ClosedBefore;

impl fmt::Display for ClosedBefore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server closed the connection before it answered")
    }
}

impl std::error::Error for ClosedBefore {}

/// What the head of an answer says.
struct Head {
    /// Its own length in bytes.
    length: usize,
    status: u16,
    body: u64,
    keep: bool,
}

impl Http1 {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into() }
    }

    /// `close`: the server closes after its answer, and that is waited for. So it is the server's port that stays in
    /// TIME-WAIT, and the client does not run out of its own.
    pub async fn exchange(&mut self, request: &[u8], close: bool) -> Result<Answer> {
        let sent = self.stream.write_all(request).await;
        sent.map_err(closed_before).context("the request could not be sent")?;
        let (head, read) = self.head().await?;
        let mut body = (read - head.length) as u64;
        ensure!(body <= head.body, "the answer is longer than its Content-Length");
        while body < head.body {
            body += self.read(0).await? as u64;
        }
        if close {
            let more =
                self.stream.read(&mut self.buffer).await.context("the server did not close in order")?;
            ensure!(more == 0, "the answer is longer than its Content-Length");
        }
        Ok(Answer { status: head.status, bytes: body, keep: head.keep && !close })
    }

    /// Reads until the head is there; gives it with how much was read, of which the rest is body.
    async fn head(&mut self) -> Result<(Head, usize)> {
        let mut filled = 0;
        loop {
            filled += match filled {
                0 => self.first().await?,
                _ => self.read(filled).await?,
            };
            if let Some(head) = Head::parse(&self.buffer[..filled])? {
                return Ok((head, filled));
            }
            ensure!(filled < self.buffer.len(), "the answer's head is longer than {BUFFER} bytes");
        }
    }

    async fn first(&mut self) -> Result<usize> {
        match self.stream.read(&mut self.buffer).await.map_err(closed_before)? {
            0 => Err(ClosedBefore.into()),
            read => Ok(read),
        }
    }

    async fn read(&mut self, from: usize) -> Result<usize> {
        let read =
            self.stream.read(&mut self.buffer[from..]).await.context("the answer could not be read")?;
        ensure!(read > 0, "the server closed the connection before the end of its answer");
        Ok(read)
    }
}

fn closed_before(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ClosedBefore.into(),
        _ => error.into(),
    }
}

impl Head {
    /// `None` when there is more to come.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).context("the answer is not HTTP/1.1")?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let (mut body, mut keep) = (None, response.version == Some(1));
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                body = std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse().ok());
            } else if header.name.eq_ignore_ascii_case("connection") {
                keep &= !header.value.eq_ignore_ascii_case(b"close");
            }
        }
        let Some(body) = body else { bail!("the answer has no Content-Length") };
        Ok(Some(Self { length, status: response.code.unwrap_or_default(), body, keep }))
    }
}
