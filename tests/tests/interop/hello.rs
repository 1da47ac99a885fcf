//! The hellos of TLS 1.3, as anybody on the wire can read them (RFC 8446, section 4.1).

use anyhow::{Context, Result, ensure};
use pillion_tests::pcap::Packets;

/// Named groups (RFC 8446, section 4.2.7; draft-ietf-tls-ecdhe-mlkem).
pub const X25519: u16 = 0x001d;
pub const X25519MLKEM768: u16 = 0x11ec;

/// The first flight of one side.
#[derive(Debug)]
pub struct Hello {
    pub from_client: bool,
    /// It asks the client to begin again with another key share, which costs a round trip.
    pub is_retry: bool,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Hello {
    /// The hellos in a recording, one of each direction of each TLS connection to port 15008.
    pub fn all(packets: &Packets) -> Result<Vec<Self>> {
        let flows = packets.flows().into_iter().filter(|flow| flow.whole && !flow.bytes.is_empty());
        flows.map(|flow| Self::parse(&flow.bytes).context("no hello of TLS")).collect()
    }

    /// The server name that it names in plain.
    pub fn server_name(&self) -> Option<&[u8]> {
        self.extension(0)
    }

    /// The group that the server chose.
    pub fn group(&self) -> Option<u16> {
        let share = self.extension(51).filter(|_| !self.from_client)?;
        Some(u16::from_be_bytes([*share.first()?, *share.get(1)?]))
    }

    /// The groups that the client has sent a key for, in its order.
    pub fn offered(&self) -> Vec<u16> {
        let mut shares = Reader(self.extension(51).and_then(|all| all.get(2..)).unwrap_or_default());
        let mut share = || Some((shares.number(2)?, shares.vector(2)?).0 as u16);
        std::iter::from_fn(&mut share).collect()
    }

    fn extension(&self, kind: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|(k, _)| *k == kind).map(|(_, body)| body.as_slice())
    }

    fn parse(flow: &[u8]) -> Result<Self> {
        const HANDSHAKE: usize = 22;
        let (mut records, mut handshake) = (Reader(flow), Vec::new());
        // A hello may be longer than its first record.
        while let Some(HANDSHAKE) = records.number(1) {
            records.number(2).context("cut off")?;
            handshake.extend_from_slice(records.vector(2).context("cut off")?);
        }
        let mut message = Reader(&handshake);
        let kind = message.number(1).context("the flow has no handshake")?;
        let mut hello = Reader(message.vector(3).context("the hello is cut off")?);
        ensure!(kind == 1 || kind == 2, "handshake message {kind} is no hello");
        Self::body(kind == 1, &mut hello).context("the hello is malformed")
    }

    fn body(from_client: bool, hello: &mut Reader<'_>) -> Option<Self> {
        /// The random of a HelloRetryRequest begins with this (RFC 8446, section 4.1.3).
        const RETRY: &[u8] = &[0xcf, 0x21, 0xad, 0x74];
        hello.number(2)?;
        let is_retry = hello.bytes(32)?.starts_with(RETRY);
        hello.vector(1)?;
        if from_client {
            hello.vector(2)?;
            hello.vector(1)?;
        } else {
            hello.bytes(3)?;
        }
        let (mut rest, mut extensions) = (Reader(hello.vector(2)?), Vec::new());
        while let Some(kind) = rest.number(2) {
            extensions.push((kind as u16, rest.vector(2)?.to_vec()));
        }
        Some(Self { from_client, is_retry, extensions })
    }
}

/// TLS's presentation language: numbers, and vectors with their length before them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.bytes(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.number(width)?;
        self.bytes(length)
    }
}
