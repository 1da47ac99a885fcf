//! What the tasks need of the machine.

use anyhow::Result;
use pillion_tests::requirements;

/// Installs what the bed and its applications need. Says nothing when all is there.
pub fn ensure() -> Result<()> {
    requirements::ensure(requirements::APPS)
}
