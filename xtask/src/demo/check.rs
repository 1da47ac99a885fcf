//! A check: a promise, and what was seen of it.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::stage::Stage;
use crate::terminal::Colours;

/// What a check saw, a line each. An error is what it saw instead.
pub type Saw = Result<Vec<String>>;

/// A promise of docs/semantics.md and how to look at it.
pub struct Check {
    pub id: &'static str,
    pub what: &'static str,
    pub look: fn(&Stage) -> Saw,
}

/// A check that was made.
pub struct Finding {
    pub id: &'static str,
    pub what: &'static str,
    pub saw: Saw,
}

impl Finding {
    pub fn is_ok(&self) -> bool {
        self.saw.is_ok()
    }

    /// Lines for people: the promise, and below it what was seen.
    pub fn show(&self, colours: Colours) -> String {
        let mut text = format!("{} {:6} {}\n", colours.mark(self.is_ok()), self.id, colours.bold(self.what));
        for line in self.lines() {
            let _ = writeln!(text, "         {line}");
        }
        text
    }

    pub fn to_json(&self) -> Value {
        json!({"id": self.id, "what": self.what, "saw": self.lines().join("; "), "ok": self.is_ok()})
    }

    fn lines(&self) -> Vec<String> {
        match &self.saw {
            Ok(lines) => lines.clone(),
            Err(error) => {
                let text = format!("{error:#}");
                text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
        }
    }
}
