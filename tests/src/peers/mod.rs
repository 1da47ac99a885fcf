//! Other implementations of HBONE, to speak with: the Istio echo application and Envoy, and what they show of
//! themselves. Envoy is also the sidecar that the benchmark compares with.
//!
//! They are built or fetched once, by name and version, into `target/peers`, by the first who needs them; after
//! that they cost nothing.

pub mod credentials;
pub mod envoy;
mod istio_echo;

pub use envoy::Envoy;
pub use istio_echo::{IstioEcho, client};

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::once;

/// Makes all of them, so that no test has to. Says what it does when there is something to do.
pub fn prepare() -> Result<()> {
    istio_echo::programs()?;
    envoy::program(None).map(drop)
}

/// A directory below `target/peers`, made once.
fn directory(name: &str, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    once::directory("peers", name, what, make)
}
