//! Which pods a policy means, by their labels.

use super::null::null_as_default;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

pub type Labels = BTreeMap<String, String>;

/// Labels that one of Istio's selectors may have: each may be compared with each pod of the namespace.
const MOST_LABELS: usize = 64;

/// Kubernetes' label selector: every label and every expression has to fit; an empty selector fits all.
#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    #[serde(default, deserialize_with = "null_as_default")]
    match_labels: Labels,
    #[serde(default, deserialize_with = "null_as_default")]
    match_expressions: Vec<Expression>,
}

/// Istio's workload selector: labels only, compared as they are.
#[derive(Clone, Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    #[serde(default, deserialize_with = "without_stars")]
    pub match_labels: Labels,
}

/// One entry of `matchExpressions`.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
enum Expression {
    In {
        key: String,
        values: BTreeSet<String>,
    },
    /// Fits pods without the label, too.
    NotIn {
        key: String,
        values: BTreeSet<String>,
    },
    Exists {
        key: String,
    },
    DoesNotExist {
        key: String,
    },
}

/// An expression as it is written, before it is known to make sense.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    operator: Operator,
    #[serde(default, deserialize_with = "null_as_default")]
    values: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// How many comparisons a pod may cost.
    pub fn conditions(&self) -> usize {
        self.match_labels.len() + self.match_expressions.len()
    }

    pub fn selects(&self, labels: &Labels) -> bool {
        has_all(labels, &self.match_labels) && self.match_expressions.iter().all(|e| e.fits(labels))
    }
}

impl WorkloadSelector {
    pub fn selects(&self, labels: &Labels) -> bool {
        has_all(labels, &self.match_labels)
    }
}

impl Expression {
    fn fits(&self, labels: &Labels) -> bool {
        match self {
            Self::In { key, values } => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn { key, values } => labels.get(key).is_none_or(|value| !values.contains(value)),
            Self::Exists { key } => labels.contains_key(key),
            Self::DoesNotExist { key } => !labels.contains_key(key),
        }
    }
}

impl TryFrom<Written> for Expression {
    type Error = String;

    fn try_from(Written { key, operator, values }: Written) -> Result<Self, String> {
        match (operator, values.is_empty()) {
            (Operator::In, false) => Ok(Self::In { key, values }),
            (Operator::NotIn, false) => Ok(Self::NotIn { key, values }),
            (Operator::Exists, true) => Ok(Self::Exists { key }),
            (Operator::DoesNotExist, true) => Ok(Self::DoesNotExist { key }),
            (Operator::In | Operator::NotIn, true) => {
                Err(format!("operator {operator:?} needs values to compare label {key:?} with"))
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                Err(format!("operator {operator:?} takes no values; use In or NotIn for label {key:?}"))
            }
        }
    }
}

/// Reads a selector, or what is wrong with it: the object that it belongs to is not wrong for that.
pub fn selector_or_wrong<'de, D: Deserializer<'de>>(d: D) -> Result<Result<LabelSelector, String>, D::Error> {
    let Some(value) = Option::<serde_json::Value>::deserialize(d)? else {
        return Ok(Ok(LabelSelector::default()));
    };
    Ok(serde_path_to_error::deserialize(value).map_err(|wrong| match wrong.path().to_string() {
        path if path == "." => wrong.into_inner().to_string(),
        path => format!("{path}: {}", wrong.into_inner()),
    }))
}

/// A selector of every pod, where an object has none.
pub fn every_pod() -> Result<LabelSelector, String> {
    Ok(LabelSelector::default())
}

/// Istio's own API refuses a `*` here, because it would select nobody.
fn without_stars<'de, D: Deserializer<'de>>(d: D) -> Result<Labels, D::Error> {
    let labels: Labels = null_as_default(d)?;
    if labels.len() > MOST_LABELS {
        let count = labels.len();
        return Err(D::Error::custom(format!("it has {count} labels, and {MOST_LABELS} are the most")));
    }
    match labels.iter().find(|(key, value)| key.contains('*') || value.contains('*')) {
        Some((key, value)) => Err(D::Error::custom(format!(
            "selects {key}: {value}, but labels are compared as they are: no *"
        ))),
        None => Ok(labels),
    }
}

fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn selects(selector: Value) -> bool {
        let labels = json!({"app": "cart", "tier": "web"});
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        selector.selects(&serde_json::from_value(labels).unwrap())
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    }

    #[test]
    fn an_empty_selector_selects_all() {
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": null, "matchExpressions": []})));
    }

    #[test]
    fn a_workload_selector_takes_no_stars() {
        let read = |labels: Value| serde_json::from_value::<WorkloadSelector>(json!({"matchLabels": labels}));
        assert!(read(json!({"app": "cart"})).is_ok() && read(Value::Null).is_ok());
        for labels in [json!({"app": "ca*"}), json!({"a*": "cart"})] {
            let error = read(labels.clone()).unwrap_err().to_string();
            assert!(error.ends_with("but labels are compared as they are: no *"), "{labels}: {error}");
        }
    }

    #[test]
    fn a_workload_selector_of_more_labels_than_it_may_have_is_an_error() {
        let labels: Labels = (0..=MOST_LABELS).map(|i| (format!("k{i}"), String::new())).collect();
        let error = serde_json::from_value::<WorkloadSelector>(json!({"matchLabels": labels})).unwrap_err();
        assert_eq!(error.to_string(), "it has 65 labels, and 64 are the most");
    }

    #[test]
    fn every_label_has_to_fit() {
        assert!(selects(json!({"matchLabels": {"app": "cart"}})));
        assert!(selects(json!({"matchLabels": {"app": "cart", "tier": "web"}})));
        assert!(!selects(json!({"matchLabels": {"app": "cart", "tier": "db"}})));
        assert!(!selects(json!({"matchLabels": {"zone": ""}})));
    }

    #[test]
    fn expressions_mean_what_kubernetes_means() {
        for (key, operator, values, expected) in [
            ("app", "In", &["cart", "db"][..], true),
            ("app", "In", &["db"], false),
            ("zone", "In", &["a"], false),
            ("app", "NotIn", &["cart"], false),
            ("app", "NotIn", &["db"], true),
            ("zone", "NotIn", &["a"], true),
            ("app", "Exists", &[], true),
            ("zone", "Exists", &[], false),
            ("app", "DoesNotExist", &[], false),
            ("zone", "DoesNotExist", &[], true),
        ] {
            assert_eq!(selects(expression(key, operator, values)), expected, "{key} {operator} {values:?}");
        }
        let both = json!({"matchLabels": {"app": "cart"},
            "matchExpressions": [{"key": "tier", "operator": "Exists"}, {"key": "zone", "operator": "Exists"}]});
        assert!(!selects(both));
    }

    #[test]
    fn expressions_that_make_no_sense_are_errors() {
        let error = |selector| serde_json::from_value::<LabelSelector>(selector).unwrap_err().to_string();
        assert!(
            error(expression("app", "In", &[])).contains("operator In needs values to compare label \"app\"")
        );
        assert!(error(expression("app", "Exists", &["a"])).contains("operator Exists takes no values"));
        assert!(error(expression("app", "Equals", &["a"])).contains("unknown variant `Equals`"));
        assert!(error(json!({"matchLabel": {}})).contains("unknown field `matchLabel`"));
    }
}
