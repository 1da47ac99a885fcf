//! What a request came to.

use anyhow::{Result, ensure};

/// What the server said.
pub struct Answer {
    pub status: u16,
    /// The body's.
    pub bytes: u64,
    /// The connection is good for another request.
    pub keep: bool,
}

impl Answer {
    /// The body's bytes of a success.
    pub fn bytes(&self) -> Result<u64> {
        ensure!((200..300).contains(&self.status), "the server answered with status {}", self.status);
        Ok(self.bytes)
    }
}
