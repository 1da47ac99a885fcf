//! Buffers between their uses: a worker's connections share a few, so that one that is idle holds none.

use std::cell::RefCell;

/// Kept for the next connection that needs one. More of them are in use at once only where sockets are full.
const KEPT: usize = 4;

pub(super) struct Spares<T>(RefCell<Vec<T>>);

impl<T: Default> Spares<T> {
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }

    pub fn take(&self) -> T {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub fn give(&self, buffer: T) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}
