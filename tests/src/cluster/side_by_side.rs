//! What does not wait for each other is done at the same time.

use std::thread::{self, ScopedJoinHandle};

use anyhow::Result;

/// Does both. Both are done when it returns, also where one has failed.
pub(super) fn both(
    one: impl FnOnce() -> Result<()> + Send,
    other: impl FnOnce() -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        join(one).and(other)
    })
}

/// Does it for all.
pub(super) fn at_once<T: Sync>(all: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(move || work(one))).collect();
        threads.into_iter().map(join).fold(Ok(()), Result::and)
    })
}

fn join(thread: ScopedJoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
