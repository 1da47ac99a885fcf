//! Which NetworkPolicy selects a pod. The cluster's network enforces it; here it only keeps pods off the direct path.

use super::metadata::Key;
use super::objects::NetworkPolicy;
use super::selector::{LabelSelector, Labels};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

/// Labels and expressions of all NetworkPolicies of one namespace. Each pod of the namespace is asked about each of them once;
/// no namespace that was met has a tenth of it.
const MOST_CONDITIONS: usize = 2048;

/// The NetworkPolicies of a mesh, ready to be asked.
#[derive(Default)]
pub struct NetworkPolicies<'a> {
    namespaces: BTreeMap<&'a str, Vec<Selecting<'a>>>,
    /// Policies that are taken to select every pod of their namespace, and why.
    pub refused: Vec<(Key<'a>, String)>,
    /// Pods with the same labels share one answer.
    known: RefCell<HashMap<&'a str, HashMap<Labels, Option<&'a str>>>>,
}

struct Selecting<'a> {
    name: &'a str,
    /// `None` selects every pod: the policy's own selector cannot be read, or the namespace has more conditions than it may.
    selector: Option<&'a LabelSelector>,
}

impl<'a> NetworkPolicies<'a> {
    pub fn new(policies: impl IntoIterator<Item = &'a NetworkPolicy>) -> Self {
        let mut sorted: Vec<_> = policies.into_iter().collect();
        sorted.sort_by_key(|policy| policy.metadata.key());
        let mut all = Self::default();
        let mut conditions: HashMap<&str, usize> = HashMap::new();
        for policy in sorted {
            let namespace = policy.metadata.namespace();
            let conditions = conditions.entry(namespace).or_default();
            let selector = policy.spec.pod_selector.as_ref().map_err(Clone::clone).and_then(|selector| {
                *conditions += selector.conditions();
                match *conditions <= MOST_CONDITIONS {
                    true => Ok(selector),
                    false => Err(format!(
                        "the NetworkPolicies of its namespace have more than {MOST_CONDITIONS} labels and expressions"
                    )),
                }
            });
            if let Err(why) = &selector {
                all.refused.push((policy.metadata.key(), format!("{why}: it is taken to select every pod")));
            }
            let selecting = Selecting { name: &policy.metadata.name, selector: selector.ok() };
            all.namespaces.entry(namespace).or_default().push(selecting);
        }
        all
    }

    /// The first policy by name that selects a pod with these labels.
    pub fn of(&self, namespace: &str, labels: &Labels) -> Option<String> {
        let (namespace, policies) = self.namespaces.get_key_value(namespace)?;
        let mut known = self.known.borrow_mut();
        let known = known.entry(namespace).or_default();
        if let Some(answer) = known.get(labels) {
            return answer.map(str::to_owned);
        }
        let selects =
            |policy: &&Selecting<'_>| policy.selector.is_none_or(|selector| selector.selects(labels));
        let answer = policies.iter().find(selects).map(|policy| policy.name);
        known.insert(labels.clone(), answer);
        answer.map(str::to_owned)
    }

    /// A policy that may select a pod of the namespace, whatever its labels: of a pod that runs nowhere nobody asks more.
    pub fn any_of(&self, namespace: &str) -> Option<String> {
        self.namespaces.get(namespace)?.first().map(|policy| policy.name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn policy(name: &str, selector: Value) -> NetworkPolicy {
        let metadata = json!({"name": name, "namespace": "shop"});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"podSelector": selector}})).unwrap()
    }

    fn labels(app: &str) -> Labels {
        [("app".to_owned(), app.to_owned())].into()
    }

    // proves: SEC-3
    #[test]
    fn a_network_policy_whose_selector_cannot_be_read_is_taken_to_select_every_pod() {
        let expression = json!({"key": "app", "operator": "Like", "values": ["c"]});
        let wrong = [policy("fence", json!({"matchExpressions": [expression]}))];
        let policies = NetworkPolicies::new(&wrong);
        assert_eq!(policies.of("shop", &labels("cart")).as_deref(), Some("fence"));
        assert_eq!(policies.of("bank", &labels("cart")), None);
        let [(key, why)] = policies.refused.as_slice() else { panic!("it is not told") };
        assert_eq!(*key, ("shop", "fence"));
        assert!(why.starts_with("matchExpressions[0].operator: "), "{why}");
    }

    #[test]
    fn more_conditions_than_a_namespace_may_have_select_every_pod_and_cost_no_more() {
        let exists: Value =
            (0..MOST_CONDITIONS).map(|i| json!({"key": format!("k{i}"), "operator": "Exists"})).collect();
        let exists = json!({"matchExpressions": exists});
        let many = [policy("a", exists.clone()), policy("b", json!({"matchLabels": {"app": "db"}}))];
        assert_eq!(NetworkPolicies::new(&many[..1]).of("shop", &labels("cart")), None);
        let policies = NetworkPolicies::new(&many);
        assert_eq!(policies.of("shop", &labels("cart")).as_deref(), Some("b"));
        assert_eq!(policies.refused.len(), 1);
    }

    #[test]
    fn a_long_list_of_values_is_looked_up_and_not_read_for_each_pod() {
        let values: Vec<String> = (0..100_000).map(|i| format!("v{i}")).collect();
        let long = [policy(
            "long",
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": values}]}),
        )];
        let policies = NetworkPolicies::new(&long);
        let begun = std::time::Instant::now();
        for pod in 0..20_000 {
            assert_eq!(policies.of("shop", &labels(&format!("other{pod}"))), None);
        }
        // Comparing each value with each pod's label takes half a minute and more.
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }
}
