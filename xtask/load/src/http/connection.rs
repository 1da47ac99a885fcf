//! A connection to the server, whichever version of HTTP it speaks.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use super::answer::Answer;
use super::http1::Http1;
use super::http2::Http2;

/// What is asked for, and how; requests are made once.
pub struct Target {
    address: SocketAddr,
    /// HTTP/1.1's, byte by byte.
    pub http1: Vec<u8>,
    /// HTTP/2's.
    pub http2: Option<http::Request<()>>,
    /// A connection is for one request.
    pub close: bool,
}

pub enum Connection {
    Http1(Http1),
    Http2(Http2),
}

impl Target {
    pub fn new(address: SocketAddr, path: &str, http2: bool, close: bool) -> Result<Self> {
        ensure!(path.starts_with('/'), "the path {path:?} does not begin with /");
        let request = http::Request::get(format!("http://{address}{path}")).body(());
        let request = request.with_context(|| format!("the path {path:?} cannot be asked for"))?;
        let close_header = if close { "Connection: close\r\n" } else { "" };
        let http1 = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{close_header}\r\n").into_bytes();
        Ok(Self { address, http1, http2: http2.then_some(request), close })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(match self.http2 {
            None => Connection::Http1(Http1::new(stream)),
            Some(_) => Connection::Http2(Http2::new(stream).await?),
        })
    }
}

impl Connection {
    /// Sends the request and reads the whole answer. An error leaves a connection that is of no use.
    pub async fn exchange(&mut self, target: &Target) -> Result<Answer> {
        match self {
            Self::Http1(connection) => connection.exchange(&target.http1, target.close).await,
            Self::Http2(connection) => {
                let request =
                    target.http2.as_ref().context("a target of HTTP/1.1 has no request of HTTP/2")?;
                connection.exchange(request.clone()).await
            }
        }
    }
}
