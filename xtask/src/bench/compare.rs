//! `cargo xtask bench compare OLD NEW`: what changed beyond noise between two runs.
//!
//! What carries from run to run is the ratio to no mesh of the same run, so that comes first. Noise is no failure:
//! the exit status says only whether both could be read.

use std::io;
use std::path::PathBuf;

use anyhow::Result;

use super::baseline;
use super::metric::{Better, Metric};
use super::report::{amount, times};
use super::results::{Results, Series};
use super::stats::Ratio;
use crate::terminal::Colours;

#[derive(clap::Args)]
pub struct Args {
    /// A results.json, or its directory: what was
    old: PathBuf,
    /// A results.json, or its directory: what is now
    new: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let (old, new) = (Results::read(&args.old)?, Results::read(&args.new)?);
    println!("{}", text(&Comparison::of(&old, &new), Colours::of(&io::stdout())));
    Ok(())
}

/// What two runs differ in.
struct Comparison {
    /// Why absolute values are not compared; they are when there is no reason.
    machines_differ: Vec<String>,
    /// What makes the comparison weaker.
    cautions: Vec<String>,
    ratios: Compared,
    /// Empty when the machines differ.
    values: Compared,
    /// Only in the new one.
    came: Vec<String>,
    /// Only in the old one.
    gone: Vec<String>,
}

#[derive(Default)]
struct Compared {
    count: usize,
    /// Those beyond noise, the greatest first.
    changes: Vec<Change>,
}

struct Change {
    /// Contestant, case, metric.
    what: String,
    old: String,
    new: String,
    /// New over old.
    factor: f64,
    /// Unknown for a metric that this program does not know.
    improved: Option<bool>,
}

/// Below this, intervals are ranges that miss the median too often: two of 3 rounds do not overlap by chance in one
/// comparison of ten (2 · 3! · 3! / 6!), two of 5 in one of 126.
const ROUNDS: usize = 5;

impl Comparison {
    fn of(old: &Results, new: &Results) -> Self {
        let machines_differ = machines_differ(old, new);
        let pairs: Vec<(&Series, &Series)> =
            new.results.iter().filter_map(|now| Some((same(old, now)?, now))).collect();
        let values = if machines_differ.is_empty() { compare_values(&pairs) } else { Compared::default() };
        Self {
            machines_differ,
            cautions: cautions(old, new),
            ratios: compare_ratios(&pairs, old, new),
            values,
            came: only_in(new, old),
            gone: only_in(old, new),
        }
    }
}

fn same<'a>(results: &'a Results, series: &Series) -> Option<&'a Series> {
    results.series(&series.contestant, &series.case, &series.metric)
}

fn machines_differ(old: &Results, new: &Results) -> Vec<String> {
    let (was, is) = (&old.machine, &new.machine);
    let facts = [
        ("CPU", was.cpu.clone(), is.cpu.clone()),
        ("cores", was.cores.to_string(), is.cores.to_string()),
        ("kernel", was.kernel.clone(), is.kernel.clone()),
    ];
    let different = facts.into_iter().filter(|(_, was, is)| was != is);
    different.map(|(name, was, is)| format!("{name} {was} → {is}")).collect()
}

fn cautions(old: &Results, new: &Results) -> Vec<String> {
    let (was, is) = (&old.settings, &new.settings);
    let mut cautions = vec![];
    if was.rounds.min(is.rounds) < ROUNDS {
        cautions.push(format!(
            "{} and {} rounds: with fewer than {ROUNDS}, up to one comparison of ten differs by chance",
            was.rounds, is.rounds
        ));
    }
    if was.seconds != is.seconds {
        cautions.push(format!("rounds of {} s and of {} s", was.seconds, is.seconds));
    }
    let (was, is) = (&old.machine.congestion_control, &new.machine.congestion_control);
    if was != is {
        cautions.push(format!("congestion control {was} → {is}"));
    }
    cautions
}

/// Those with a baseline in both runs.
fn compare_ratios(pairs: &[(&Series, &Series)], old: &Results, new: &Results) -> Compared {
    let mut compared = Compared::default();
    for (was, is) in pairs {
        let ratio = |series: &Series, results: &Results| {
            let base = results.series(baseline::of(&series.contestant)?, &series.case, &series.metric)?;
            Ratio::of(&series.samples, &base.samples)
        };
        let (Some(old), Some(new)) = (ratio(was, old), ratio(is, new)) else { continue };
        compared.count += 1;
        if apart(old.ci95, new.ci95) {
            compared.changes.push(change(is, times(old.value), times(new.value), new.value / old.value));
        }
    }
    compared.sorted()
}

fn compare_values(pairs: &[(&Series, &Series)]) -> Compared {
    let mut compared = Compared { count: pairs.len(), changes: vec![] };
    for (was, is) in pairs {
        let Some(factor) = Ratio::of_independent(&is.samples, &was.samples) else { continue };
        let [low, high] = factor.ci95;
        if apart(was.ci95, is.ci95) && !(low..=high).contains(&1.0) {
            let (old, new) = (amount(was.median, &was.unit), amount(is.median, &is.unit));
            compared.changes.push(change(is, old, new, factor.value));
        }
    }
    compared.sorted()
}

fn apart([low, high]: [f64; 2], [other_low, other_high]: [f64; 2]) -> bool {
    high < other_low || other_high < low
}

fn change(series: &Series, old: String, new: String, factor: f64) -> Change {
    let improved = Metric::named(&series.metric).map(|metric| match metric.better() {
        Better::Lower => factor < 1.0,
        Better::Higher => factor > 1.0,
    });
    Change { what: name(series), old, new, factor, improved }
}

