//! Counts what is alive on one thread, and waits until nothing is.

use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Notify;

/// A count; clones are the same one.
#[derive(Clone, Default)]
pub struct Tally(Rc<Count>);

#[derive(Default)]
struct Count {
    alive: Cell<usize>,
    none: Notify,
    fewer: Notify,
}

/// One that counts until this is dropped.
pub struct Counted(Rc<Count>);

impl Tally {
    pub fn add(&self) -> Counted {
        self.0.alive.set(self.count() + 1);
        Counted(self.0.clone())
    }

    pub fn count(&self) -> usize {
        self.0.alive.get()
    }

    /// Resolves when the next one ends.
    pub async fn fewer(&self) {
        self.0.fewer.notified().await;
    }

    /// Resolves when none is alive, at once where there is none.
    pub async fn none(&self) {
        while self.count() > 0 {
            self.0.none.notified().await;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let left = self.0.alive.get() - 1;
        self.0.alive.set(left);
        self.0.fewer.notify_waiters();
        if left == 0 {
            self.0.none.notify_waiters();
        }
    }
}
