//! Frames: NRI's multiplexer, which carries two connections on one socket, and ttrpc's messages on each of them.
//!
//! ```text
//! multiplexer: connection u32, length u32, then a piece of that connection's bytes
//! ttrpc:       length u32, stream u32, type u8, flags u8, then the message
//! ```
//! All numbers are big-endian. One message may come in pieces, and one piece may hold several.

use bytes::{Buf, Bytes, BytesMut};

/// The longest ttrpc message (`messageLengthMax` of github.com/containerd/ttrpc).
const LONGEST_MESSAGE: usize = 4 << 20;
const TTRPC_HEADER: usize = 10;
const MUX_HEADER: usize = 8;

/// NRI's readers take a frame as a whole into a buffer of this size, and fail where it does not fit. What is said here is
/// much shorter.
const LONGEST_SAID: usize = 4096;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Who asks on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// The runtime asks the plugin.
    Plugin = 1,
    /// The plugin asks the runtime.
    Runtime = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request = REQUEST as isize,
    Response = RESPONSE as isize,
}

/// One ttrpc message.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub connection: Connection,
    pub stream: u32,
    pub kind: Kind,
    pub body: Bytes,
}

/// The other side does not speak NRI.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame for connection {0}, which NRI does not have")]
    Connection(u32),
    #[error("a frame of {0} bytes; the longest has 4 MiB")]
    Long(usize),
    #[error("a message of type {0}, which plugins are not sent")]
    Type(u8),
}

/// Makes messages of bytes as they come.
#[derive(Default)]
pub struct Decoder {
    socket: BytesMut,
    plugin: BytesMut,
    runtime: BytesMut,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.socket.extend_from_slice(bytes);
    }

    /// The next message that is whole. After an error nothing can be made of what follows.
    pub fn next(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            for connection in [Connection::Plugin, Connection::Runtime] {
                if let Some(message) = take_message(connection, self.of(connection))? {
                    return Ok(Some(message));
                }
            }
            if !self.sort_frame()? {
                return Ok(None);
            }
        }
    }

    /// Takes one frame of the multiplexer's to its connection, if it is whole.
    fn sort_frame(&mut self) -> Result<bool, FrameError> {
        let Some(mut header) = self.socket.get(..MUX_HEADER) else { return Ok(false) };
        let (id, length) = (header.get_u32(), header.get_u32() as usize);
        let connection = match id {
            1 => Connection::Plugin,
            2 => Connection::Runtime,
            other => return Err(FrameError::Connection(other)),
        };
        if length > LONGEST_MESSAGE + TTRPC_HEADER {
            return Err(FrameError::Long(length));
        }
        if self.socket.len() < MUX_HEADER + length {
            return Ok(false);
        }
        self.socket.advance(MUX_HEADER);
        let piece = self.socket.split_to(length);
        self.of(connection).unsplit(piece);
        Ok(true)
    }

    fn of(&mut self, connection: Connection) -> &mut BytesMut {
        match connection {
            Connection::Plugin => &mut self.plugin,
            Connection::Runtime => &mut self.runtime,
        }
    }
}

fn take_message(connection: Connection, bytes: &mut BytesMut) -> Result<Option<Message>, FrameError> {
    let Some(mut header) = bytes.get(..TTRPC_HEADER) else { return Ok(None) };
    let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
    if length > LONGEST_MESSAGE {
        return Err(FrameError::Long(length));
    }
    let kind = match kind {
        REQUEST => Kind::Request,
        RESPONSE => Kind::Response,
        other => return Err(FrameError::Type(other)),
    };
    if bytes.len() < TTRPC_HEADER + length {
        return Ok(None);
    }
    bytes.advance(TTRPC_HEADER);
    Ok(Some(Message { connection, stream, kind, body: bytes.split_to(length).freeze() }))
}

/// The bytes of a message, as one frame.
pub fn encode(connection: Connection, stream: u32, kind: Kind, body: &[u8]) -> Vec<u8> {
    debug_assert!(TTRPC_HEADER + body.len() <= LONGEST_SAID);
    let mut bytes = Vec::with_capacity(MUX_HEADER + TTRPC_HEADER + body.len());
    bytes.extend((connection as u32).to_be_bytes());
    bytes.extend(((TTRPC_HEADER + body.len()) as u32).to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind as u8, 0]);
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let bodies: [&[u8]; 3] = [b"", b"one", &[7; 3000]];
        let sent: Vec<u8> = (1..)
            .zip(bodies)
            .flat_map(|(stream, body)| encode(Connection::Plugin, stream, Kind::Request, body))
            .collect();
        for piece in [1, 7, 9, 17, 4000] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for bytes in sent.chunks(piece) {
                decoder.push(bytes);
                while let Some(message) = decoder.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got.iter().map(|m| &m.body[..]).collect::<Vec<_>>(), bodies, "in pieces of {piece}");
            assert_eq!(got.iter().map(|m| m.stream).collect::<Vec<_>>(), [1, 2, 3]);
        }
    }

    /// As the runtime does it with what is longer than its own buffer, and with both connections at once.
    #[test]
    fn a_message_may_be_spread_over_frames_and_connections_mixed() {
        let whole = encode(Connection::Plugin, 5, Kind::Request, b"spread");
        let other = encode(Connection::Runtime, 1, Kind::Response, b"");
        let frame =
            |piece: &[u8]| [&1u32.to_be_bytes()[..], &(piece.len() as u32).to_be_bytes(), piece].concat();
        let (head, tail) = whole[MUX_HEADER..].split_at(12);
        let mut decoder = Decoder::default();
        decoder.push(&[frame(head), other, frame(tail)].concat());
        let first = decoder.next().unwrap().unwrap();
        assert_eq!((first.connection, first.kind), (Connection::Runtime, Kind::Response));
        assert_eq!(decoder.next().unwrap().unwrap().body, "spread");
        assert_eq!(decoder.next(), Ok(None));
    }

    #[test]
    fn what_is_no_nri_is_an_error_before_it_is_kept() {
        let start = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next()
        };
        assert_eq!(start(&[0, 0, 0, 3, 0, 0, 0, 0]), Err(FrameError::Connection(3)));
        assert_eq!(start(&[0, 0, 0, 1, 255, 0, 0, 0]), Err(FrameError::Long(0xff00_0000)));
        let long = [0, 0, 0, 1, 0, 0, 0, 10, 0x7f, 0, 0, 0, 0, 0, 0, 1, 1, 0];
        assert_eq!(start(&long), Err(FrameError::Long(0x7f00_0000)));
        let streaming = [0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0];
        assert_eq!(start(&streaming), Err(FrameError::Type(3)));
    }

    // proves: SEC-2
    #[test]
    fn hostile_frames_are_an_error_and_no_panic() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = encode(Connection::Plugin, random.random(), Kind::Request, b"\x0a\x03abc");
            for _ in 0..random.random_range(0..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
