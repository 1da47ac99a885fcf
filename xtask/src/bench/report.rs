//! Samples, kept raw, and the table of their medians.

use super::Args;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

pub struct Sample {
    pub contestant: &'static str,
    pub case: &'static str,
    /// Name and unit.
    pub metric: &'static str,
    pub value: f64,
}

pub struct Report {
    machine: Value,
    samples: Vec<Sample>,
}

impl Report {
    pub fn new(args: &Args) -> Result<Self> {
        Ok(Self { machine: machine(args)?, samples: vec![] })
    }

    pub fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Prints the table, and writes it with the raw samples to `dir`.
    pub fn finish(&self, dir: &Path) -> Result<()> {
        let table = self.table();
        println!("{table}");
        fs::create_dir_all(dir)?;
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(
                |s| json!({"contestant": s.contestant, "case": s.case, "metric": s.metric, "value": s.value}),
            )
            .collect();
        let results = json!({"machine": self.machine, "samples": samples});
        fs::write(dir.join("bench.json"), serde_json::to_vec_pretty(&results)?)?;
        fs::write(dir.join("bench.md"), table)?;
        println!("raw samples: {}", dir.join("bench.json").display());
        Ok(())
    }

    fn table(&self) -> String {
        let mut rows: Vec<(&str, &str)> = vec![];
        let mut values: BTreeMap<(&str, &str, &str), Vec<f64>> = BTreeMap::new();
        for s in &self.samples {
            if !rows.contains(&(s.case, s.metric)) {
                rows.push((s.case, s.metric));
            }
            values.entry((s.case, s.metric, s.contestant)).or_default().push(s.value);
        }
        let mut table = String::from("| case | metric | none | pillion | ratio |\n|---|---|---|---|---|\n");
        for (case, metric) in rows {
            let of = |contestant| values.get(&(case, metric, contestant)).map(|values| Spread::of(values));
            let (none, pillion) = (of("none"), of("pillion"));
            let ratio = match (&none, &pillion) {
                (Some(none), Some(pillion)) if none.median > 0.0 => {
                    format!("{:.2}", pillion.median / none.median)
                }
                _ => String::new(),
            };
            let show = |spread: Option<Spread>| spread.map_or(String::new(), |spread| spread.to_string());
            table += &format!("| {case} | {metric} | {} | {} | {ratio} |\n", show(none), show(pillion));
        }
        table
    }
}

/// A median with the extremes beside it.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Self { median, least: sorted[0], most: sorted[sorted.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median < 10.0 { 2 } else { 0 };
        write!(f, "{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}

fn machine(args: &Args) -> Result<Value> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let version = |program: &str, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    };
    Ok(json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism()?.get(),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load_before": read("/proc/loadavg"),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "agent_args": args.agent_arg,
        "versions": {
            "wrk": version("wrk", "--version"),
            "iperf3": version("iperf3", "--version"),
            "sockperf": version("sockperf", "--version"),
            "nginx": version("nginx", "-v"),
        },
    }))
}
