//! What is in force in the place of policies that cannot be read.
//!
//! The last form that could be read stays in force, until the policy is mended or gone, across restarts of the agent ([`Kept`]).
//! Where this node knows no such form, a stand-in closes whatever the policy may have meant to close, from the
//! beginning: the same objects mean the same before a restart and after it.

use super::authorization::AuthorizationPolicy;
use super::kept::{self, Kept};
use super::metadata::Metadata;
use super::peer_authentication::{Mode, MutualTls, PeerAuthentication, PeerAuthenticationSpec};
use super::refused::{InForce, PolicyKind, Refusal, RefusedPolicy};
use super::{Object, Sourced};
use crate::mesh::{Action, Policy, PolicyName, Rule};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// The policies as they were when they could be read last.
#[derive(Default)]
pub struct LastGood {
    known: HashMap<Key, Good>,
    kept: Kept,
}

/// A policy's kind, namespace and name.
type Key = (PolicyKind, String, String);

struct Good {
    object: Object,
    in_force: InForce,
}

impl LastGood {
    /// Knows what the last agent of this node has kept in the file; `None` where nothing is kept.
    pub fn open(path: Option<PathBuf>) -> Self {
        let (kept, policies) = Kept::open(path);
        let known = policies.iter().filter_map(policy);
        let known = known.map(|(key, object)| (key, Good { object, in_force: InForce::LastGood }));
        Self { known: known.collect(), kept }
    }

    /// Remembers the policies that can be read, and answers what is to be put in the place of those that cannot. These are all
    /// policies there are: what is not among them is forgotten.
    pub fn resolve(&mut self, objects: &[&Sourced]) -> (Vec<Sourced>, Vec<Refusal>) {
        let mut before = std::mem::take(&mut self.known);
        let (mut instead, mut refusals) = (Vec::new(), Vec::new());
        for Sourced { place, object } in objects {
            let Object::RefusedPolicy(refused) = object else {
                if let Some((key, object)) = policy(object) {
                    if before.remove(&key).is_none_or(|before| before.object != object) {
                        self.kept.is_old();
                    }
                    self.known.insert(key, Good { object, in_force: InForce::LastGood });
                }
                continue;
            };
            let good = before.remove(&key(refused)).filter(|good| is_same(&good.object, refused));
            let good = good.unwrap_or_else(|| Good { object: stand_in(refused), in_force: InForce::StandIn });
            refusals.push(Refusal {
                kind: refused.kind,
                namespace: refused.namespace.clone(),
                name: refused.name.clone(),
                error: place.error(&refused.field, refused.message.clone()),
                in_force: good.in_force,
            });
            // What stands in follows the policy: it may select other pods than before.
            let good = match good.in_force {
                InForce::LastGood => good,
                InForce::StandIn => Good { object: stand_in(refused), ..good },
            };
            if let Some((_, object)) = policy(&good.object) {
                instead.push(Sourced { place: place.clone(), object });
            }
            self.known.insert(key(refused), good);
        }
        if before.values().any(|gone| gone.in_force == InForce::LastGood) {
            self.kept.is_old();
        }
        if !self.kept.is_current() {
            let is_good = |(_, good): &(&Key, &Good)| good.in_force == InForce::LastGood;
            let good: BTreeMap<_, _> = self.known.iter().filter(is_good).collect();
            self.kept.write(good.values().filter_map(|good| kept::text(&good.object)));
        }
        (instead, refusals)
    }

    /// Why the next agent will not know these forms; `None` where it will, or where nothing is kept.
    pub fn error(&self) -> Option<String> {
        self.kept.error()
    }
}

fn key(refused: &RefusedPolicy) -> Key {
    (refused.kind, refused.namespace.clone(), refused.name.clone())
}

/// Whether the form is one of this policy, and not of another one that had its name.
fn is_same(good: &Object, refused: &RefusedPolicy) -> bool {
    let uid = match good {
        Object::PeerAuthentication(policy) => &policy.metadata.uid,
        Object::AuthorizationPolicy(policy) => &policy.metadata.uid,
        _ => return false,
    };
    uid.is_none() || refused.uid.is_none() || *uid == refused.uid
}

/// What keeps closed whatever the policy may have meant to close. A policy that decides nothing in its right form has a
/// stand-in that decides nothing.
fn stand_in(refused: &RefusedPolicy) -> Object {
    let metadata = Metadata {
        name: refused.name.clone(),
        namespace: Some(refused.namespace.clone()),
        uid: refused.uid.clone(),
        ..Metadata::default()
    };
    let selector = refused.selector.clone();
    match refused.kind {
        PolicyKind::PeerAuthentication => {
            let (comes_first, selector) = (selector.is_none(), selector.unwrap_or_default());
            let mtls = MutualTls { mode: Mode::Strict };
            let spec = PeerAuthenticationSpec { selector, mtls, ..PeerAuthenticationSpec::default() };
            let text = Box::default();
            Object::PeerAuthentication(Arc::new(PeerAuthentication { metadata, spec, comes_first, text }))
        }
        PolicyKind::AuthorizationPolicy => {
            let policy = Policy {
                name: PolicyName { namespace: refused.namespace.clone(), name: refused.name.clone() },
                action: if refused.audits { Action::Audit } else { Action::Deny },
                dry_run: refused.dry_run,
                rules: if refused.audits { Vec::new() } else { vec![Rule::default()] },
                http_fields: Vec::new(),
                warnings: Vec::new(),
                provider: None,
                stands_in: Some(format!("{}: {}", refused.field, refused.message)),
            };
            let policy = Arc::new(policy);
            Object::AuthorizationPolicy(Arc::new(AuthorizationPolicy {
                metadata,
                selector: selector.unwrap_or_default(),
                has_target: refused.has_target,
                policy,
                text: Box::default(),
            }))
        }
    }
}

/// A policy that could be read, by its name. A copy shares it.
fn policy(object: &Object) -> Option<(Key, Object)> {
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
#[path = "last_good_tests.rs"]
mod tests;
