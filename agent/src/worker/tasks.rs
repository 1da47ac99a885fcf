//! The worker's tasks, counted: tokio counts those of a runtime, not those of a `LocalSet`.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle, spawn_local};

thread_local! {
    static ALIVE: Cell<usize> = const { Cell::new(0) };
    static VITAL_PANICKED: Rc<Notify> = Rc::default();
}

/// A task of this thread's worker.
pub(super) fn spawn<T: 'static>(task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let alive = Alive::new();
    spawn_local(async move {
        let _alive = alive;
        task.await
    })
}

/// A task that the worker cannot do without. A panic in one connection's task ends that connection; in one of these it ends the
/// worker ([`vital_panicked`]), so that another one is started.
pub(super) fn spawn_vital<T: 'static>(task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let vital = Vital(VITAL_PANICKED.with(Rc::clone));
    spawn(async move {
        let _vital = vital;
        task.await
    })
}

/// Resolves when a vital task of this thread's worker has panicked.
pub(super) async fn vital_panicked() {
    let panicked = VITAL_PANICKED.with(Rc::clone);
    panicked.notified().await;
}

struct Vital(Rc<Notify>);

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

/// A task that ends when this is dropped, with whatever it accompanies.
pub(super) struct Companion(AbortHandle);

/// A [`Companion`] of whoever holds the answer.
pub(super) fn spawn_companion(task: impl Future<Output = ()> + 'static) -> Companion {
    Companion(spawn(task).abort_handle())
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How many of them there are.
pub(super) fn alive() -> usize {
    ALIVE.get()
}

/// Counts until it is dropped, with its task.
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.set(ALIVE.get() + 1);
        Self
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.set(ALIVE.get() - 1);
    }
}
