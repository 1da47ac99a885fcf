//! What people are told of a policy, on the policy itself: a function of the object alone, so that every agent says the same.

use super::Object;

/// Why a policy is not in force as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// One word, for machines.
    pub reason: &'static str,
    pub message: String,
}

/// What is in force of a policy that is refused, on any node.
const IN_FORCE: &str = "until it is mended, its last good form is in force; on nodes that know none, what it may be for is closed";

impl Object {
    /// What is to be said of it, if it is a policy and anything is.
    pub fn complaint(&self) -> Option<Complaint> {
        match self {
            Self::RefusedPolicy(refused) => {
                let message = match refused.field.as_str() {
                    "" => refused.message.clone(),
                    field => format!("{field}: {}", refused.message),
                };
                let message = format!("{message}; {IN_FORCE}");
                Some(Complaint { reason: "Invalid", message })
            }
            Self::AuthorizationPolicy(policy) if !policy.policy.http_fields.is_empty() => {
                let fields = policy.policy.http_fields.join(", ");
                let message = format!(
                    "fields of HTTP are not enforced yet, and fail safe: an ALLOW rule with them matches nothing, other rules \
                     match without them: {fields}"
                );
                Some(Complaint { reason: "HttpFieldsNotEnforced", message })
            }
            _ => None,
        }
    }
}
