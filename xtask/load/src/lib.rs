//! The benchmark's load: clients that measure, and the servers they need besides nginx.
//!
//! A client's run gives one [`Report`]. Latencies are taken here, at the client, with the monotonic clock; an open
//! loop (`schedule`) takes them from the time at which a request was due. Rates count whole requests within the
//! measured time, bulk counts what the receiving end read.
//!
//! The generator shares the machine with what it measures, so it is cheap first: one thread, one read and one write
//! a request, no allocation.

#![deny(unsafe_code)]

mod args;
mod bulk;
mod connect;
mod hold;
mod http;
mod limits;
mod pacer;
mod ping_pong;
mod recorder;
mod report;
mod schedule;
mod serve;
mod timer;

pub use bulk::BulkArgs;
pub use connect::ConnectArgs;
pub use hold::HoldArgs;
pub use http::HttpArgs;
pub use limits::raise_open_files;
pub use ping_pong::PingPongArgs;
pub use report::{Counted, Latency, Report};
pub use serve::ServeArgs;
