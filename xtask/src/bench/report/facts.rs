//! What a report says in words: where and how it was measured, what was disturbed, what is missing.

use crate::bench::results::{ALL_CASES, Mode, Results};

/// For who reads a report without having read the docs.
pub const HOW_TO_READ: [&str; 5] = [
    "A number is the median of the rounds; beside it is its 95 % confidence interval (percentile bootstrap; of fewer \
     than 3 rounds, their range).",
    "× is the ratio to the baseline of the same run: to no mesh with the pods in the same places (none, or \
     none-same-node), rounds drawn in pairs. Ratios carry to other machines better than numbers do.",
    "Contestants take turns in every round, so what else the machine does hits all of them.",
    "Both nodes, both apps, the mesh and the load generator share this machine's CPUs: throughput and CPU time are of \
     the whole path.",
    "— is what could not be measured; the reason is below its table. It is never a zero.",
];

pub struct Section {
    pub title: &'static str,
    /// A name, which may be empty, and what is said of it.
    pub lines: Vec<(String, String)>,
}

/// The date without the time.
pub fn day(results: &Results) -> &str {
    results.date.split('T').next().unwrap_or_default()
}

/// Two sentences: where, and how much of it.
pub fn summary(results: &Results) -> String {
    let (machine, settings) = (&results.machine, &results.settings);
    let mode = match settings.mode {
        Mode::Quick => "A quick run",
        Mode::Full => "A full run",
        Mode::Custom => "A run with settings of its own",
    };
    let kind = if machine.virtual_machine { ", a virtual machine" } else { "" };
    format!(
        "{mode} on {} cores of {}{kind}, Linux {}. {} rounds of {} s for each contestant in each case.",
        machine.cores, machine.cpu, machine.kernel, settings.rounds, settings.seconds
    )
}

/// Everything below the tables; empty sections are left out, but for what was disturbed and what is missing: that
/// there was nothing is worth saying.
pub fn sections(results: &Results) -> Vec<Section> {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(name, text)| (name.clone(), text.clone())).collect::<Vec<_>>()
    };
    let all = [
        Section { title: "Disturbed and taken again", lines: disturbed(results) },
        Section { title: "Missing", lines: missing(results) },
        Section { title: "Machine", lines: machine(results) },
        Section { title: "Versions", lines: pairs(&results.versions) },
        Section { title: "Commands", lines: pairs(&results.commands) },
    ];
    all.into_iter().filter(|section| !section.lines.is_empty()).collect()
}

fn disturbed(results: &Results) -> Vec<(String, String)> {
    let lines = results.disturbed.iter();
    or_nothing(
        lines
            .map(|d| (format!("{}, {}, round {}", d.case, d.contestant, d.round + 1), d.why.clone()))
            .collect(),
    )
}

fn missing(results: &Results) -> Vec<(String, String)> {
    let what = |case: &str, contestant: &str| match case {
        ALL_CASES => contestant.to_owned(),
        case => format!("{case}, {contestant}"),
    };
    or_nothing(results.missing.iter().map(|m| (what(&m.case, &m.contestant), m.reason.clone())).collect())
}

fn or_nothing(lines: Vec<(String, String)>) -> Vec<(String, String)> {
    if lines.is_empty() { vec![(String::new(), "nothing".to_owned())] } else { lines }
}

fn machine(results: &Results) -> Vec<(String, String)> {
    let m = &results.machine;
    let [one, five, fifteen] = m.load_before;
    let line = |name: &str, text: String| (name.to_owned(), text);
    vec![
        line(
            "CPU",
            format!("{}, {} cores{}", m.cpu, m.cores, if m.virtual_machine { ", virtual" } else { "" }),
        ),
        line("Memory", format!("{:.1} GiB", m.memory_mib as f64 / 1024.0)),
        line("Kernel", m.kernel.clone()),
        line("Congestion control", m.congestion_control.clone()),
        line("MTU of the bed's links", m.mtu.to_string()),
        line(
            "Stolen by the hypervisor since boot",
            format!("{:.2} % of the time", m.steal_since_boot * 100.0),
        ),
        line("Load average before the run", format!("{one} {five} {fifteen}")),
        line("Begun", results.date.clone()),
    ]
}
