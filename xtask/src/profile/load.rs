//! What the agents carry while they are sampled.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pillion_load::Report;
use pillion_tests::{Pair, apps};

/// nginx's.
const PORT: u16 = 8080;

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Case {
    /// HTTP/1.1 on one connection, 5 bytes
    #[value(name = "http1-c1")]
    Http1C1,
    /// HTTP/1.1 on 32 connections, 1 KiB
    #[value(name = "http1-c32")]
    Http1C32,
    /// A connection for every request, 8 at a time
    #[value(name = "connections")]
    Connections,
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1C1 => "http1-c1",
            Self::Http1C32 => "http1-c32",
            Self::Connections => "connections",
        }
    }

    /// Runs the load for longer than `seconds`, and `meanwhile` beside it.
    pub fn run<T: Send>(
        self,
        pair: &Pair,
        generator: &Path,
        seconds: Duration,
        meanwhile: impl FnOnce() -> T + Send,
    ) -> Result<(Report, T)> {
        apps::nginx(&pair.server, PORT)?;
        let args: &[&str] = match self {
            Self::Http1C1 => &["http", "--path", "/hello"],
            Self::Http1C32 => &["http", "--path", "/1k", "--connections", "32"],
            Self::Connections => &["http", "--path", "/hello", "--connections", "8", "--close"],
        };
        // It ends after the sampling: what is sampled is load from its first moment to its last.
        let client = pair
            .client
            .command(&generator.display().to_string())
            .args(args)
            .args(["--to", &format!("{}:{PORT}", pair.server.ip4())])
            .args(["--seconds", &(seconds.as_secs() + 1).to_string()])
            .timeout(seconds + Duration::from_secs(60));
        let (said, result) = std::thread::scope(|scope| {
            let beside = scope.spawn(meanwhile);
            let said = client.run();
            (said, beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let said = said?;
        let report = serde_json::from_str(&said).with_context(|| format!("pillion-load said {said:?}"))?;
        Ok((report, result))
    }
}
