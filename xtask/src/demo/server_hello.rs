//! What a TLS server chose, read from its first record (RFC 8446, section 4.1.3).

use std::fmt;

/// The choices of a server.
pub struct ServerHello {
    /// 0x0304 is TLS 1.3.
    pub version: u16,
    cipher_suite: u16,
    group: Option<u16>,
}

const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

impl ServerHello {
    /// From the bytes that the server sent first; `None` where they are no ServerHello.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if *bytes.first()? != HANDSHAKE || *bytes.get(5)? != SERVER_HELLO {
            return None;
        }
        // Record header 5, message header 4, legacy version 2, random 32; then the session id with its length.
        let mut at = 43;
        at += 1 + usize::from(*bytes.get(at)?);
        let mut hello = Self { version: be16(bytes, 9)?, cipher_suite: be16(bytes, at)?, group: None };
        // Cipher suite 2, compression 1.
        let end = at + 5 + usize::from(be16(bytes, at + 3)?);
        at += 5;
        while at < end {
            match be16(bytes, at)? {
                SUPPORTED_VERSIONS => hello.version = be16(bytes, at + 4)?,
                KEY_SHARE => hello.group = Some(be16(bytes, at + 4)?),
                _ => {}
            }
            at += 4 + usize::from(be16(bytes, at + 2)?);
        }
        Some(hello)
    }
}

/// By the names of IANA's registry, as far as Pillion offers them.
impl fmt::Display for ServerHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            0x0304 => write!(f, "TLS 1.3"),
            other => write!(f, "version {other:#06x}"),
        }?;
        match self.cipher_suite {
            0x1301 => write!(f, ", TLS_AES_128_GCM_SHA256"),
            0x1302 => write!(f, ", TLS_AES_256_GCM_SHA384"),
            0x1303 => write!(f, ", TLS_CHACHA20_POLY1305_SHA256"),
            other => write!(f, ", cipher suite {other:#06x}"),
        }?;
        match self.group {
            None => Ok(()),
            Some(0x11ec) => write!(f, ", X25519MLKEM768 (post-quantum)"),
            Some(0x001d) => write!(f, ", X25519"),
            Some(0x0017) => write!(f, ", secp256r1"),
            Some(other) => write!(f, ", group {other:#06x}"),
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_hello_is_read() {
        let mut bytes = vec![22, 3, 3, 0, 0, 2, 0, 0, 0, 3, 3];
        bytes.extend([7; 32]);
        bytes.extend([2, 9, 9, 0x13, 0x02, 0, 0, 16]);
        bytes.extend([0, 51, 0, 6, 0x11, 0xec, 0, 2, 1, 1]);
        bytes.extend([0, 43, 0, 2, 3, 4]);
        let hello = ServerHello::parse(&bytes).unwrap();
        assert_eq!(hello.to_string(), "TLS 1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768 (post-quantum)");
        assert!(ServerHello::parse(&bytes[..50]).is_none());
        assert!(ServerHello::parse(b"HTTP/1.1 200 OK").is_none());
    }
}