fn name(series: &Series) -> String {
    format!("{} {} {}", series.contestant, series.case, series.metric)
}

fn only_in(here: &Results, not_there: &Results) -> Vec<String> {
    here.results.iter().filter(|series| same(not_there, series).is_none()).map(name).collect()
}

impl Compared {
    fn sorted(mut self) -> Self {
        let size = |change: &Change| change.factor.ln().abs();
        self.changes.sort_by(|a, b| size(b).total_cmp(&size(a)));
        self
    }
}

fn text(found: &Comparison, colours: Colours) -> String {
    let mut lines = vec![];
    if !found.machines_differ.is_empty() {
        let how = found.machines_differ.join(", ");
        lines.push(format!(
            "the machines differ ({how}): absolute values are not compared, only ratios to the baseline of each run"
        ));
    }
    lines.extend(found.cautions.iter().map(|caution| format!("take care: {caution}")));
    lines.extend(section("ratios to the baseline of the same run", &found.ratios, colours));
    if found.machines_differ.is_empty() {
        lines.extend(section("absolute values", &found.values, colours));
    }
    for (title, names) in [("only in the new one", &found.came), ("only in the old one", &found.gone)] {
        if !names.is_empty() {
            lines.extend([String::new(), colours.bold(title)]);
            lines.extend(names.iter().map(|name| format!("  {name}")));
        }
    }
    lines.join("\n")
}

fn section(title: &str, compared: &Compared, colours: Colours) -> Vec<String> {
    let head = format!("{title}: {} of {} changed beyond noise", compared.changes.len(), compared.count);
    let width = compared.changes.iter().map(|change| change.what.len()).max().unwrap_or_default();
    let line = |change: &Change| {
        let (mark, word) = match change.improved {
            Some(true) => (colours.mark(true), "better"),
            Some(false) => (colours.mark(false), "worse"),
            None => (" ".to_owned(), ""),
        };
        let percent = (change.factor - 1.0) * 100.0;
        format!("{mark} {:width$}  {} → {}  {percent:+.1} %  {word}", change.what, change.old, change.new)
    };
    let changes = compared.changes.iter().map(|change| line(change).trim_end().to_owned());
    [String::new(), colours.bold(&head)].into_iter().chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{Machine, Mode, Settings};

    #[test]
    fn a_change_beyond_noise_is_better_or_worse_by_the_metrics_direction() {
        let old = run(&[("none", 100.0), ("pillion", 160.0)], Metric::LatencyP50);
        let new = run(&[("none", 100.0), ("pillion", 130.0)], Metric::LatencyP50);
        let found = Comparison::of(&old, &new);
        let [change] = &found.ratios.changes[..] else { panic!("{}", found.ratios.changes.len()) };
        assert_eq!((change.what.as_str(), change.improved), ("pillion http1-c1 latency_p50", Some(true)));
        assert_eq!([change.old.as_str(), &change.new], ["1.60 ×", "1.30 ×"]);
        assert_eq!(found.values.changes.len(), 1);

        let fewer =
            Comparison::of(&run(&[("none", 9.0)], Metric::Rate), &run(&[("none", 7.0)], Metric::Rate));
        assert_eq!(fewer.values.changes[0].improved, Some(false));
    }

    #[test]
    fn a_run_does_not_differ_from_itself() {
        let one = run(&[("none", 100.0), ("pillion", 160.0)], Metric::LatencyP50);
        let found = Comparison::of(&one, &one);
        assert_eq!((found.ratios.count, found.values.count), (1, 2));
        assert!(found.ratios.changes.is_empty() && found.values.changes.is_empty());
    }

    /// A machine that is slower for everybody changes no ratio.
    #[test]
    fn on_another_machine_only_ratios_are_compared() {
        let old = run(&[("none", 100.0), ("pillion", 160.0)], Metric::LatencyP50);
        let mut new = run(&[("none", 200.0), ("pillion", 320.0)], Metric::LatencyP50);
        new.machine.cpu = "another CPU".into();
        let found = Comparison::of(&old, &new);
        assert_eq!((found.ratios.changes.len(), found.values.count), (0, 0));
        let said = text(&found, Colours::none());
        assert!(said.contains("the machines differ (CPU a CPU → another CPU)"), "{said}");
    }

    #[test]
    fn what_came_and_what_is_gone_is_named() {
        let old = run(&[("none", 1.0), ("pillion", 1.0)], Metric::Rate);
        let new = run(&[("none", 1.0), ("pillion-direct", 1.0)], Metric::Rate);
        let found = Comparison::of(&old, &new);
        assert_eq!(found.came, ["pillion-direct http1-c1 rate"]);
        assert_eq!(found.gone, ["pillion http1-c1 rate"]);
    }

    /// Medians with five rounds a percent around each.
    fn run(medians: &[(&str, f64)], metric: Metric) -> Results {
        let machine = Machine {
            kernel: "6.18.0".into(),
            cpu: "a CPU".into(),
            cores: 2,
            memory_mib: 4096,
            congestion_control: "cubic".into(),
            mtu: 1500,
            virtual_machine: false,
            steal_since_boot: 0.0,
            load_before: [0.0; 3],
        };
        let settings = Settings { mode: Mode::Custom, rounds: 5, seconds: 1.0 };
        let mut results = Results::new("2026-01-01T00:00:00Z".into(), machine, settings);
        for part in [0.99, 0.995, 1.0, 1.005, 1.01] {
            for (contestant, median) in medians {
                results.add(contestant, "http1-c1", metric, median * part);
            }
        }
        results
    }
}
