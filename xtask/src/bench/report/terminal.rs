//! The report for who waited for it: plain text with a little colour.

use super::number::{interval, number, times, times_interval};
use super::table::{Cell, Table, tables};
use crate::bench::results::{ALL_CASES, Results};
use crate::terminal::Colours;

pub fn text(results: &Results, colours: Colours) -> String {
    let mut lines = vec![];
    for table in tables(results) {
        lines.push(String::new());
        lines.push(colours.bold(&table.family.title));
        lines.extend(table_lines(&table, colours));
        lines.extend(table.missing.iter().map(|(contestant, case, reason)| {
            colours.dim(&format!("  — {contestant} has no {case}: {reason}"))
        }));
    }
    lines.push(String::new());
    lines.extend(notes(results));
    lines.join("\n")
}

struct Line {
    /// The numbers stand out from what is beside them.
    is_number: bool,
    cells: Vec<String>,
}

/// Every metric has two lines: the numbers, and their ratios to the baseline.
fn table_lines(table: &Table<'_>, colours: Colours) -> Vec<String> {
    let head = table.contestants.iter().map(|name| (*name).to_owned());
    let mut lines = vec![line(false, "median, 95 % interval; × baseline".to_owned(), head)];
    for row in &table.rows {
        let name = format!("{} {}, {}", row.case, row.metric, row.unit);
        lines.push(line(true, name, row.cells.iter().map(|cell| value(cell.as_ref()))));
        if row.cells.iter().flatten().any(|cell| cell.ratio.is_some()) {
            lines.push(line(false, String::new(), row.cells.iter().map(|cell| ratio(cell.as_ref()))));
        }
    }
    let width =
        |column: usize| lines.iter().map(|line| line.cells[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..=table.contestants.len()).map(width).collect();
    let aligned = |line: &Line| {
        let numbers = line.cells.iter().zip(&widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
        let text = format!("  {:2$}{}", line.cells[0], numbers.collect::<String>(), widths[0]);
        if line.is_number { text } else { colours.dim(&text) }
    };
    lines.iter().map(aligned).collect()
}

fn line(is_number: bool, first: String, others: impl Iterator<Item = String>) -> Line {
    Line { is_number, cells: [first].into_iter().chain(others).collect() }
}

fn value(cell: Option<&Cell>) -> String {
    cell.map_or("—".to_owned(), |cell| match cell.ci95[0] == cell.ci95[1] {
        true => number(cell.median),
        false => format!("{} {}", number(cell.median), interval(cell.median, cell.ci95)),
    })
}

fn ratio(cell: Option<&Cell>) -> String {
    let ratio = cell.and_then(|cell| cell.ratio);
    ratio.map_or(String::new(), |r| format!("{} {}", times(r.value), times_interval(r)))
}

fn notes(results: &Results) -> Vec<String> {
    let mut lines = vec![];
    for missing in results.missing.iter().filter(|missing| missing.case == ALL_CASES) {
        lines.push(format!("missing: {} — {}", missing.contestant, missing.reason));
    }
    if !results.disturbed.is_empty() {
        let count = results.disturbed.len();
        lines.push(format!(
            "{count} measurements were disturbed and taken again; the report says which and why"
        ));
    }
    lines
}
