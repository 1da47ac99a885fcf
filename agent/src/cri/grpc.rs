//! gRPC over the runtime's socket: one HTTP/2 connection, calls with one answer or with many.

use super::messages::SERVICE;
use crate::grpc::{CONTENT_TYPE, Code, Status, frame};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use prost::Message;
use std::io;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A runtime under load takes seconds for a list. One that takes longer is as good as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than any list of a node's pods (kubelets take 16 MiB).
const LONGEST: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("it cannot be connected to: {0}")]
    Connect(#[from] io::Error),
    #[error("the connection ended: {0}")]
    Http(#[from] h2::Error),
    #[error("it does not answer {0}")]
    Late(&'static str),
    #[error("it refuses {method}: {message} (code {code})", code = .code.number())]
    Status { method: &'static str, code: Code, message: String },
    #[error("its answer to {method} cannot be read: {what}")]
    Answer { method: &'static str, what: String },
}

/// The connection. It ends with this value.
pub struct Channel {
    requests: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Channel {
    pub async fn connect(socket: &Path) -> Result<Self, GrpcError> {
        let stream = UnixStream::connect(socket).await?;
        let handshake = timeout(PATIENCE, h2::client::handshake(stream)).await;
        let (requests, connection) = handshake.map_err(|_| GrpcError::Late("HTTP/2"))??;
        // How it ended, whoever waits for an answer hears.
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Self { requests, driver })
    }

    /// A call with one answer.
    pub async fn ask<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, GrpcError> {
        let answer = async { self.listen(method, request).await?.next().await };
        let answer = timeout(PATIENCE, answer).await.map_err(|_| GrpcError::Late(method))??;
        answer.ok_or_else(|| GrpcError::Answer { method, what: "it is empty".to_owned() })
    }

    /// A call with any number of answers.
    pub async fn listen<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Answers<A>, GrpcError> {
        let mut requests = self.requests.clone().ready().await?;
        let head = Request::post(format!("http://localhost/{SERVICE}/{method}"))
            .header("content-type", CONTENT_TYPE)
            .header("te", "trailers")
            .body(())
            .map_err(|e| GrpcError::Answer { method, what: e.to_string() })?;
        let (response, mut outgoing) = requests.send_request(head, false)?;
        outgoing.send_data(frame(request), true)?;
        Ok(Answers { method, state: State::Head(response), buffer: BytesMut::new(), of: PhantomData })
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The answers to one call, as they come.
pub struct Answers<A> {
    method: &'static str,
    state: State,
    buffer: BytesMut,
    of: PhantomData<A>,
}

/// The head may come only with the first answer.
enum State {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl<A: Message + Default> Answers<A> {
    /// The next answer; none when the call has ended well. May be given up while it waits, and waited for again.
    pub async fn next(&mut self) -> Result<Option<A>, GrpcError> {
        let method = self.method;
        loop {
            if let Some(message) =
                next_message(&mut self.buffer).map_err(|what| GrpcError::Answer { method, what })?
            {
                let read = A::decode(message);
                return read.map(Some).map_err(|e| GrpcError::Answer { method, what: e.to_string() });
            }
            let body = match &mut self.state {
                State::Body(body) => body,
                State::Head(response) => {
                    let (head, body) = response.await?.into_parts();
                    self.state = State::Body(body);
                    check(method, &head.headers)?;
                    continue;
                }
            };
            match body.data().await {
                Some(data) => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len())?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    if let Some(trailers) = body.trailers().await? {
                        check(method, &trailers)?;
                    }
                    return Ok(None);
                }
            }
        }
    }
}

/// The next whole message: a byte that says whether it is compressed, its length, itself.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    let Some((head, _)) = buffer.split_first_chunk::<5>() else { return Ok(None) };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 || length > LONGEST {
        return Err(format!("a message of {length} bytes, compressed: {}", compressed != 0));
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The status comes with the head where there is no message, and after them otherwise.
fn check(method: &'static str, headers: &HeaderMap) -> Result<(), GrpcError> {
    match Status::read(headers) {
        Some(Err(Status { code, message })) => Err(GrpcError::Status { method, code, message }),
        Some(Ok(())) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut as _;

    #[test]
    fn messages_come_in_whatever_parts() {
        let mut buffer = BytesMut::new();
        let mut whole = Vec::new();
        for byte in [0, 0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 0, 0] {
            buffer.put_u8(byte);
            whole.extend(next_message(&mut buffer).unwrap());
        }
        assert_eq!(whole, [&[7, 8][..], &[]]);
        assert_eq!(&buffer[..], [0]);
    }

    #[test]
    fn a_message_that_nobody_could_mean_is_an_error() {
        assert!(next_message(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
        assert!(next_message(&mut BytesMut::from(&[0, 0xff, 0xff, 0xff, 0xff][..])).is_err());
    }
}
