//! The condition by which a policy says on itself what is wrong with it.

use super::resources::Resource;
use crate::manifest::Complaint;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The type of the condition. Others' are none of our business.
pub const ACCEPTED: &str = "pillion.dev/Accepted";

/// What an object says of itself, as the watch has brought it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub generation: i64,
    pub condition: Option<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    accepted: bool,
    message: String,
    observed: i64,
    /// Since when it is so, as it was written.
    since: String,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    accepted: bool,
    reason: &'static str,
    message: String,
    generation: i64,
    since: Option<String>,
}

impl Told {
    pub fn read(value: &Value) -> Self {
        let generation = value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
        let own = conditions.into_iter().flatten().find(|condition| condition["type"] == ACCEPTED);
        let condition = own.map(|own| {
            let text = |field: &str| own[field].as_str().unwrap_or_default().to_owned();
            Condition {
                accepted: own["status"] == "True",
                message: text("message"),
                observed: own["observedGeneration"].as_i64().unwrap_or_default(),
                since: text("lastTransitionTime"),
            }
        });
        Self { generation, condition }
    }

    /// What there is to write. A policy that is good gets a condition only where it has a bad one.
    pub fn lacks(&self, complaint: Option<&Complaint>) -> Option<Verdict> {
        let said = self.condition.as_ref();
        let (accepted, reason, message) = match complaint {
            Some(Complaint { reason, message }) => (false, *reason, message.clone()),
            None => (true, "Accepted", String::new()),
        };
        let is_said = said.is_some_and(|said| {
            said.accepted == accepted
                && (accepted || (said.observed == self.generation && said.message == message))
        });
        if is_said || (accepted && said.is_none()) {
            return None;
        }
        let since = said.filter(|said| said.accepted == accepted).map(|said| said.since.clone());
        Some(Verdict { accepted, reason, message, generation: self.generation, since })
    }
}

impl Verdict {
    /// Whether it says the same, since whenever.
    pub fn says(&self, other: &Self) -> bool {
        (self.accepted, self.generation, &self.message) == (other.accepted, other.generation, &other.message)
    }

    /// The object to apply.
    pub fn object(&self, resource: &Resource, namespace: &str, name: &str) -> Value {
        let now = || OffsetDateTime::now_utc().replace_nanosecond(0).ok()?.format(&Rfc3339).ok();
        let since = self.since.clone().filter(|since| !since.is_empty()).or_else(now);
        json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"namespace": namespace, "name": name},
            "status": {"conditions": [{
                "type": ACCEPTED,
                "status": if self.accepted { "True" } else { "False" },
                "reason": self.reason,
                "message": self.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": since,
            }]},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::resources::RESOURCES;
    use super::*;

    fn told(generation: i64, conditions: Value) -> Told {
        Told::read(&json!({"metadata": {"generation": generation}, "status": {"conditions": conditions}}))
    }

    fn wrong(message: &str) -> Complaint {
        Complaint { reason: "Invalid", message: message.into() }
    }

    #[test]
    fn what_is_said_already_is_not_written_again() {
        let others = json!({"type": "Reconciled", "status": "True"});
        let own = |status: &str, observed: i64| {
            json!({"type": ACCEPTED, "status": status, "message": "no", "observedGeneration": observed,
                "lastTransitionTime": "2026-01-02T03:04:05Z"})
        };
        let no = wrong("no");
        for (conditions, complaint, is_written) in [
            (json!([others]), None, false),
            (json!([others]), Some(&no), true),
            (json!([others, own("False", 2)]), Some(&no), false),
            (json!([own("False", 1)]), Some(&no), true),
            (json!([own("False", 2)]), Some(&wrong("other")), true),
            (json!([own("False", 2)]), None, true),
            (json!([own("True", 1)]), None, false),
            (json!([own("True", 2)]), Some(&no), true),
        ] {
            let found = told(2, conditions.clone()).lacks(complaint);
            assert_eq!(found.is_some(), is_written, "{conditions} {complaint:?}");
        }
    }

    #[test]
    fn a_condition_has_been_so_since_it_changed() {
        let before = json!([{"type": ACCEPTED, "status": "False", "message": "no", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z"}]);
        let since = |complaint: Option<&Complaint>| {
            let verdict = told(2, before.clone()).lacks(complaint).unwrap();
            let object = verdict.object(&RESOURCES[6], "shop", "cart");
            object["status"]["conditions"][0]["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        assert_eq!(since(Some(&wrong("other"))), "2026-01-02T03:04:05Z");
        assert_ne!(since(None), "2026-01-02T03:04:05Z");
    }
}
