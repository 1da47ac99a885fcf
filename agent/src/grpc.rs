//! gRPC without a connection: messages in frames, and statuses. Of certificate authorities and container runtimes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use std::fmt;

pub const CONTENT_TYPE: &str = "application/grpc";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// A frame's flags and length.
const FRAME_HEAD: usize = 5;

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

/// gRPC's numbers, under their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unimplemented,
    Unavailable,
    Unauthenticated,
    /// One that only others use.
    Other(u32),
}

impl Code {
    const NAMED: [(Self, u32, &'static str); 6] = [
        (Self::InvalidArgument, 3, "INVALID_ARGUMENT"),
        (Self::NotFound, 5, "NOT_FOUND"),
        (Self::PermissionDenied, 7, "PERMISSION_DENIED"),
        (Self::Unimplemented, 12, "UNIMPLEMENTED"),
        (Self::Unavailable, 14, "UNAVAILABLE"),
        (Self::Unauthenticated, 16, "UNAUTHENTICATED"),
    ];

    fn from_number(number: u32) -> Self {
        let named = Self::NAMED.iter().find(|(_, its, _)| *its == number);
        named.map_or(Self::Other(number), |(code, ..)| *code)
    }

    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            code => Self::NAMED.iter().find(|(named, ..)| *named == code).map_or(2, |(_, number, _)| *number),
        }
    }

    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(named, ..)| *named == self).map_or("OTHER", |(.., name)| name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(number) => write!(f, "gRPC status {number}"),
            code => f.write_str(code.name()),
        }
    }
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// As the end of an answer has it.
    pub fn headers(result: Result<(), &Self>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let number = result.map_or_else(|status| status.code.number(), |()| 0);
        headers.insert(STATUS, HeaderValue::from(number));
        if let Err(status) = result
            && let Ok(message) = HeaderValue::try_from(escaped(&status.message))
        {
            headers.insert(MESSAGE, message);
        }
        headers
    }

    /// Reads the end of an answer, or its head where there is no message; `None` where nothing is said of it.
    pub fn read(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let number = text(STATUS)?.parse().unwrap_or(2);
        if number == 0 {
            return Some(Ok(()));
        }
        let message = unescaped(text(MESSAGE).unwrap_or_default());
        Some(Err(Self { code: Code::from_number(number), message }))
    }
}

/// A message in its frame.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(FRAME_HEAD + length);
    framed.put_u8(0);
    framed.put_u32(length.try_into().unwrap_or(u32::MAX));
    message.encode_raw(&mut framed);
    framed.freeze()
}

/// The one message in these frames.
///
/// # Errors
/// What is wrong with them.
pub fn unframe<M: Message + Default>(mut body: Bytes) -> Result<M, String> {
    if body.len() < FRAME_HEAD {
        return Err("there is no message".to_owned());
    }
    if body.get_u8() != 0 {
        return Err("the message is compressed".to_owned());
    }
    if usize::try_from(body.get_u32()) != Ok(body.len()) {
        return Err("the message is cut off, or there is another one".to_owned());
    }
    M::decode(body).map_err(|e| e.to_string())
}

/// Percent-encoded, as gRPC has it in headers.
fn escaped(text: &str) -> String {
    let is_plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'%';
    text.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn unescaped(text: &str) -> String {
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
