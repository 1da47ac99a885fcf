//! What a run found: plain data, written as JSON by the generator and read by the benchmark.

use serde::{Deserialize, Serialize};

/// One run of the generator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Measured time in seconds, after the warm-up.
    pub seconds: f64,
    /// Completed in that time: requests, round trips, connections.
    pub requests: u64,
    /// Payload received in that time, in bytes; of bulk by the receiving end.
    pub bytes: u64,
    /// What failed, was not answered, or was due and never sent, in that time and in the warm-up.
    pub errors: u64,
    /// The first of the errors, in a sentence.
    pub first_error: Option<String>,
    /// Absent where nothing was timed (bulk) or nothing completed.
    pub latency: Option<Latency>,
    /// The same counts with the warm-up: what the process's whole CPU time was spent on.
    pub with_warm_up: Counted,
}

/// What completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub requests: u64,
    pub bytes: u64,
}

/// The distribution of latencies, in µs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
    /// At most 200 points: a latency in µs, and the fraction (0 to 1) that took no longer.
    pub cdf: Vec<(f64, f64)>,
}
