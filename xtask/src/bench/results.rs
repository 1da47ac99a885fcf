//! What a benchmark found: plain data, and the file `results.json` (`docs/results.md`).
//!
//! Nothing here measures, and nothing here draws.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metric::Metric;
use super::stats;

/// Of the file's layout: goes up when a reader of the old one would misunderstand the new one.
pub const SCHEMA: u32 = 1;
pub const FILE: &str = "results.json";
/// The case of a [`Missing`] whose contestant could not be set up at all.
pub const ALL_CASES: &str = "all";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub schema: u32,
    /// When the run began (RFC 3339, UTC).
    pub date: String,
    pub machine: Machine,
    /// Program → what it says of its version.
    pub versions: BTreeMap<String, String>,
    pub settings: Settings,
    pub disturbed: Vec<Disturbed>,
    pub missing: Vec<Missing>,
    /// Case → the command line that took it, without paths.
    pub commands: BTreeMap<String, String>,
    /// In the order of measuring, which is the order of showing.
    pub results: Vec<Series>,
    /// One for every round.
    pub distributions: Vec<Distribution>,
}

/// Where it was measured. No names of hosts or users: reports are published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// As `uname -r` tells it.
    pub kernel: String,
    /// The model, as /proc/cpuinfo names it.
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    /// The default of new sockets (net.ipv4.tcp_congestion_control).
    pub congestion_control: String,
    /// Of the bed's links.
    pub mtu: u32,
    /// A hypervisor is below.
    pub virtual_machine: bool,
    /// The part of the time since boot that the hypervisor gave to others, 0 to 1.
    pub steal_since_boot: f64,
    /// Load averages over 1, 5 and 15 minutes before the run.
    pub load_before: [f64; 3],
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub mode: Mode,
    pub rounds: usize,
    /// Of one measurement, after its warm-up.
    pub seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Quick,
    Full,
    Custom,
}

/// A measurement during which the machine was not quiet. It was taken again, or kept after some repeats: `why` says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disturbed {
    pub case: String,
    pub contestant: String,
    /// From 0.
    pub round: usize,
    pub why: String,
}

/// A measurement that could not be taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    pub contestant: String,
    /// Or [`ALL_CASES`].
    pub case: String,
    pub reason: String,
}

/// One metric of one contestant in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub contestant: String,
    pub case: String,
    /// The name of a [`Metric`].
    pub metric: String,
    pub unit: String,
    pub median: f64,
    /// 95 % confidence interval of the median ([`stats::ci95`]).
    pub ci95: [f64; 2],
    /// One for every round, in the order of rounds.
    pub samples: Vec<f64>,
}

/// How the values of one round are distributed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub contestant: String,
    pub case: String,
    pub unit: String,
    /// A value, and the fraction (0 to 1) of all values that are not greater; both ascend.
    pub points: Vec<[f64; 2]>,
}

impl Results {
    pub fn new(date: String, machine: Machine, settings: Settings) -> Self {
        Self {
            schema: SCHEMA,
            date,
            machine,
            versions: BTreeMap::new(),
            settings,
            disturbed: vec![],
            missing: vec![],
            commands: BTreeMap::new(),
            results: vec![],
            distributions: vec![],
        }
    }

    /// Takes in a sample, in the metric's unit. What is no number (0 requests have no CPU time each) is missing.
    pub fn add(&mut self, contestant: &str, case: &str, metric: Metric, sample: f64) {
        if !sample.is_finite() {
            self.miss(contestant, case, &format!("{} came out as {sample}", metric.name()));
            return;
        }
        let is_it = |s: &Series| s.contestant == contestant && s.case == case && s.metric == metric.name();
        let at = self.results.iter().position(is_it).unwrap_or_else(|| {
            self.results.push(Series {
                contestant: contestant.to_owned(),
                case: case.to_owned(),
                metric: metric.name().to_owned(),
                unit: metric.unit().to_owned(),
                median: sample,
                ci95: [sample; 2],
                samples: vec![],
            });
            self.results.len() - 1
        });
        let series = &mut self.results[at];
        series.samples.push(sample);
        series.median = stats::median(&series.samples);
        series.ci95 = stats::ci95(&series.samples);
    }

    /// Takes in the distribution of a round's latencies: values in µs and the fraction of all that are not greater.
    pub fn add_distribution(&mut self, contestant: &str, case: &str, points: &[(f64, f64)]) {
        self.distributions.push(Distribution {
            contestant: contestant.to_owned(),
            case: case.to_owned(),
            unit: "µs".to_owned(),
            points: points.iter().map(|&(value, fraction)| [rounded(value), rounded(fraction)]).collect(),
        });
    }

    /// Notes that a measurement could not be taken; the same reason is noted once.
    pub fn miss(&mut self, contestant: &str, case: &str, reason: &str) {
        let missing =
            Missing { contestant: contestant.to_owned(), case: case.to_owned(), reason: reason.to_owned() };
        if !self.missing.contains(&missing) {
            self.missing.push(missing);
        }
    }

