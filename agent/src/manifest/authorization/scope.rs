//! Which AuthorizationPolicies concern a pod.

use super::AuthorizationPolicy;
use crate::manifest::selector::Labels;
use crate::mesh::{Authorization, Policy, TrustDomains};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

/// All policies, in such an order that a pod asks only those that may concern it: ten thousand others cost it nothing.
#[derive(Default)]
pub struct Scopes<'a> {
    trust_domains: TrustDomains,
    mesh: Scope<'a>,
    namespaces: HashMap<&'a str, Scope<'a>>,
    /// Pods that the same policies concern share one answer.
    known: RefCell<HashMap<Vec<*const Policy>, Arc<Authorization>>>,
}

#[derive(Default)]
struct Scope<'a> {
    /// Without a selector.
    all: Vec<&'a AuthorizationPolicy>,
    /// By one of the labels that they select.
    by_label: HashMap<(&'a str, &'a str), Vec<&'a AuthorizationPolicy>>,
}

impl<'a> Scopes<'a> {
    /// Policies of the root namespace are for the pods of all namespaces.
    pub fn new(
        root_namespace: &str,
        trust_domains: &TrustDomains,
        policies: impl IntoIterator<Item = &'a AuthorizationPolicy>,
    ) -> Self {
        let mut scopes = Self { trust_domains: trust_domains.clone(), ..Self::default() };
        for policy in policies.into_iter().filter(|policy| !policy.has_target) {
            let namespace = policy.metadata.namespace();
            let scope = match namespace == root_namespace {
                true => &mut scopes.mesh,
                false => scopes.namespaces.entry(namespace).or_default(),
            };
            match policy.selector.match_labels.iter().next() {
                None => scope.all.push(policy),
                Some((key, value)) => scope.by_label.entry((key, value)).or_default().push(policy),
            }
        }
        scopes
    }

    /// The policies that concern a pod of this namespace with these labels.
    pub fn authorization(&self, namespace: &str, labels: &Labels) -> Arc<Authorization> {
        let of_namespace = self.namespaces.get(namespace);
        let scopes = [Some(&self.mesh), of_namespace].into_iter().flatten();
        let policies: Vec<&Arc<Policy>> = scopes.flat_map(|scope| scope.of(labels)).collect();
        let key = policies.iter().map(|policy| Arc::as_ptr(policy)).collect();
        let new = || Arc::new(Authorization::new(self.trust_domains.clone(), policies.into_iter().cloned()));
        self.known.borrow_mut().entry(key).or_insert_with(new).clone()
    }
}

impl Scope<'_> {
    fn of<'b>(&'b self, labels: &'b Labels) -> impl Iterator<Item = &'b Arc<Policy>> {
        let labelled =
            labels.iter().filter_map(|(key, value)| self.by_label.get(&(key.as_str(), value.as_str())));
        let selected = labelled.flatten().filter(|policy| policy.selector.selects(labels));
        self.all.iter().chain(selected).map(|policy| &policy.policy)
    }
}
