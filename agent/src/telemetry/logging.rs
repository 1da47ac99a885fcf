//! The agent's own log: to stderr, with a filter that can be changed while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use tracing::Subscriber;
use tracing_log::AsLog;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// The log's filter; clones change the same.
#[derive(Clone)]
pub struct Logging {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter as it was given, which says more to a person than what is made of it.
    directives: Arc<Mutex<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error(
        "{directives:?} is no log filter: {reason}; give off, error, warn, info, debug, trace, or target=level, \
         several joined by commas"
    )]
    Filter { directives: String, reason: String },
    #[error("the log is set up already, or gone")]
    Installed,
}

impl Logging {
    /// Sends what is traced, and what libraries log through the `log` crate, to stderr.
    ///
    /// # Errors
    /// When the filter is none, or when a log was set up before.
    pub fn install(directives: &str) -> Result<Self, LoggingError> {
        let (logging, subscriber) = Self::new(directives)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Installed)?;
        tracing_log::LogTracer::init().map_err(|_| LoggingError::Installed)?;
        bridge_up_to(LevelFilter::current());
        Ok(logging)
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

    fn new(directives: &str) -> Result<(Self, impl Subscriber + Send + Sync), LoggingError> {
        let (filter, handle) = reload::Layer::new(parse(directives)?);
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
        let subscriber = Registry::default().with(filter).with(lines);
        let directives = Arc::new(Mutex::new(directives.trim().to_owned()));
        Ok((Self { handle, directives }, subscriber))
    }

    /// A filter that nothing is logged through, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(directives: &str) -> (Self, impl Subscriber + Send + Sync) {
        Self::new(directives).unwrap()
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
    EnvFilter::builder().parse(directives).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_changes_while_it_is_in_use() {
        let (logging, subscriber) = Logging::for_test("info");
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

    #[test]
    fn what_is_no_filter_is_refused_and_changes_nothing() {
        let (logging, _subscriber) = Logging::for_test("info");
        for bad in ["", " ", "inf0", "debug,,", "h2=loud", "debug,nonsense", "[", "a=b=c"] {
            let error = logging.set(bad).expect_err(bad).to_string();
            assert!(error.contains("is no log filter"), "{error}");
        }
        assert_eq!(logging.directives(), "info");
    }
}
