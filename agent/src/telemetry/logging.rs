//! The agent's own log: to stderr, with a filter that can be changed while it runs. A thread of its own writes it, so that
//! no worker waits for whoever reads it.

use super::lines::Lines;
use prometheus::IntCounter;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tracing::Subscriber;
use tracing_log::AsLog;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The process's log, for its end.
static LINES: OnceLock<Lines> = OnceLock::new();

/// The log's filter; clones change the same.
#[derive(Clone)]
pub struct Logging {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter as it was given, which says more to a person than what is made of it.
    directives: Arc<Mutex<String>>,
    dropped: IntCounter,
}

/// Takes one event's line at a time.
struct Line(Lines);

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "{directives:?} is no log filter: {reason}; give off, error, warn, info, debug, trace, or target=level, \
         several joined by commas"
    )]
    Filter { directives: String, reason: String },
    #[error("the log is set up already, or gone")]
    Installed,
    #[error("the thread that writes the log does not start: {0}")]
    Thread(io::Error),
}

impl Logging {
    /// Sends what is traced, and what libraries log through the `log` crate, to stderr.
    ///
    /// # Errors
    /// When the filter is none, or when a log was set up before.
    pub fn install(directives: &str) -> Result<Self, LoggingError> {
        let (logging, subscriber, lines) = Self::new(directives, io::stderr())?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Installed)?;
        tracing_log::LogTracer::init().map_err(|_| LoggingError::Installed)?;
        bridge_up_to(LevelFilter::current());
        // A log is set up once, as was just seen.
        let _ = LINES.set(lines);
        Ok(logging)
    }

    /// Counts the lines that were dropped, because they came faster than they were written.
    pub fn dropped(&self) -> IntCounter {
        self.dropped.clone()
    }

    /// The filter now.
    pub fn directives(&self) -> String {
        self.directives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the filter, for what is logged from now on.
    pub fn set(&self, directives: &str) -> Result<(), LoggingError> {
        let filter = parse(directives)?;
        let mut current = self.directives.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(filter).map_err(|_| LoggingError::Installed)?;
        bridge_up_to(LevelFilter::current());
        *current = directives.trim().to_owned();
        Ok(())
    }

    fn new(
        directives: &str,
        output: impl Write + Send + 'static,
    ) -> Result<(Self, impl Subscriber + Send + Sync, Lines), LoggingError> {
        let (filter, handle) = reload::Layer::new(parse(directives)?);
        let dropped =
            IntCounter::new("pillion_log_lines_dropped_total", "Lines of the agent's log that were dropped.");
        let dropped = dropped.expect("a valid name");
        let lines = Lines::start("log", output, dropped.clone()).map_err(LoggingError::Thread)?;
        let to = lines.clone();
        let layer = fmt::layer()
            .with_writer(move || Line(to.clone()))
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
        let subscriber = Registry::default().with(filter).with(layer);
        let directives = Arc::new(Mutex::new(directives.trim().to_owned()));
        Ok((Self { handle, directives, dropped }, subscriber, lines))
    }

    /// A filter that nothing is logged through, for tests and fuzzers.
    pub(crate) fn to_nobody(directives: &str) -> (Self, impl Subscriber + Send + Sync) {
        let (logging, subscriber, _) = Self::new(directives, io::sink()).unwrap();
        (logging, subscriber)
    }
}

/// Waits until the log is written, for the end of the process; at most `timeout`, since its reader may have stalled.
pub fn flush_log(timeout: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(timeout);
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The `log` crate has a level of its own, which would hold back what the filter wants.
fn bridge_up_to(level: LevelFilter) {
    log::set_max_level(level.as_log());
}

fn parse(directives: &str) -> Result<EnvFilter, LoggingError> {
    let wrong = |reason: String| LoggingError::Filter { directives: directives.to_owned(), reason };
    for directive in directives.split(',').map(str::trim) {
        // To EnvFilter nothing at all is a level, and a word alone is a target at level trace: a mistyped level
        // would pass.
        let level = !directive.is_empty() && directive.parse::<LevelFilter>().is_ok();
        if !level && !directive.contains(['=', '[']) {
            return Err(wrong(format!("{directive:?} is no level")));
        }
    }
    // h2 warns of what its peers send, at their pace. Whoever wants to see that names it.
    let is_quiet = |level: LevelFilter| level < LevelFilter::WARN;
    let levels = || directives.split(',').filter_map(|directive| directive.trim().parse().ok());
    let directives = match directives.contains("h2") || levels().all(is_quiet) {
        true => directives.to_owned(),
        false => format!("{directives},h2=error"),
    };
    EnvFilter::builder().parse(directives).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_while_it_is_in_use() {
        let (logging, subscriber) = Logging::to_nobody("info");
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            logging.set("debug").unwrap();
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            logging.set("warn,pillion_agent=trace").unwrap();
            assert!(tracing::enabled!(tracing::Level::TRACE));
            assert!(!tracing::enabled!(target: "h2", tracing::Level::INFO));
        });
        assert_eq!(logging.directives(), "warn,pillion_agent=trace");
    }

    // proves: ISO-1
    #[test]
    fn a_log_that_nobody_reads_holds_up_nobody_and_what_it_lost_is_counted() {
        /// An output whose reader has stalled until `open` is dropped.
        struct Stalled(std::sync::mpsc::Receiver<()>);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (open, stalled) = std::sync::mpsc::channel();
        let (logging, subscriber, lines) = Logging::new("info", Stalled(stalled)).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..20_000 {
                tracing::info!("line {number}, {}", "x".repeat(1000));
            }
        });
        assert!(logging.dropped().get() > 10_000);
        assert!(!lines.flush(Duration::from_millis(10)), "it is stalled");
        drop(open);
        drop(logging);
    }

    // proves: ISO-1
    #[test]
    fn what_peers_make_h2_warn_of_is_not_logged_unless_it_is_asked_for() {
        for (directives, expected) in
            [("info", false), ("debug", false), ("info,h2=warn", true), ("error", false)]
        {
            let (_logging, subscriber) = Logging::to_nobody(directives);
            tracing::subscriber::with_default(subscriber, || {
                assert_eq!(
                    tracing::enabled!(target: "h2::proto", tracing::Level::WARN),
                    expected,
                    "{directives}"
                );
            });
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_and_changes_nothing() {
        let (logging, _subscriber) = Logging::to_nobody("info");
        for bad in ["", " ", "inf0", "debug,,", "h2=loud", "debug,nonsense", "[", "a=b=c"] {
            let error = logging.set(bad).expect_err(bad).to_string();
            assert!(error.contains("is no log filter"), "{error}");
        }
        assert_eq!(logging.directives(), "info");
    }
}
