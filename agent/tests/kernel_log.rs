//! The hooks' log, in a build that has it.

#![cfg(feature = "bpf-log")]

mod common;

use common::{Bed, in_pod};
use pillion_agent::kernel::{Kernel, KernelConfig};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// A logger that hands the lines to the test.
struct Lines(Sender<String>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let _ = self.0.send(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn captured_connections_are_logged_when_asked_for() {
    let bed = Bed::new();
    in_pod(|pod| {
        let (sender, lines) = channel();
        log::set_boxed_logger(Box::new(Lines(sender))).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let mut kernel = Kernel::open(&KernelConfig { log_hooks: true, ..bed.config() }).unwrap();
        let _worker = pod.captured(&mut kernel);
        for to in ["10.99.0.66:4444", "[fd99::66]:4444"] {
            TcpStream::connect(to).unwrap();
            let expected = format!("captured connect to {to}");
            while lines.recv_timeout(Duration::from_secs(10)).unwrap() != expected {}
        }
    });
}
