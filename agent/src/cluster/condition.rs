//! The conditions by which a policy says on itself what is wrong with it.

use super::resources::Resource;
use crate::manifest::Complaint;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The types of the conditions. Others' are none of our business.
pub const TYPES: [Type; 2] = [
    // Whether the policy is in force as it is written.
    Type { name: "pillion.dev/Accepted", good: "Accepted" },
    // Whether all of it can match something.
    Type { name: "pillion.dev/Effective", good: "Effective" },
];

#[derive(Debug, PartialEq, Eq)]
pub struct Type {
    pub name: &'static str,
    /// The reason while its status is True.
    good: &'static str,
}

/// What an object says of itself, as the watch has brought it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub generation: i64,
    conditions: [Option<Condition>; TYPES.len()],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    is_good: bool,
    message: String,
    observed: i64,
    /// Since when it is so, as it was written.
    since: String,
}

/// What is to be written: every condition of ours, because what is left out is taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    lines: Vec<Line>,
    generation: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    name: &'static str,
    is_good: bool,
    reason: &'static str,
    message: String,
    since: Option<String>,
}

impl Told {
    pub fn read(value: &Value) -> Self {
        let generation = value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let all = value.pointer("/status/conditions").and_then(Value::as_array);
        let conditions = TYPES.map(|Type { name, .. }| {
            let own = all.into_iter().flatten().find(|condition| condition["type"] == name)?;
            let text = |field: &str| own[field].as_str().unwrap_or_default().to_owned();
            Some(Condition {
                is_good: own["status"] == "True",
                message: text("message"),
                observed: own["observedGeneration"].as_i64().unwrap_or_default(),
                since: text("lastTransitionTime"),
            })
        });
        Self { generation, conditions }
    }

    /// What there is to write, by what there is to say for each type. A policy that is good gets a condition only where it
    /// has a bad one.
    pub fn lacks(&self, complaints: [Option<Complaint>; TYPES.len()]) -> Option<Verdict> {
        let mut is_lacking = false;
        let mut lines = Vec::new();
        for ((kind, said), complaint) in TYPES.iter().zip(&self.conditions).zip(complaints) {
            let (is_good, reason, message) = match complaint {
                Some(Complaint { reason, message }) => (false, reason, message),
                None => (true, kind.good, String::new()),
            };
            let Some(said) = said else {
                if !is_good {
                    is_lacking = true;
                    lines.push(Line { name: kind.name, is_good, reason, message, since: None });
                }
                continue;
            };
            let is_said = said.is_good == is_good
                && (is_good || (said.observed == self.generation && said.message == message));
            is_lacking |= !is_said;
            let since = (said.is_good == is_good).then(|| said.since.clone());
            lines.push(Line { name: kind.name, is_good, reason, message, since });
        }
        is_lacking.then_some(Verdict { lines, generation: self.generation })
    }
}

impl Verdict {
    /// Whether it says the same, since whenever.
    pub fn says(&self, other: &Self) -> bool {
        let lines = |verdict: &Self| -> Vec<_> {
            verdict.lines.iter().map(|line| (line.name, line.is_good, line.message.clone())).collect()
        };
        self.generation == other.generation && lines(self) == lines(other)
    }

    /// The object to apply.
    pub fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Value {
        let now = || OffsetDateTime::now_utc().replace_nanosecond(0).ok()?.format(&Rfc3339).ok();
        let condition = |line: &Line| {
            let since = line.since.clone().filter(|since| !since.is_empty()).or_else(now);
            json!({
                "type": line.name,
                "status": if line.is_good { "True" } else { "False" },
                "reason": line.reason,
                "message": line.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": since,
            })
        };
        json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"namespace": namespace, "name": name},
            "status": {"conditions": self.lines.iter().map(condition).collect::<Vec<_>>()},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::resources::RESOURCES;
    use super::*;

    const ACCEPTED: &str = TYPES[0].name;
    const EFFECTIVE: &str = TYPES[1].name;

    fn told(generation: i64, conditions: Value) -> Told {
        Told::read(&json!({"metadata": {"generation": generation}, "status": {"conditions": conditions}}))
    }

    fn wrong(message: &str) -> Option<Complaint> {
        Some(Complaint { reason: "Invalid", message: message.into() })
    }

    fn condition(name: &str, status: &str, observed: i64) -> Value {
        json!({"type": name, "status": status, "message": "no", "observedGeneration": observed,
            "lastTransitionTime": "2026-01-02T03:04:05Z"})
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let others = json!({"type": "Reconciled", "status": "True"});
        for name in [ACCEPTED, EFFECTIVE] {
            let own = |status: &str, observed: i64| condition(name, status, observed);
            for (conditions, complaint, is_written) in [
                (json!([others]), None, false),
                (json!([others]), wrong("no"), true),
                (json!([others, own("False", 2)]), wrong("no"), false),
                (json!([own("False", 1)]), wrong("no"), true),
                (json!([own("False", 2)]), wrong("other"), true),
                (json!([own("False", 2)]), None, true),
                (json!([own("True", 1)]), None, false),
                (json!([own("True", 2)]), wrong("no"), true),
            ] {
                let complaints = match name {
                    ACCEPTED => [complaint.clone(), None],
                    _ => [None, complaint.clone()],
                };
                let found = told(2, conditions.clone()).lacks(complaints);
                assert_eq!(found.is_some(), is_written, "{conditions} {complaint:?}");
            }
        }
    }

    #[test]
    fn a_condition_has_been_so_since_it_changed() {
        let before = json!([condition(ACCEPTED, "False", 1)]);
        let since = |complaint: Option<Complaint>| {
            let verdict = told(2, before.clone()).lacks([complaint, None]).unwrap();
            let object = verdict.object(&RESOURCES[6], "shop", "cart");
            object["status"]["conditions"][0]["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        assert_eq!(since(wrong("other")), "2026-01-02T03:04:05Z");
        assert_ne!(since(None), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn one_condition_is_written_with_the_other_which_is_taken_off_else() {
        let written = |conditions: Value, complaints| {
            let verdict = told(2, conditions).lacks(complaints).unwrap();
            let object = verdict.object(&RESOURCES[6], "shop", "cart");
            let conditions = object["status"]["conditions"].as_array().unwrap().clone();
            let said = conditions.iter().map(|c| format!("{} {}", c["type"].as_str().unwrap(), c["status"]));
            said.collect::<Vec<_>>()
        };
        let accepted = json!([condition(ACCEPTED, "True", 1)]);
        assert_eq!(
            written(accepted, [None, wrong("no")]),
            ["pillion.dev/Accepted \"True\"", "pillion.dev/Effective \"False\""]
        );
        let effective = json!([condition(EFFECTIVE, "False", 2)]);
        assert_eq!(
            written(effective, [wrong("x"), None]),
            ["pillion.dev/Accepted \"False\"", "pillion.dev/Effective \"True\""]
        );
    }
}
