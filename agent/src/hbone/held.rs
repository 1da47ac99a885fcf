//! What streams have received and their readers have not taken yet: kept compactly, and counted.
//!
//! The engine would keep every frame by itself, at a hundred bytes and more for a frame of one byte, and it ends a
//! connection that has too many of them. So a stream takes its frames from the engine as they arrive and joins the small ones.
//! The peer's credit stays used until the reader has the bytes: the window bounds what a stream holds.

use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all streams of a pod may hold before their windows become as small as they may be. Twice the largest window, so
/// that one stream on a long fat path has all that it needs.
const POD_BUDGET: usize = 256 << 20;

/// The same of all pods of the node: half of the memory that the chart gives the agent.
const NODE_BUDGET: usize = 512 << 20;

/// Frames below this are joined: the bytes of a small one may keep a whole read buffer alive.
const SMALL: usize = 4 * 1024;

/// Joined pieces do not grow beyond this.
const PIECE: usize = 64 * 1024;

thread_local! {
    /// A worker has a thread for its pod alone.
    static HELD_BY_POD: Cell<usize> = const { Cell::new(0) };
}

static HELD_BY_NODE: AtomicUsize = AtomicUsize::new(0);

/// Bytes that this pod's streams may still take in before windows have to become small.
pub(super) fn room_left() -> usize {
    let of_node = NODE_BUDGET.saturating_sub(HELD_BY_NODE.load(Ordering::Relaxed));
    POD_BUDGET.saturating_sub(held_by_pod()).min(of_node)
}

/// Bytes that the streams of this thread's pod hold.
pub fn held_by_pod() -> usize {
    HELD_BY_POD.get()
}

/// The bytes of one stream, in order.
#[derive(Default)]
pub(super) struct Held {
    pieces: VecDeque<Bytes>,
    /// What follows the pieces: small frames, joined.
    tail: BytesMut,
    /// Taken from the engine and not given up: what is in here, and what the reader is at.
    counted: usize,
}

impl Held {
    pub fn push(&mut self, bytes: Bytes) {
        self.count(bytes.len());
        if bytes.len() < SMALL {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() >= PIECE {
                self.close_tail();
            }
        } else {
            self.close_tail();
            self.pieces.push_back(bytes);
        }
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close_tail();
        }
        self.pieces.pop_front()
    }

    /// Counts bytes that were received, and go to the reader at once.
    pub fn count(&mut self, bytes: usize) {
        self.counted += bytes;
        HELD_BY_POD.set(HELD_BY_POD.get() + bytes);
        HELD_BY_NODE.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The reader has passed on so many bytes.
    pub fn give_up(&mut self, bytes: usize) {
        let bytes = bytes.min(self.counted);
        self.counted -= bytes;
        HELD_BY_POD.set(HELD_BY_POD.get() - bytes);
        HELD_BY_NODE.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_up(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: ISO-1
    #[test]
    fn small_frames_are_joined_in_order_and_counted_until_they_are_given_up() {
        let mut held = Held::default();
        for byte in 0..=99 {
            held.push(Bytes::from(vec![byte]));
        }
        held.push(Bytes::from(vec![100; SMALL]));
        held.push(Bytes::from_static(b"end"));
        assert_eq!(held_by_pod(), 100 + SMALL + 3);
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
