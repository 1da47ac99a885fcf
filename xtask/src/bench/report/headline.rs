//! The answer in one look.

use super::number::{amount, times};
use super::{cast, memory, table};
use crate::bench::baseline::NONE;
use crate::bench::results::Results;

/// A question, and what each contestant answers.
pub struct Headline {
    pub question: &'static str,
    /// What it is measured by, and what it is without a mesh.
    pub note: String,
    pub answers: Vec<Answer>,
}

pub struct Answer {
    pub contestant: String,
    /// Nothing when it could not be measured.
    pub value: Option<String>,
    pub detail: String,
}

/// All headlines, those that nobody could answer left out.
pub fn headlines(results: &Results) -> Vec<Headline> {
    let ratios = [
        ("A request takes", "http1-c1", "latency_p50", "median, one connection"),
        ("CPU for a request", "http1-c32", "cpu_ms_per_kreq", "for 1,000 requests, 32 connections"),
        ("One bulk stream", "bulk-1", "throughput", "one TCP connection"),
    ];
    let all = ratios
        .into_iter()
        .map(|(question, case, metric, what)| by_ratio(results, question, case, metric, what));
    all.chain([memory_of_a_pod(results)])
        .filter(|headline| headline.answers.iter().any(|answer| answer.value.is_some()))
        .collect()
}

fn by_ratio(results: &Results, question: &'static str, case: &str, metric: &str, what: &str) -> Headline {
    let answer = |contestant: &str| {
        let series = results.series(contestant, case, metric);
        Answer {
            contestant: contestant.to_owned(),
            value: table::ratio(results, contestant, case, metric).map(|ratio| times(ratio.value)),
            detail: series.map_or(String::new(), |series| amount(series.median, &series.unit)),
        }
    };
    let none = results.series(NONE, case, metric).map(|none| amount(none.median, &none.unit));
    Headline {
        question,
        note: format!("× no mesh ({}); {what}", none.unwrap_or_else(|| "not measured".into())),
        answers: cast::headliners(results).into_iter().map(answer).collect(),
    }
}

fn memory_of_a_pod(results: &Results) -> Headline {
    let answer = |contestant: &str| {
        let growth = memory::growth(&memory::over(results, contestant, memory::PODS));
        Answer {
            contestant: contestant.to_owned(),
            value: growth.as_ref().map(|growth| amount(growth.each, "KiB")),
            detail: growth
                .map_or(String::new(), |growth| format!("from {} to {} pods", growth.from, growth.to)),
        }
    };
    Headline {
        question: "Memory of one more pod",
        note: "proportional set size of the mesh, idle pods".to_owned(),
        answers: cast::headliners(results).into_iter().map(answer).collect(),
    }
}
