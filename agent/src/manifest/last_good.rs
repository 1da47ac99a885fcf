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
    /// The last generation of the policy that this node has seen, good or not; none of a manifest.
    seen: Option<i64>,
}

impl Good {
    /// Whether this is the form that the policy had before the refused one. Where a generation between was not seen, it may have
    /// been good, and have closed what this form leaves open.
    fn is_last_of(&self, refused: &RefusedPolicy) -> bool {
        let was_seen = match (self.seen, refused.generation) {
            (Some(seen), Some(now)) => now == seen || now == seen + 1,
            (None, _) | (_, None) => true,
        };
        was_seen && is_same(&self.object, refused)
    }
}

impl LastGood {
    /// Knows what the last agent of this node has kept in the file; `None` where nothing is kept.
    pub fn open(path: Option<PathBuf>) -> Self {
        let (kept, policies) = Kept::open(path);
        let known = policies.iter().filter_map(|(object, seen)| {
            let (key, object) = policy(object)?;
            Some((key, Good { object, in_force: InForce::LastGood, seen: *seen }))
        });
        Self { known: known.collect(), kept }
    }

    /// Whether it knows a good form of any policy of this kind.
    pub fn knows(&self, kind: PolicyKind) -> bool {
        self.known.iter().any(|(key, good)| key.0 == kind && good.in_force == InForce::LastGood)
    }

    /// Remembers the policies that can be read, and answers what is to be put in the place of those that cannot. These are all
    /// policies there are: what is not among them is forgotten, unless its kind is one of `absent`. The cluster does not have those
    /// at the moment, which says nothing of their policies.
    pub fn resolve(&mut self, objects: &[&Sourced], absent: &[PolicyKind]) -> (Vec<Sourced>, Vec<Refusal>) {
        let mut before = std::mem::take(&mut self.known);
        let (mut instead, mut refusals) = (Vec::new(), Vec::new());
        for Sourced { place, object } in objects {
            let Object::RefusedPolicy(refused) = object else {
                if let Some((key, object)) = policy(object) {
                    if before.remove(&key).is_none_or(|before| before.object != object) {
                        self.kept.is_old();
                    }
                    let seen = generation(&object);
                    self.known.insert(key, Good { object, in_force: InForce::LastGood, seen });
                }
                continue;
            };
            let known = before.remove(&key(refused));
            if known.as_ref().is_some_and(|good| good.seen != refused.generation || !good.is_last_of(refused))
            {
                self.kept.is_old();
            }
            let seen = refused.generation;
            let good = match known.filter(|good| good.is_last_of(refused)) {
                Some(good) => Good { seen, ..good },
                None => Good { object: stand_in(refused), in_force: InForce::StandIn, seen },
            };
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
        let (absent, before): (HashMap<_, _>, HashMap<_, _>) =
            before.into_iter().partition(|((kind, ..), _)| absent.contains(kind));
        self.known.extend(absent);
        if before.values().any(|gone| gone.in_force == InForce::LastGood) {
            self.kept.is_old();
        }
        if !self.kept.is_current() {
            let is_good = |(_, good): &(&Key, &Good)| good.in_force == InForce::LastGood;
            let good: BTreeMap<_, _> = self.known.iter().filter(is_good).collect();
            self.kept.write(good.values().filter_map(|good| Some((kept::text(&good.object)?, good.seen))));
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

fn generation(object: &Object) -> Option<i64> {
    match object {
        Object::PeerAuthentication(policy) => policy.metadata.generation,
        Object::AuthorizationPolicy(policy) => policy.metadata.generation,
        _ => None,
    }
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
