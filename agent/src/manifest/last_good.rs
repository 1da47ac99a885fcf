//! What is in force in the place of policies that cannot be read.
//!
//! What was in force stays in force, until the policy is mended or gone. What was in force before the agent started nobody
//! knows: then whatever the policy may have meant to close is closed.

use super::authorization::AuthorizationPolicy;
use super::metadata::Metadata;
use super::peer_authentication::{Mode, MutualTls, PeerAuthentication, PeerAuthenticationSpec};
use super::refused::{InForce, PolicyKind, Refusal, RefusedPolicy};
use super::{Object, Sourced};
use crate::mesh::{Action, Policy, PolicyName, Rule};
use std::collections::HashMap;
use std::sync::Arc;

/// The policies as they were when they could be read last.
#[derive(Default)]
pub struct LastGood(HashMap<(PolicyKind, String, String), Good>);

struct Good {
    object: Object,
    in_force: InForce,
}

impl LastGood {
    /// Remembers the policies that can be read, and answers what is to be put in the place of those that cannot;
    /// `is_first` says that nothing is in force yet.
    pub fn resolve(&mut self, objects: &[&Sourced], is_first: bool) -> (Vec<Sourced>, Vec<Refusal>) {
        let mut before = std::mem::take(&mut self.0);
        let (mut instead, mut refusals) = (Vec::new(), Vec::new());
        for Sourced { place, object } in objects {
            let Object::RefusedPolicy(refused) = object else {
                if let Some((key, object)) = policy(object) {
                    self.0.insert(key, Good { object, in_force: InForce::LastGood });
                }
                continue;
            };
            let good = before.remove(&key(refused));
            let good = good
                .or_else(|| is_first.then(|| Good { object: stand_in(refused), in_force: InForce::StandIn }));
            refusals.push(Refusal {
                kind: refused.kind,
                namespace: refused.namespace.clone(),
                name: refused.name.clone(),
                error: place.error(&refused.field, refused.message.clone()),
                in_force: good.as_ref().map_or(InForce::Nothing, |good| good.in_force),
            });
            if let Some(good) = good {
                if let Some((_, object)) = policy(&good.object) {
                    instead.push(Sourced { place: place.clone(), object });
                }
                self.0.insert(key(refused), good);
            }
        }
        (instead, refusals)
    }
}

fn key(refused: &RefusedPolicy) -> (PolicyKind, String, String) {
    (refused.kind, refused.namespace.clone(), refused.name.clone())
}

/// What keeps closed whatever the policy may have meant to.
fn stand_in(refused: &RefusedPolicy) -> Object {
    let metadata = Metadata {
        name: refused.name.clone(),
        namespace: Some(refused.namespace.clone()),
        ..Metadata::default()
    };
    let selector = refused.selector.clone();
    match refused.kind {
        PolicyKind::PeerAuthentication => {
            let mtls = MutualTls { mode: Mode::Strict };
            let spec = PeerAuthenticationSpec { selector, mtls, ..PeerAuthenticationSpec::default() };
            Object::PeerAuthentication(Arc::new(PeerAuthentication { metadata, spec }))
        }
        PolicyKind::AuthorizationPolicy => {
            let policy = Policy {
                name: PolicyName { namespace: refused.namespace.clone(), name: refused.name.clone() },
                action: Action::Deny,
                dry_run: false,
                rules: vec![Rule::default()],
                http_fields: Vec::new(),
                provider: None,
                stands_in: Some(format!("{}: {}", refused.field, refused.message)),
            };
            let policy = Arc::new(policy);
            Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy {
                metadata,
                selector,
                has_target: refused.has_target,
                policy,
            }))
        }
    }
}

