//! Round trips over raw TCP, on a blocking socket: nothing between the system call and the clock.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl::set_timerslack;

use crate::args::{Address, Timing, at_least_one, rate};
use crate::recorder::Recorder;
use crate::report::Report;
use crate::schedule::Schedule;

/// An answer that takes longer is an error.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(clap::Args, Clone, Debug)]
pub struct PingPongArgs {
    #[command(flatten)]
    address: Address,
    /// Bytes there, and the same back, as `serve --echo` does
    #[arg(long, default_value_t = 64, value_parser = at_least_one)]
    size: usize,
    /// Round trips a second, latency from the time they were due; as many as are answered unless given
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    timing: Timing,
}

impl PingPongArgs {
    /// Runs it. A server that cannot be reached is an error; round trips that fail are counted.
    pub fn run(&self) -> Result<Report> {
        // 50 µs of slack are the kernel's default: as long as a round trip.
        set_timerslack(1)?;
        let mut connection = self.connect()?;
        let start = Instant::now();
        let window = self.timing.window(start);
        let mut recorder = Recorder::new(window);
        match self.rate.map(|rate| Schedule::new(start, rate)) {
            None => self.closed_loop(&mut connection, &mut recorder)?,
            Some(schedule) => self.open_loop(&mut connection, &mut recorder, schedule)?,
        }
        Ok(recorder.report())
    }

    fn closed_loop(&self, connection: &mut Connection, recorder: &mut Recorder) -> Result<()> {
        let mut begin = Instant::now();
        while begin < recorder.window().end {
            let result = connection.round_trip();
            let now = Instant::now();
            match result {
                Ok(()) => recorder.completed(now, now - begin, self.size as u64),
                Err(error) => self.failed(error, connection, recorder)?,
            }
            begin = now;
        }
        Ok(())
    }

    fn open_loop(
        &self,
        connection: &mut Connection,
        recorder: &mut Recorder,
        schedule: Schedule,
    ) -> Result<()> {
        let end = recorder.window().end;
        let all = schedule.due_before(end);
        for number in 0..all {
            let due = schedule.time(number);
            let now = Instant::now();
            if now >= end {
                let late = (number..all).map(|number| schedule.time(number));
                late.for_each(|due| {
                    recorder.unanswered(
                        due,
                        now,
                        "a round trip was due and could not begin: the one before took too long",
                    )
                });
                break;
            }
            thread::sleep(due.saturating_duration_since(now));
            match connection.round_trip() {
                Ok(()) => recorder.completed(due, due.elapsed(), self.size as u64),
                Err(error) => self.failed(error, connection, recorder)?,
            }
        }
        Ok(())
    }

    fn failed(
        &self,
        error: anyhow::Error,
        connection: &mut Connection,
        recorder: &mut Recorder,
    ) -> Result<()> {
        recorder.failed(format!("{error:#}"));
        *connection = self.connect()?;
        Ok(())
    }

    fn connect(&self) -> Result<Connection> {
        let to = self.address.to;
        let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Connection { stream, ping: (0..self.size).map(|i| i as u8).collect(), pong: vec![0; self.size] })
    }
}

struct Connection {
    stream: TcpStream,
    ping: Vec<u8>,
    pong: Vec<u8>,
}

impl Connection {
    fn round_trip(&mut self) -> Result<()> {
        self.stream.write_all(&self.ping).context("the bytes could not be sent")?;
        self.stream.read_exact(&mut self.pong).context("the bytes did not come back")?;
        ensure!(self.ping == self.pong, "other bytes came back than were sent");
        Ok(())
    }
}
