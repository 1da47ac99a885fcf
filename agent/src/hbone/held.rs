//! What streams have received and their readers have not taken yet: kept compactly, and counted.
//!
//! The engine would keep every frame by itself, at a hundred bytes and more for a frame of one byte, and it ends a
//! connection that has too many of them. So a stream takes its frames from the engine as they arrive and joins the small ones.
//! The peer's credit stays used until the reader has the bytes: the window bounds what a stream holds, and the
//! [`ledger`](super::ledger) what all of them do.

use super::ledger::Account;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::rc::Rc;

/// Frames below this are copied and joined: the bytes of a small one may keep a whole read buffer alive, which is as large as
/// the largest frame.
const SMALL: usize = 32 * 1024;

/// Joined pieces do not grow beyond this.
const PIECE: usize = 64 * 1024;

/// The bytes of one stream, in order.
pub(super) struct Held {
    account: Rc<Account>,
    pieces: VecDeque<Bytes>,
    /// What follows the pieces: small frames, joined.
    tail: BytesMut,
    /// Taken from the engine and not given up: what is in here, and what the reader is at.
    owed: usize,
}

impl Held {
    pub fn new(account: Rc<Account>) -> Self {
        Self { account, pieces: VecDeque::new(), tail: BytesMut::new(), owed: 0 }
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.owed += bytes.len();
        if bytes.len() < SMALL {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() >= PIECE {
                self.close_tail();
            }
        } else {
            self.close_tail();
            self.pieces.push_back(bytes);
        }
        self.count();
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close_tail();
        }
        self.pieces.pop_front()
    }

    /// Counts bytes that were received, and go to the reader at once.
    pub fn pass(&mut self, bytes: usize) {
        self.owed += bytes;
        self.count();
    }

    /// The reader has passed on so many bytes.
    pub fn give_up(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_sub(bytes);
        self.account.was_read();
        self.count();
    }

    /// What the tail has room for is memory, too.
    fn count(&self) {
        self.account.set_incoming(self.owed + self.tail.capacity() - self.tail.len());
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

/// `bytes`, without the read buffer that they may be a small part of: for those that are kept.
pub(super) fn compact(bytes: Bytes) -> Bytes {
    if bytes.len() < SMALL { Bytes::copy_from_slice(&bytes) } else { bytes }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.set_incoming(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::held_by_pod;
    use super::*;

    // proves: ISO-1
    #[test]
    fn small_frames_are_joined_in_order_and_counted_until_they_are_given_up() {
        let mut held = Held::new(Account::open(&"peer".into()));
        for byte in 0..=99 {
            held.push(Bytes::from(vec![byte]));
        }
        held.push(Bytes::from(vec![100; SMALL]));
        held.push(Bytes::from_static(b"end"));
        let owed = 100 + SMALL + 3;
        assert!((owed..owed + 200).contains(&held_by_pod()), "{}", held_by_pod());
        assert_eq!(held.pop().unwrap(), (0..=99).collect::<Vec<u8>>());
        assert_eq!(held.pop().unwrap().len(), SMALL);
        assert_eq!(held.pop().unwrap(), "end");
        assert_eq!(held.pop(), None);
        held.give_up(100);
        assert_eq!(held_by_pod(), SMALL + 3);
        drop(held);
        assert_eq!(held_by_pod(), 0);
    }
}
