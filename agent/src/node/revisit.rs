//! When to look again at pods that are about to be gone.

use std::time::{Duration, Instant};

/// How soon a pod that is about to be gone is looked at again, doubling up to the bound; then the audit does it.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The next look, and how long the wait for it was.
#[derive(Default)]
pub(super) struct Revisit {
    pub at: Option<Instant>,
    wait: Duration,
}

impl Revisit {
    pub fn soon(&mut self) {
        self.wait = FIRST_LOOK;
        self.at = Some(Instant::now() + self.wait);
    }

    /// The next look after this one, if it is still worth it.
    pub fn next(&mut self) {
        self.wait *= 2;
        self.at = (self.wait <= LAST_LOOK).then(|| Instant::now() + self.wait);
    }
}
