//! Whether a connection has enough to do: then what is new goes to another.

use crate::tally::{Counted, Tally};
use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// A connection that moves this much in [`INTERVAL`] (40 MB/s) makes small streams wait behind large ones.
const MUCH: usize = 4 << 20;

const INTERVAL: Duration = Duration::from_millis(100);

/// What a connection's streams are doing.
#[derive(Default)]
pub(super) struct Load {
    /// Streams that have something to send, and no room for it.
    waiting: Tally,
    /// Bytes moved since.
    moved: Cell<Option<(Instant, usize)>>,
    /// When there was much to move last.
    much: Cell<Option<Instant>>,
}

impl Load {
    /// A stream waits for room for as long as it holds this.
    pub fn waits(&self) -> Counted {
        self.waiting.add()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.count()
    }

    /// A stream has moved bytes, in either direction.
    pub fn moved(&self, bytes: usize) {
        let now = Instant::now();
        let (since, before) =
            self.moved.get().filter(|(since, _)| now - *since < INTERVAL).unwrap_or((now, 0));
        let moved = before + bytes;
        self.moved.set(Some((since, moved)));
        if moved >= MUCH {
            self.much.set(Some(now));
        }
    }

    /// Whether a new stream is better off elsewhere: somebody waits for room, or much has been moved just now.
    pub fn is_high(&self) -> bool {
        self.waiting() > 0 || self.much.get().is_some_and(|last| last.elapsed() < 2 * INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: ISO-1
    #[tokio::test(start_paused = true)]
    async fn the_load_is_high_while_somebody_waits_and_while_much_is_moved() {
        let load = Load::default();
        load.moved(MUCH - 1);
        assert!(!load.is_high());
        tokio::time::advance(INTERVAL).await;
        load.moved(MUCH / 2);
        assert!(!load.is_high(), "it is much over a longer time only");
        load.moved(MUCH / 2);
        assert!(load.is_high());
        tokio::time::advance(2 * INTERVAL).await;
        assert!(!load.is_high());
        let waits = load.waits();
        assert!(load.is_high());
        drop(waits);
        assert!(!load.is_high());
    }
}
