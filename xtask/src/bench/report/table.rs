//! The whole of the results as tables, before anybody decides how they look.

use super::cast;
use super::family::{self, Family};
use crate::bench::baseline;
use crate::bench::metric::Metric;
use crate::bench::results::{ALL_CASES, Results};
use crate::bench::stats::Ratio;

/// A family of cases: metrics are rows, contestants are columns.
pub struct Table<'a> {
    pub family: Family,
    pub contestants: Vec<&'a str>,
    pub rows: Vec<Row<'a>>,
    /// Why a contestant's column has holes: contestant, case, reason.
    pub missing: Vec<(&'a str, &'a str, &'a str)>,
}

pub struct Row<'a> {
    pub case: &'a str,
    pub metric: &'a str,
    pub unit: &'a str,
    /// One for every contestant; nothing where it was not measured.
    pub cells: Vec<Option<Cell>>,
}

pub struct Cell {
    pub median: f64,
    pub ci95: [f64; 2],
    /// To the contestant's baseline.
    pub ratio: Option<Ratio>,
}

/// All tables, in the order of measuring.
pub fn tables(results: &Results) -> Vec<Table<'_>> {
    let mut families: Vec<(Family, Vec<&str>)> = vec![];
    for case in cases(results) {
        let family = family::of(case);
        match families.iter_mut().find(|(known, _)| *known == family) {
            Some((_, cases)) => cases.push(case),
            None => families.push((family, vec![case])),
        }
    }
    families.into_iter().map(|(family, cases)| table(results, family, &cases)).collect()
}

/// All cases that were measured, or missed by somebody, as they came.
fn cases(results: &Results) -> Vec<&str> {
    let measured = results.results.iter().map(|s| s.case.as_str());
    let missing = results.missing.iter().map(|m| m.case.as_str()).filter(|case| *case != ALL_CASES);
    let mut cases: Vec<&str> = vec![];
    for case in measured.chain(missing) {
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    cases
}

fn table<'a>(results: &'a Results, family: Family, cases: &[&'a str]) -> Table<'a> {
    let missing: Vec<_> = results
        .missing
        .iter()
        .filter(|m| cases.contains(&m.case.as_str()))
        .map(|m| (m.contestant.as_str(), m.case.as_str(), m.reason.as_str()))
        .collect();
    let is_here = |name: &&str| {
        let measured =
            results.results.iter().any(|s| s.contestant == **name && cases.contains(&s.case.as_str()));
        measured || missing.iter().any(|(contestant, ..)| contestant == name)
    };
    let contestants: Vec<&str> = cast::contestants(results).into_iter().filter(is_here).collect();
    let rows = cases.iter().flat_map(|case| rows(results, case, &contestants)).collect();
    Table { family, contestants, rows, missing }
}

/// The metrics of a case: known ones in their order, then others.
fn rows<'a>(results: &'a Results, case: &'a str, contestants: &[&str]) -> Vec<Row<'a>> {
    let mut metrics: Vec<(&str, &str)> = vec![];
    for series in results.results.iter().filter(|s| s.case == case) {
        if !metrics.iter().any(|(name, _)| *name == series.metric) {
            metrics.push((&series.metric, &series.unit));
        }
    }
    let order = |name: &str| Metric::ALL.iter().position(|metric| metric.name() == name);
    metrics.sort_by_key(|(name, _)| order(name).unwrap_or(usize::MAX));
    let row = |(metric, unit)| {
        let cells = contestants.iter().map(|contestant| cell(results, contestant, case, metric)).collect();
        Row { case, metric, unit, cells }
    };
    metrics.into_iter().map(row).collect()
}

/// One number of the table; nothing when it is missing.
pub fn cell(results: &Results, contestant: &str, case: &str, metric: &str) -> Option<Cell> {
    let series = results.series(contestant, case, metric)?;
    let ratio = ratio(results, contestant, case, metric);
    Some(Cell { median: series.median, ci95: series.ci95, ratio })
}

/// A contestant's number over its baseline's of the same run.
pub fn ratio(results: &Results, contestant: &str, case: &str, metric: &str) -> Option<Ratio> {
    let series = results.series(contestant, case, metric)?;
    let base = results.series(baseline::of(contestant)?, case, metric)?;
    Ratio::of(&series.samples, &base.samples)
}
