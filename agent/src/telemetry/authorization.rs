//! What is told of policies' verdicts: the access log names policy and rule, metrics count.

use super::register::register;
use crate::decide::{Judgement, Matched, Verdict};
use prometheus::{IntCounterVec, Opts, Registry};
use serde::Serialize;

/// What policies said of a connection, for the access log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorizationLog {
    #[serde(flatten)]
    decision: Decision,
    /// What would have been decided if no policy were a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<Decision>,
    /// The AUDIT policies that matched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audited_by: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Decision {
    /// `ALLOW` or `DENY`.
    decision: &'static str,
    /// The rule that made it; none where a default did.
    #[serde(flatten)]
    rule: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Rule {
    /// `namespace/name`.
    policy: String,
    /// The rule's place in it, from 0.
    rule: usize,
}

/// A pod's metrics of policies' verdicts on connections to it.
pub struct AuthorizationMetrics {
    decided: IntCounterVec,
    rehearsed: IntCounterVec,
    audited: IntCounterVec,
}

impl AuthorizationLog {
    /// `None` where no policy concerns the pod.
    pub fn new(judgement: &Judgement<'_>) -> Option<Self> {
        let Judgement { verdict, rehearsal, audits } = judgement;
        if *verdict == Verdict::Open && rehearsal.is_none() && audits.is_empty() {
            return None;
        }
        Some(Self {
            decision: Decision::of(verdict),
            dry_run: rehearsal.as_ref().map(Decision::of),
            audited_by: audits.iter().map(Rule::of).collect(),
        })
    }
}

impl Decision {
    fn of(verdict: &Verdict<'_>) -> Self {
        let decision = if verdict.is_allowed() { "ALLOW" } else { "DENY" };
        Self { decision, rule: verdict.matched().as_ref().map(Rule::of) }
    }
}

impl Rule {
    fn of(matched: &Matched<'_>) -> Self {
        Self { policy: matched.policy.name.to_string(), rule: matched.rule }
    }
}

impl AuthorizationMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let counters = |name, help, labels: &[&str]| {
            let counters =
                IntCounterVec::new(Opts::new(name, help), labels).expect("a valid name and labels");
            register(registry, counters)
        };
        Self {
            decided: counters(
                "pillion_authorization_total",
                "Connections to the pod by what policies decided, and which; none where a default did.",
                &["result", "policy"],
            ),
            rehearsed: counters(
                "pillion_authorization_dry_run_total",
                "Connections to the pod by what would have been decided if no policy were a dry run.",
                &["result", "policy"],
            ),
            audited: counters(
                "pillion_authorization_audited_total",
                "Connections to the pod that an AUDIT policy matched.",
                &["policy"],
            ),
        }
    }

    /// Counts a connection that policies were asked about. A pod that none concerns has no such series.
    pub fn count(&self, judgement: &Judgement<'_>) {
        if judgement.verdict != Verdict::Open {
            count(&self.decided, &judgement.verdict);
        }
        if let Some(rehearsal) = &judgement.rehearsal {
            count(&self.rehearsed, rehearsal);
        }
        for audit in &judgement.audits {
            self.audited.with_label_values(&[audit.policy.name.to_string()]).inc();
        }
    }
}

fn count(counters: &IntCounterVec, verdict: &Verdict<'_>) {
    let result = if verdict.is_allowed() { "allowed" } else { "denied" };
    let policy = verdict.matched().map(|matched| matched.policy.name.to_string()).unwrap_or_default();
    counters.with_label_values(&[result, &policy]).inc();
}
