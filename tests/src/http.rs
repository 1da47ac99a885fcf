//! A few lines of HTTP/1.0: enough to ask an agent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// An agent answers from memory; the audit takes longest.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Response {
    pub status: u16,
    pub body: String,
}

/// Sends one request from this thread's network namespace and reads until the server closes.
pub(crate) fn request(server: SocketAddr, method: &str, path: &str) -> Result<Response> {
    let shown = || format!("{method} http://{server}{path}");
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).with_context(shown)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {server}\r\nContent-Length: 0\r\n\r\n")
        .with_context(shown)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(shown)?;
    parse(&text).with_context(|| format!("{} was not answered in HTTP: {text:?}", shown()))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}
