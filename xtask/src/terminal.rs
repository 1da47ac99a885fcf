//! How a task speaks to whoever runs it: colours and a spinner for people, plain lines for everything else.

use std::env;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Colours, or none: on a terminal unless `NO_COLOR` is set (https://no-color.org).
#[derive(Clone, Copy)]
pub struct Colours(bool);

impl Colours {
    pub fn of(stream: &impl IsTerminal) -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(stream.is_terminal() && !unwanted)
    }

    /// For whoever reads a text and not its colours.
    #[cfg(test)]
    pub fn none() -> Self {
        Self(false)
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// ✔ or ✘.
    pub fn mark(self, ok: bool) -> String {
        if ok { self.paint("32", "✔") } else { self.paint("1;31", "✘") }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Says on standard error what is going on: the results are on standard output.
pub struct Progress {
    colours: Colours,
}

impl Progress {
    pub fn new() -> Self {
        Self { colours: Colours::of(&io::stderr()) }
    }

    /// Those of standard error.
    pub fn colours(&self) -> Colours {
        self.colours
    }

    /// Says what is being done while it is being done, and how it went.
    pub fn during<T, E>(&self, what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let (begun, spinner) = (Instant::now(), spinner(what));
        let result = work();
        spinner.finish_and_clear();
        let took = self.colours.dim(&format!("{:.1} s", begun.elapsed().as_secs_f64()));
        eprintln!("{} {what} {took}", self.colours.mark(result.is_ok()));
        result
    }

    /// For work that speaks for itself on this terminal (cargo, apt-get).
    pub fn announce(&self, what: &str) {
        eprintln!("{} {what}", self.colours.bold("•"));
    }
}

/// Invisible where standard error is no terminal.
fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = style {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
