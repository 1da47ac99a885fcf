//! How many streams a connection carries.

use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Notify;

/// Clones count the same connection.
#[derive(Clone, Default)]
pub(super) struct Load(Rc<Count>);

#[derive(Default)]
struct Count {
    streams: Cell<usize>,
    idle: Notify,
}

/// A stream that counts against its connection's limit until this is dropped.
pub struct StreamGuard(Rc<Count>);

impl Load {
    pub fn streams(&self) -> usize {
        self.0.streams.get()
    }

    /// Resolves when the last stream has ended, at once where there is none.
    pub async fn idle(&self) {
        while self.streams() > 0 {
            self.0.idle.notified().await;
        }
    }

    pub fn reserve(&self) -> StreamGuard {
        self.0.streams.set(self.streams() + 1);
        StreamGuard(self.0.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let left = self.0.streams.get() - 1;
        self.0.streams.set(left);
        if left == 0 {
            self.0.idle.notify_waiters();
        }
    }
}
