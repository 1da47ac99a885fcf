//! What is told of direct connections, and of plain ones that policies have denied: the same metrics and the same lines
//! in the access log as of those that a worker carries.
//!
//! Nobody of the mesh is on a direct connection's way. The kernel tells that one was opened and how it ended (a ring
//! buffer); workers now and then read off what has gone over those that stay open. A thread of its own puts that
//! together, so that no worker's connections wait for it.

#![forbid(unsafe_code)]

mod denial;
mod directory;
mod log;
mod recorder;
mod relation;
mod sample;

pub use directory::{Directory, Pod};
pub use log::{DirectLog, Parts};
pub use recorder::{Recorder, WallClock};
pub use sample::{Sample, SampledSocket, Samples};