/// A policy that could be read, by its name. A copy shares it.
fn policy(object: &Object) -> Option<((PolicyKind, String, String), Object)> {
    let (kind, metadata, object) = match object {
        Object::PeerAuthentication(policy) => {
            (PolicyKind::PeerAuthentication, &policy.metadata, Object::PeerAuthentication(policy.clone()))
        }
        Object::AuthorizationPolicy(policy) => {
            (PolicyKind::AuthorizationPolicy, &policy.metadata, Object::AuthorizationPolicy(policy.clone()))
        }
        _ => return None,
    };
    Some(((kind, metadata.namespace().to_owned(), metadata.name.clone()), object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    /// What is in force of the policies `p`, the oldest state of the manifests first: each as the actions, and the
    /// mode of plaintext.
    fn in_force(states: &[&str]) -> Vec<(Vec<String>, Vec<InForce>)> {
        let mut last_good = LastGood::default();
        let states = states.iter().enumerate().map(|(i, text)| {
            let objects = parse("x.yaml", text.as_bytes()).unwrap();
            let (instead, refusals) = last_good.resolve(&objects.iter().collect::<Vec<_>>(), i == 0);
            let said = |sourced: &Sourced| match &sourced.object {
                Object::AuthorizationPolicy(policy) => {
                    let selected: Vec<_> = policy.selector.match_labels.values().cloned().collect();
                    Some(format!(
                        "{:?} {} {}",
                        policy.policy.action,
                        policy.policy.rules.len(),
                        selected.join(",")
                    ))
                }
                Object::PeerAuthentication(policy) => Some(format!("{:?}", policy.spec.mtls.mode)),
                _ => None,
            };
            let said = objects.iter().chain(&instead).filter_map(said).collect();
            (said, refusals.iter().map(|refusal| refusal.in_force).collect())
        });
        states.collect()
    }

    fn policy(spec: &str) -> String {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {spec}}}\n"
        )
    }

    const GOOD: &str = "{selector: {matchLabels: {app: cart}}, rules: [{}, {}]}";
    const BAD: &str = "{selector: {matchLabels: {app: cart}}, rulez: []}";

    // proves: POL-1, SEC-2
    #[test]
    fn the_last_good_form_of_a_policy_stays_until_it_is_mended_or_gone() {
        let (good, bad) = (policy(GOOD), policy(BAD));
        let states = in_force(&[&good, &bad, &bad, &good, "", &bad]);
        let kept = vec!["Allow 2 cart".to_owned()];
        assert_eq!(states[0], (kept.clone(), vec![]));
        assert_eq!(states[1], (kept.clone(), vec![InForce::LastGood]));
        assert_eq!(states[2], states[1]);
        assert_eq!(states[3], (kept, vec![]));
        assert_eq!(states[4], (vec![], vec![]));
        // It is another one now, of which nothing was in force.
        assert_eq!(states[5], (vec![], vec![InForce::Nothing]));
    }

    // proves: POL-1, SEC-2
    #[test]
    fn what_was_in_force_before_the_agent_started_is_not_known_and_so_all_is_closed() {
        for (spec, expected) in
            [(BAD, "Deny 1 cart"), ("{selector: {matchLabels: 5}, rules: [{}]}", "Deny 1 "), ("5", "Deny 1 ")]
        {
            let bad = policy(spec);
            let states = in_force(&[&bad, &bad, &policy("{}"), &bad]);
            assert_eq!(states[0], (vec![expected.to_owned()], vec![InForce::StandIn]), "{spec}");
            assert_eq!(states[1], states[0], "{spec}");
            assert_eq!(states[2], (vec!["Allow 0 ".to_owned()], vec![]), "{spec}");
            assert_eq!(states[3].1, [InForce::LastGood], "{spec}");
        }
        let mtls = policy("{mtls: {mode: STRICKT}}").replace("AuthorizationPolicy", "PeerAuthentication");
        assert_eq!(in_force(&[&mtls])[0], (vec!["Strict".to_owned()], vec![InForce::StandIn]));
    }

    #[test]
    fn a_policy_without_a_name_is_a_broken_manifest() {
        for metadata in ["{}", "{name: 5}", "{name: p, namespace: 5}"] {
            let text = policy(BAD).replace("{name: p}", metadata);
            assert!(parse("x.yaml", text.as_bytes()).is_err(), "{metadata}");
        }
    }

    #[test]
    fn a_refusal_is_a_sentence() {
        let objects = parse("x.yaml", policy(BAD).as_bytes()).unwrap();
        let (_, refusals) = LastGood::default().resolve(&[&objects[0]], true);
        let said = refusals[0].to_string();
        assert!(
            said.starts_with("AuthorizationPolicy default/p is refused: x.yaml, document 1, spec.rulez: "),
            "{said}"
        );
    }
}