    pub fn series(&self, contestant: &str, case: &str, metric: &str) -> Option<&Series> {
        self.results.iter().find(|s| s.contestant == contestant && s.case == case && s.metric == metric)
    }

    /// Reads `results.json`, or the one in a directory.
    ///
    /// # Errors
    /// When there is none, it is none, or it is of another schema.
    pub fn read(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let shown = path.display();
        let text = fs::read_to_string(&path).with_context(|| {
            format!("cannot read {shown}: give a {FILE} of a benchmark, or its directory")
        })?;
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
        let schema = value.get("schema").unwrap_or(&Value::Null);
        ensure!(
            schema == SCHEMA,
            "{shown} has schema {schema}, and this program reads schema {SCHEMA}: use the version that wrote it"
        );
        serde_json::from_value(value).with_context(|| format!("{shown} does not follow schema {SCHEMA}"))
    }

    /// Writes `results.json` into a directory.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::write(&path, self.to_json()?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// JSON with a line for every field and every element of a list: a person finds a series, and git shows what
    /// changed.
    fn to_json(&self) -> Result<String> {
        let fields = [
            ("schema", json(&self.schema)?),
            ("date", json(&self.date)?),
            ("machine", json(&self.machine)?),
            ("versions", json(&self.versions)?),
            ("settings", json(&self.settings)?),
            ("disturbed", list(&self.disturbed)?),
            ("missing", list(&self.missing)?),
            ("commands", json(&self.commands)?),
            ("results", list(&self.results)?),
            ("distributions", list(&self.distributions)?),
        ];
        let fields = fields.map(|(name, value)| format!("  \"{name}\": {value}"));
        Ok(format!("{{\n{}\n}}\n", fields.join(",\n")))
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn list(elements: &[impl Serialize]) -> Result<String> {
    let lines = elements.iter().map(|element| Ok(format!("    {}", json(element)?)));
    let lines: Vec<String> = lines.collect::<Result<_>>()?;
    Ok(if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n  ]", lines.join(",\n")) })
}

/// To a millionth: finer than a clock tells, and a third of the file's length.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut results = example();
        results.add("pillion", "http1-c1", Metric::LatencyP50, 105.25);
        results.add("pillion", "http1-c1", Metric::LatencyP50, 104.0);
        results.add_distribution("pillion", "http1-c1", &[(90.0, 0.1), (105.0, 0.5)]);
        results.miss("envoy-sidecar", "http1-c1", "no Envoy on the PATH");
        results.commands.insert("http1-c1".into(), "pillion-load http".into());
        let back: Results = serde_json::from_str(&results.to_json().unwrap()).unwrap();
        assert_eq!(back, results);
        assert_eq!(back.series("pillion", "http1-c1", "latency_p50").unwrap().median, 104.625);
    }

    /// The example of `docs/results.md` is a file that can be read.
    #[test]
    fn the_schema_is_documented_as_it_is() {
        let page = fs::read_to_string(crate::workspace::root().join("docs/results.md")).unwrap();
        let json = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
        let documented: Results = serde_json::from_str(json).unwrap();
        let [series] = &documented.results[..] else { panic!("{json}") };
        assert_eq!(
            (series.median, series.ci95),
            (stats::median(&series.samples), stats::ci95(&series.samples))
        );
        let told = |metric: &Metric| {
            page.contains(&format!("`{}`", metric.name())) || metric.name().contains("_cpu_")
        };
        assert_eq!(Metric::ALL.iter().find(|metric| !told(metric)), None);
    }

    #[test]
    fn what_is_no_number_is_missing_and_no_sample() {
        let mut results = example();
        results.add("none", "http1-c1", Metric::CpuMsPerKreq, f64::NAN);
        assert!(results.results.is_empty());
        assert_eq!(results.missing.len(), 1);
        assert!(results.missing[0].reason.contains("cpu_ms_per_kreq"), "{:?}", results.missing);
    }

    #[test]
    fn another_schema_is_refused_in_a_sentence() {
        let mut results = example();
        results.schema = 7;
        let path = std::env::temp_dir().join(format!("pillion-results-{}.json", std::process::id()));
        fs::write(&path, results.to_json().unwrap()).unwrap();
        let refused = Results::read(&path).unwrap_err().to_string();
        fs::remove_file(&path).unwrap();
        assert!(refused.contains("has schema 7, and this program reads schema 1"), "{refused}");
    }

    fn example() -> Results {
        let machine = Machine {
            kernel: "6.18.0".into(),
            cpu: "a CPU".into(),
            cores: 2,
            memory_mib: 4096,
            congestion_control: "cubic".into(),
            mtu: 1500,
            virtual_machine: true,
            steal_since_boot: 0.0,
            load_before: [0.0; 3],
        };
        Results::new(
            "2026-11-21T18:00:00Z".into(),
            machine,
            Settings { mode: Mode::Quick, rounds: 3, seconds: 1.0 },
        )
    }
}
