//! What is told of policies' verdicts: the access log names policy and rule, metrics count.

use super::label_sets::{OTHER, POLICIES};
use super::register::register;
use crate::decide::{Judgement, Matched, Verdict};
use prometheus::{IntCounterVec, Opts, Registry};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

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
    /// The policies that are told by name.
    named: Mutex<BTreeSet<String>>,
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
            named: Mutex::default(),
        }
    }

    /// Counts a connection that policies were asked about. A pod that none concerns has no such series.
    pub fn count(&self, judgement: &Judgement<'_>) {
        if judgement.verdict != Verdict::Open {
            self.count_verdict(&self.decided, &judgement.verdict);
        }
        if let Some(rehearsal) = &judgement.rehearsal {
            self.count_verdict(&self.rehearsed, rehearsal);
        }
        for audit in &judgement.audits {
            self.audited.with_label_values(&[self.named(audit.policy.name.to_string())]).inc();
        }
    }

    fn count_verdict(&self, counters: &IntCounterVec, verdict: &Verdict<'_>) {
        let result = if verdict.is_allowed() { "allowed" } else { "denied" };
        let policy = verdict.matched().map(|matched| self.named(matched.policy.name.to_string()));
        counters.with_label_values(&[result, &policy.unwrap_or_default()]).inc();
    }

    /// The policy's name, or [`OTHER`] where the pod's metrics tell of [`POLICIES`] already: whoever writes policies can make
    /// new names for ever.
    fn named(&self, policy: String) -> String {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = named.contains(&policy) || (named.len() < POLICIES && named.insert(policy.clone()));
        if is_told { policy } else { OTHER.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: ISO-3
    #[test]
    fn new_names_of_policies_make_no_series_for_ever() {
        let metrics = AuthorizationMetrics::new(&Registry::new());
        let named = (0..2 * POLICIES).map(|number| metrics.named(format!("shop/{number}")));
        assert_eq!(named.filter(|name| name == OTHER).count(), POLICIES);
        assert_eq!(metrics.named("shop/0".to_owned()), "shop/0");
    }
}
