//! One gRPC call on a connection of its own: enough for a test, and nothing that has to be kept.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, BytesMut};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A sandbox takes a tenth of a second, on a busy machine a few.
const WITHIN: Duration = Duration::from_secs(60);

/// What a server said no with.
#[derive(Debug)]
pub struct Refused {
    pub code: u32,
    pub message: String,
}

pub(crate) fn call<Q: Message, A: Message + Default>(socket: &Path, path: &str, request: &Q) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = UnixStream::connect(socket).await.context("cannot connect to the runtime")?;
        let answer =
            timeout(WITHIN, exchange(stream, &format!("http://localhost{path}"), &[], request)).await;
        answer.context("the runtime does not answer")?
    })
}

/// Calls the method at this URL, with this metadata: names and values.
pub async fn exchange<S, Q, A>(stream: S, url: &str, metadata: &[(&str, &str)], message: &Q) -> Result<A>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Q: Message,
    A: Message + Default,
{
    let (mut client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    let mut request = Request::post(url).header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    let request = request.body(())?;
    let (response, mut outgoing) = client.send_request(request, false)?;
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut framed)?;
    outgoing.send_data(framed.freeze(), true)?;

    let (head, mut incoming) = response.await?.into_parts();
    check(&head.headers)?;
    let mut body = BytesMut::new();
    while let Some(data) = incoming.data().await {
        let data = data?;
        incoming.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    if let Some(trailers) = incoming.trailers().await? {
        check(&trailers)?;
    }
    ensure!(body.len() >= 5 && body.get_u8() == 0, "an answer without a message");
    body.advance(4);
    A::decode(body).context("an answer that cannot be read")
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refused {}

/// The status comes with the head where there is no message, and after it otherwise.
fn check(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").map(str::parse).transpose()?.unwrap_or(0);
    if code != 0 {
        return Err(Refused { code, message: unescape(text("grpc-message").unwrap_or_default()) }.into());
    }
    Ok(())
}

/// `%22` is a quotation mark, and so on.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
