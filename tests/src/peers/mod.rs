//! Other implementations, to speak with: the Istio echo application and Envoy speak HBONE, and istiod is a certificate
//! authority. Envoy is also the sidecar that the benchmark compares with.
//!
//! They are built or fetched once, by name and version, into `target/peers`, by the first who needs them; after
//! that they cost nothing.

pub mod credentials;
pub mod envoy;
pub mod istio_ca;
mod istio_echo;
pub mod istiod;

pub use envoy::Envoy;
pub use istio_echo::{IstioEcho, client};
pub use istiod::Istiod;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::once;

/// Makes those that speak HBONE, so that no test has to. Says what it does when there is something to do. (istiod takes longer than
/// both, and is only for tests at an API server: [`istiod::program`].)
pub fn prepare() -> Result<()> {
    istio_echo::programs()?;
    envoy::program(None).map(drop)
}

/// A directory below `target/peers`, made once.
fn directory(name: &str, what: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    once::directory("peers", name, what, make)
}
