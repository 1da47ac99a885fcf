//! How many of the agent's own inserts into the kernel's maps have failed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By map, since the agent started. One for the process: workers write maps, too, and one agent has one kernel.
static FAILED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Counts an insert that has failed.
pub fn count(map: &'static str) {
    *FAILED.lock().unwrap_or_else(PoisonError::into_inner).entry(map).or_default() += 1;
}

/// By map; a map without a failure is not among them.
pub fn failed() -> BTreeMap<&'static str, u64> {
    FAILED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
