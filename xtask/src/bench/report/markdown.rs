//! `report.md`: everything, for reading where the code is.

use super::number::{times, times_interval, with_interval};
use super::table::{Cell, Table, tables};
use super::{cast, facts, headline};
use crate::bench::metric::Metric;
use crate::bench::results::Results;

pub fn text(results: &Results) -> String {
    let mut parts = vec![format!("# What a mesh costs, {}\n", facts::day(results))];
    parts.push(format!("{}\n", facts::summary(results)));
    parts.push(headlines(results));
    parts.push("## How to read it\n".to_owned());
    parts.push(facts::HOW_TO_READ.iter().map(|line| format!("- {line}\n")).collect());
    parts.push("## Results\n".to_owned());
    parts.extend(tables(results).iter().map(table));
    parts.push("## What the metrics are\n".to_owned());
    let used = Metric::ALL.into_iter().filter(|m| results.results.iter().any(|s| s.metric == m.name()));
    parts.push(used.map(|m| format!("- `{}` ({}): {}\n", m.name(), m.unit(), m.meaning())).collect());
    parts.extend(lists(results));
    parts.join("\n")
}

fn headlines(results: &Results) -> String {
    let names = cast::headliners(results);
    let mut lines = vec![
        format!("| | {} |", names.iter().map(|name| cast::title(name)).collect::<Vec<_>>().join(" | ")),
        format!("|---|{}", "---|".repeat(names.len())),
    ];
    for headline in headline::headlines(results) {
        let answers = headline.answers.iter().map(|answer| match &answer.value {
            Some(value) => format!("**{value}** ({})", answer.detail),
            None => "—".to_owned(),
        });
        let answers: Vec<String> = answers.collect();
        lines.push(format!("| {}: {} | {} |", headline.question, headline.note, answers.join(" | ")));
    }
    lines.join("\n") + "\n"
}

fn table(table: &Table<'_>) -> String {
    let mut lines = vec![format!("### {}\n", table.family.title)];
    if !table.family.about.is_empty() {
        lines.push(format!("{}\n", table.family.about));
    }
    lines.push(format!("| case | metric | {} |", table.contestants.join(" | ")));
    lines.push(format!("|---|---|{}", "---:|".repeat(table.contestants.len())));
    for row in &table.rows {
        let cells: Vec<String> = row.cells.iter().map(|c| cell(c.as_ref())).collect();
        lines.push(format!("| {} | {}, {} | {} |", row.case, row.metric, row.unit, cells.join(" | ")));
    }
    lines.push(String::new());
    for (contestant, case, reason) in &table.missing {
        lines.push(format!("- — {contestant} has no {case}: {}", one_line(reason)));
    }
    lines.join("\n") + "\n"
}

fn cell(cell: Option<&Cell>) -> String {
    let Some(cell) = cell else { return "—".to_owned() };
    let value = with_interval(cell.median, cell.ci95);
    cell.ratio.map_or(value.clone(), |r| format!("{value}<br>{} ({})", times(r.value), times_interval(r)))
}

/// Machine, versions, what was disturbed, what is missing, commands.
fn lists(results: &Results) -> Vec<String> {
    let sections = facts::sections(results).into_iter().map(|section| {
        let lines = section.lines.iter().map(|(name, text)| match name.is_empty() {
            true => format!("- {}\n", one_line(text)),
            false => format!("- {name}: {}\n", one_line(text)),
        });
        format!("## {}\n\n{}", section.title, lines.collect::<String>())
    });
    sections.collect()
}

/// Reasons are other programs' words: they stay on their line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
