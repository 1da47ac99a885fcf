//! Lines on their way to an output that may stall: whoever has one to write never waits.

use prometheus::IntCounter;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that wait for the writer; about 4 MiB at most, and a burst of 5,000 connections that end at once.
pub(super) const WAITING_LINES: usize = 8192;

/// The way to the output; clones lead to the same.
#[derive(Clone)]
pub(super) struct Lines {
    messages: SyncSender<Message>,
    dropped: IntCounter,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Starts a thread of this name that writes to `output`. Lines that come faster than they are written are dropped and
    /// counted by `dropped`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(name: &str, output: impl Write + Send + 'static, dropped: IntCounter) -> io::Result<Self> {
        let (messages, receiver) = sync_channel(WAITING_LINES);
        let counter = dropped.clone();
        thread::Builder::new().name(name.into()).spawn(move || write(&receiver, output, &counter))?;
        Ok(Self { messages, dropped })
    }

    /// Writes a line, with its end, soon, or drops it.
    pub fn write(&self, line: Vec<u8>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            self.drop_line();
        }
    }

    /// Counts a line that cannot be written.
    pub fn drop_line(&self) {
        self.dropped.inc();
    }

    /// Waits until all before it is written; at most `timeout`. Says whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let (done, written) = sync_channel(1);
        match self.messages.try_send(Message::Flush(done)) {
            Ok(()) => written.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout),
            // The writer is gone: nothing will be written any more.
            Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }
}

/// Writes what there is, and flushes whenever nothing more waits.
fn write(messages: &Receiver<Message>, output: impl Write, dropped: &IntCounter) {
    let mut output = BufWriter::with_capacity(64 << 10, output);
    while let Ok(first) = messages.recv() {
        let mut flushes = Vec::new();
        for message in std::iter::once(first).chain(messages.try_iter()) {
            match message {
                Message::Line(line) => {
                    if output.write_all(&line).is_err() {
                        dropped.inc();
                    }
                }
                Message::Flush(done) => {
                    flushes.push(done);
                    break;
                }
            }
        }
        if let Err(error) = output.flush() {
            // The reader is gone. Every line to come is dropped and counted.
            let thread = thread::current();
            let name = thread.name().unwrap_or_default();
            tracing::warn!("what the thread {name} writes to cannot be written, and it ends: {error}");
            return;
        }
        drop(flushes);
    }
}
