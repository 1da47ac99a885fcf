//! Bytes on their way to the wire, counted until the engine has them off its hands.

use super::ledger::Account;
use bytes::{Buf, Bytes};
use std::rc::Rc;

/// Less than this is copied: it may be a small part of a read buffer, which it would keep alive.
const SMALL: usize = 8 * 1024;

/// What is not copied counts as the whole read buffer that it may be a part of.
const READ_BUFFER: usize = 64 * 1024;

/// What the engine is given to send. It drops this when the last byte is written, or when the stream is no more.
pub(super) struct Sending {
    bytes: Bytes,
    charge: Option<(Rc<Account>, usize)>,
}

impl Sending {
    pub fn new(bytes: Bytes, account: &Rc<Account>) -> Self {
        let length = bytes.len();
        let is_copied = length < SMALL || length < READ_BUFFER && account.is_tight();
        let (bytes, charged) = match is_copied {
            true => (Bytes::copy_from_slice(&bytes), length),
            false => (bytes, length.max(READ_BUFFER)),
        };
        account.add_outgoing(charged);
        Self { bytes, charge: Some((account.clone(), charged)) }
    }

    /// Nothing: the end of the direction.
    pub fn end() -> Self {
        Self { bytes: Bytes::new(), charge: None }
    }
}

impl Buf for Sending {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some((account, charged)) = self.charge.take() {
            account.was_sent(charged);
        }
    }
}
