//! Steps of a task: each is announced, timed and summed up at the end. One that fails does not hide the others.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Default)]
pub struct Steps {
    done: Vec<Done>,
}

struct Done {
    name: &'static str,
    took: Duration,
    /// What the step wants to be remembered, or why it failed.
    result: Result<Option<String>>,
}

impl Steps {
    /// Runs a step. It gives a note for the summary, if there is something to say.
    pub fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<Option<String>>) {
        println!("── {name}");
        let begun = Instant::now();
        let done = Done { name, result: step(), took: begun.elapsed() };
        println!("{done}");
        self.done.push(done);
    }

    /// Prints the summary; an error when a step failed.
    pub fn finish(self) -> Result<()> {
        println!("── summary");
        self.done.iter().for_each(|done| println!("{done}"));
        let total: Duration = self.done.iter().map(|done| done.took).sum();
        let failed: Vec<&str> =
            self.done.iter().filter(|done| done.result.is_err()).map(|done| done.name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        println!("all well, in {:.0} s", total.as_secs_f64());
        Ok(())
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mark, note) = match &self.result {
            Ok(note) => ("ok", note.clone()),
            Err(error) => ("FAILED", Some(format!("{error:#}"))),
        };
        write!(f, "{mark:6} {:14} {:6.1} s", self.name, self.took.as_secs_f64())?;
        note.map_or(Ok(()), |note| write!(f, "  {note}"))
    }
}
