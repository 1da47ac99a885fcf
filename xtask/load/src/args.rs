//! Arguments that several subcommands have.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::recorder::Window;

/// How long a run takes.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Timing {
    /// Measured time in seconds
    #[arg(long, value_parser = seconds)]
    pub seconds: Duration,
    /// Time in seconds before it, which is not measured
    #[arg(long, value_parser = seconds, default_value = "0.5")]
    pub warm_up: Duration,
}

impl Timing {
    /// The measured time of a run that begins at `start`.
    pub fn window(&self, start: Instant) -> Window {
        let begin = start + self.warm_up;
        Window { begin, end: begin + self.seconds }
    }
}

/// Where the server is.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Address {
    /// The server's address and port
    #[arg(long, value_name = "IP:PORT")]
    pub to: SocketAddr,
}

pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    Duration::try_from_secs_f64(number).map_err(|_| format!("{text} s is no time to wait for"))
}

/// Requests a second: above 0, and finite.
pub fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number of requests a second"))?;
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err(format!("a rate of {text} a second sends nothing"))
    }
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{text:?} is not a number from 1 on")),
    }
}
