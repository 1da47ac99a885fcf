//! As many bytes as go, on blocking sockets and a thread a stream. What counts is what the receiving end reads, by
//! its own clock: what lies in buffers on the way has not arrived.
//!
//! Up: the client says for how long ([`Order`]), sends, and ends; the sink answers with what it counted
//! ([`Receipt`]). Down: the source sends until the client closes.

mod meter;
mod wire;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::args::{Address, Timing, at_least_one};
use crate::report::{Counted, Report};

pub use meter::{Meter, Metered};
pub use wire::{Order, Receipt};

/// What one read or write moves: iperf3's.
pub const BUFFER: usize = 128 << 10;
/// A stream on which nothing moves for so long has failed; buffers on the way must be empty by then.
const MOVES_WITHIN: Duration = Duration::from_secs(30);

#[derive(clap::Args, Clone, Debug)]
pub struct BulkArgs {
    #[command(flatten)]
    address: Address,
    /// Connections at the same time
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    streams: usize,
    /// To a sink (`serve --sink`), or from a source (`serve --source`)
    #[arg(long, value_enum, default_value_t = Direction::Up)]
    direction: Direction,
    #[command(flatten)]
    timing: Timing,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Direction {
    Up,
    Down,
}

impl BulkArgs {
    /// Runs it. A stream that fails is counted, unless all do.
    pub fn run(&self) -> Result<Report> {
        let to = self.address.to;
        let connect = |_| connect(to).with_context(|| format!("cannot connect to {to}"));
        let streams: Vec<TcpStream> = (0..self.streams).map(connect).collect::<Result<_>>()?;
        let results: Vec<Result<Metered>> = thread::scope(|scope| {
            let threads: Vec<_> =
                streams.into_iter().map(|stream| scope.spawn(|| self.stream(stream))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        Ok(summary(results))
    }

    fn stream(&self, stream: TcpStream) -> Result<Metered> {
        match self.direction {
            Direction::Up => self.up(stream),
            Direction::Down => self.down(stream),
        }
    }

    fn up(&self, mut stream: TcpStream) -> Result<Metered> {
        let Timing { warm_up, seconds } = self.timing;
        stream.write_all(&Order { warm_up, seconds }.to_bytes()).context("the sink does not read")?;
        let (data, end) = (vec![0; BUFFER], Instant::now() + warm_up + seconds);
        let mut sent = 0;
        while Instant::now() < end {
            stream.write_all(&data).context("the sink does not read on")?;
            sent += BUFFER as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut receipt = [0; Receipt::LENGTH];
        stream.read_exact(&mut receipt).context("the sink does not say what it got")?;
        let Receipt(metered) = Receipt::from_bytes(receipt);
        ensure!(metered.all == sent, "{sent} bytes were sent, and the sink got {}", metered.all);
        Ok(metered)
    }

    fn down(&self, mut stream: TcpStream) -> Result<Metered> {
        let mut buffer = vec![0; BUFFER];
        let mut meter = Meter::new(Instant::now(), self.timing.warm_up, self.timing.seconds);
        while !meter.is_over() {
            let read = stream.read(&mut buffer).context("the source stopped")?;
            ensure!(read > 0, "the source closed the connection");
            meter.add(read as u64, Instant::now());
        }
        Ok(meter.metered())
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(MOVES_WITHIN))?;
    stream.set_write_timeout(Some(MOVES_WITHIN))?;
    Ok(stream)
}

fn summary(results: Vec<Result<Metered>>) -> Report {
    let mut report = Report {
        seconds: 0.0,
        requests: 0,
        bytes: 0,
        errors: 0,
        first_error: None,
        latency: None,
        with_warm_up: Counted::default(),
    };
    for result in results {
        match result {
            Ok(metered) => {
                report.seconds = report.seconds.max(metered.time.as_secs_f64());
                report.bytes += metered.bytes;
                report.with_warm_up.bytes += metered.all;
            }
            Err(error) => {
                report.errors += 1;
                report.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
    report
}
