//! Whether this process is on its way out, by a signal: what makes new things stands still then, so that what was
//! removed is not made again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

static ENDING: AtomicBool = AtomicBool::new(false);

pub(crate) fn begin() {
    ENDING.store(true, Ordering::SeqCst);
}

/// Returns at once, or never: then another thread removes the beds and ends the process.
pub(crate) fn stand_still() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}
