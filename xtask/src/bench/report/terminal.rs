//! The report for who waited for it: plain text with a little colour.

use super::number::{interval, number, times};
use super::table::{Cell, Table, tables};
use crate::bench::results::{ALL_CASES, Results};
use crate::terminal::Colours;

/// Room for `14,965 14,649–15,392`.
const COLUMN: usize = 21;
const FIRST: usize = 36;

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

fn table_lines(table: &Table<'_>, colours: Colours) -> Vec<String> {
    let head: String = table.contestants.iter().map(|name| format!("{name:>COLUMN$}")).collect();
    let mut lines = vec![colours.dim(&format!("  {:FIRST$}{head}", "median, 95 % interval; × baseline"))];
    for row in &table.rows {
        let name = format!("{} {} {}", row.case, row.metric, row.unit);
        let values: String =
            row.cells.iter().map(|cell| format!("{:>COLUMN$}", value(cell.as_ref()))).collect();
        lines.push(format!("  {name:FIRST$}{values}"));
        if row.cells.iter().flatten().any(|cell| cell.ratio.is_some()) {
            let ratios: String =
                row.cells.iter().map(|cell| format!("{:>COLUMN$}", ratio(cell.as_ref()))).collect();
            lines.push(colours.dim(&format!("  {:FIRST$}{ratios}", "")));
        }
    }
    lines
}

fn value(cell: Option<&Cell>) -> String {
    cell.map_or("—".to_owned(), |cell| match cell.ci95[0] == cell.ci95[1] {
        true => number(cell.median),
        false => format!("{} {}", number(cell.median), interval(cell.median, cell.ci95)),
    })
}

fn ratio(cell: Option<&Cell>) -> String {
    let ratio = cell.and_then(|cell| cell.ratio);
    ratio.map_or(String::new(), |r| format!("{} {}", times(r.value), interval(r.value, r.ci95)))
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
