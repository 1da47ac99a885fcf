//! What the soak found: a table for people, the raw samples for everything else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;

use super::load::Load;
use super::sample::{MEASURES, Sample};
use super::verdict::Verdict;
use crate::terminal::Colours;

pub struct Report {
    pub minutes: u64,
    /// Certificates that were renewed under load.
    pub renewals: usize,
    pub samples: Vec<Sample>,
    pub loads: Vec<Load>,
    pub verdicts: Vec<Verdict>,
}

const AGENTS: [&str; 2] = ["north", "south"];

impl Report {
    pub fn is_flat(&self) -> bool {
        self.verdicts.iter().all(Verdict::is_flat) && self.loads.iter().all(|load| load.errors.is_empty())
    }

    pub fn print(&self) {
        let colours = Colours::of(&io::stdout());
        println!();
        for load in &self.loads {
            let (mark, runs) = (colours.mark(load.errors.is_empty()), load.runs);
            println!("{mark} {:42} {:>12} {} in {runs} runs", load.name, amount(load.done), load.unit);
            // The first ones tell; the report has them all.
            load.errors.iter().take(3).for_each(|error| println!("    {error}"));
        }
        println!("  {:42} {:>12}", "certificates renewed", self.renewals);
        println!();
        let head = format!(
            "  {:6} {:17} {:>9} {:>12} {:>12} {:>9}",
            "agent", "", "before", "2nd quarter", "last quarter", "after"
        );
        println!("{}", colours.bold(&head));
        for v in &self.verdicts {
            let why = match (v.stays, v.returns) {
                (true, true) => "",
                (false, _) => "grew under load",
                (true, false) => "did not go back",
            };
            println!(
                "{} {:6} {:17} {:>9} {:>12} {:>12} {:>9}  {why}",
                colours.mark(v.is_flat()),
                AGENTS[v.agent],
                MEASURES[v.measure],
                v.before,
                v.early,
                v.late,
                v.after
            );
        }
        let verdict = if self.is_flat() { "flat" } else { "NOT flat" };
        println!(
            "\n{} {} after {} min of load",
            colours.mark(self.is_flat()),
            colours.bold(verdict),
            self.minutes
        );
        println!(
            "  flat: under load the last quarter's median is at most 10 % and a little noise above the second's,\n  \
             afterwards all but memory is back at or below what it was before; no load generator saw an error"
        );
    }

    /// Writes everything as JSON; gives the file.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        let now = OffsetDateTime::now_utc();
        let date = now.format(format_description!("[year]-[month]-[day]-[hour][minute]"))?;
        let file = dir.join(format!("soak-{date}.json"));
        let loads = self.loads.iter().map(|load| {
            json!({"name": load.name, "runs": load.runs, "done": load.done, "unit": load.unit, "errors": load.errors})
        });
        let verdicts = self.verdicts.iter().map(|v| {
            json!({
                "agent": AGENTS[v.agent], "measure": MEASURES[v.measure], "before": v.before,
                "second_quarter": v.early, "last_quarter": v.late, "after": v.after, "flat": v.is_flat(),
            })
        });
        let report = json!({
            "flat": self.is_flat(),
            "minutes": self.minutes,
            "certificates_renewed": self.renewals,
            "verdicts": verdicts.collect::<Vec<_>>(),
            "loads": loads.collect::<Vec<_>>(),
            "measures": MEASURES,
            "agents": AGENTS,
            "samples": self.samples.iter().map(Sample::to_json).collect::<Vec<_>>(),
        });
        let write = || fs::create_dir_all(dir).and_then(|()| fs::write(&file, format!("{report:#}")));
        write().with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }
}

/// Large amounts in millions or billions.
fn amount(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n => format!("{n}"),
    }
}
