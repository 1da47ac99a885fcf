//! What the agents carry while they are sampled.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pillion_load::Report;
use pillion_tests::{Pair, apps};

const NGINX: u16 = 8080;
const ECHO: u16 = 7;
const SINK: u16 = 9;

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Case {
    /// HTTP/1.1 on one connection, 6 bytes
    #[value(name = "http1-c1")]
    Http1C1,
    /// HTTP/1.1 on 32 connections, 1 KiB
    #[value(name = "http1-c32")]
    Http1C32,
    /// A connection for every request, 8 at a time
    #[value(name = "connections")]
    Connections,
    /// One stream as fast as it goes
    #[value(name = "bulk-1")]
    Bulk1,
    /// Round trips of 64 bytes
    #[value(name = "ping-pong-64")]
    PingPong64,
}

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1C1 => "http1-c1",
            Self::Http1C32 => "http1-c32",
            Self::Connections => "connections",
            Self::Bulk1 => "bulk-1",
            Self::PingPong64 => "ping-pong-64",
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
        let program = generator.display().to_string();
        apps::nginx(&pair.server, NGINX)?;
        let ports = ["--echo", &ECHO.to_string(), "--sink", &SINK.to_string()];
        let servers = pair.server.command(&program).arg("serve").args(ports).start()?;
        [ECHO, SINK].iter().try_for_each(|port| servers.wait_listening(*port))?;

        let (port, args) = self.client();
        // It ends after the sampling: what is sampled is load from its first moment to its last.
        let client = pair
            .client
            .command(&program)
            .args(args)
            .args(["--to", &format!("{}:{port}", pair.server.ip4())])
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

    /// The server's port, and the generator's arguments.
    fn client(self) -> (u16, &'static [&'static str]) {
        match self {
            Self::Http1C1 => (NGINX, &["http", "--path", "/hello"]),
            Self::Http1C32 => (NGINX, &["http", "--path", "/1k", "--connections", "32"]),
            Self::Connections => (NGINX, &["http", "--path", "/hello", "--connections", "8", "--close"]),
            Self::Bulk1 => (SINK, &["bulk"]),
            Self::PingPong64 => (ECHO, &["ping-pong"]),
        }
    }
}
