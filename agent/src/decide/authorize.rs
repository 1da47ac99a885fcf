//! Whether a connection may be: one evaluator of policies, for connections that a worker carries, for those that stay
//! in the kernel, and for plaintext.

use crate::mesh::{Action, Authorization, Condition, Policy, Rule, SpiffeId, Subject};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What layer 4 knows of a connection when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    pub source: IpAddr,
    /// Who the source has proven to be, or the kernel vouches for; `None` for plaintext.
    pub identity: Option<&'a SpiffeId>,
    /// The pod's own address and port, whatever the client had asked for.
    pub destination: SocketAddr,
}

/// What the policies say of a connection, and which of them says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// No ALLOW policy concerns the pod, and nothing denies the connection.
    Open,
    Allowed(Matched<'a>),
    Denied(Matched<'a>),
    /// ALLOW policies concern the pod, and none of their rules matches.
    NotAllowed,
}

/// A policy's rule that a connection has matched.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'a> {
    pub policy: &'a Arc<Policy>,
    /// The rule's place in the policy as it is written, from 0.
    pub rule: usize,
}

/// Decides as Istio does: CUSTOM and DENY first; then the pod is open, unless ALLOW policies concern it.
pub fn authorize<'a>(authorization: &'a Authorization, connection: &Connection<'_>) -> Verdict<'a> {
    if authorization.policies().is_empty() {
        return Verdict::Open;
    }
    Judge::new(authorization, connection).verdict(Policy::is_enforced)
}

/// What would be decided if no policy were a dry run; `None` where none is.
pub fn rehearse<'a>(authorization: &'a Authorization, connection: &Connection<'_>) -> Option<Verdict<'a>> {
    let is_dry_run = |policy: &Arc<Policy>| policy.dry_run && policy.action != Action::Audit;
    if !authorization.policies().iter().any(is_dry_run) {
        return None;
    }
    Some(Judge::new(authorization, connection).verdict(|policy| policy.action != Action::Audit))
}

/// The AUDIT policies that match.
pub fn audits<'a>(authorization: &'a Authorization, connection: &Connection<'_>) -> Vec<Matched<'a>> {
    let is_audit = |policy: &&Arc<Policy>| policy.action == Action::Audit && !policy.dry_run;
    let mut policies = authorization.policies().iter().filter(is_audit).peekable();
    if policies.peek().is_none() {
        return Vec::new();
    }
    let judge = Judge::new(authorization, connection);
    policies.filter_map(|policy| judge.matched(policy)).collect()
}

/// A connection before the policies.
struct Judge<'a, 'c> {
    authorization: &'a Authorization,
    connection: &'c Connection<'c>,
    subject: Option<Subject>,
}

impl<'a, 'c> Judge<'a, 'c> {
    fn new(authorization: &'a Authorization, connection: &'c Connection<'c>) -> Self {
        let subject = connection.identity.map(|identity| authorization.subject(identity));
        Self { authorization, connection, subject }
    }

    /// By the policies that `counts`.
    fn verdict(&self, counts: impl Fn(&Policy) -> bool) -> Verdict<'a> {
        let mut none_allows = Verdict::Open;
        for policy in self.authorization.policies().iter().filter(|policy| counts(policy)) {
            match (policy.action, self.matched(policy)) {
                (Action::Custom | Action::Deny, Some(matched)) => return Verdict::Denied(matched),
                (Action::Allow, Some(matched)) => return Verdict::Allowed(matched),
                (Action::Allow, None) => none_allows = Verdict::NotAllowed,
                (Action::Custom | Action::Deny, None) | (Action::Audit, _) => {}
            }
        }
        none_allows
    }

    fn matched(&self, policy: &'a Arc<Policy>) -> Option<Matched<'a>> {
        let rule = policy.rules.iter().find(|rule| self.matches(rule))?;
        Some(Matched { policy, rule: rule.index })
    }

    fn matches(&self, rule: &Rule) -> bool {
        let all = |conditions: &[Condition]| conditions.iter().all(|condition| self.holds(condition));
        let any = |ways: &[Vec<Condition>]| ways.is_empty() || ways.iter().any(|way| all(way));
        any(&rule.to) && any(&rule.from) && all(&rule.when)
    }

    fn holds(&self, condition: &Condition) -> bool {
        let Connection { source, destination, .. } = *self.connection;
        let subject = self.subject.as_ref();
        match condition {
            Condition::SourceAddress(test) => test.holds(|networks| networks.contains(source)),
            Condition::SourcePrincipal(test) => {
                test.holds(|listed| subject.is_some_and(|subject| subject.is_principal(listed)))
            }
            Condition::SourceNamespace(test) => {
                test.holds(|listed| subject.is_some_and(|subject| subject.is_in_namespace(listed)))
            }
            Condition::SourceServiceAccount(test) => {
                test.holds(|listed| subject.is_some_and(|subject| subject.is_service_account(listed)))
            }
            Condition::SourceTrustDomain(test) => {
                test.holds(|listed| subject.is_some_and(|subject| subject.is_of_trust_domain(listed)))
            }
            Condition::DestinationAddress(test) => test.holds(|networks| networks.contains(destination.ip())),
            Condition::DestinationPort(test) => test.holds(|ports| ports.contains(&destination.port())),
        }
    }
}

impl<'a> Verdict<'a> {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Open | Self::Allowed(_))
    }

    /// The rule that made it, where one did.
    pub fn matched(&self) -> Option<Matched<'a>> {
        match self {
            Self::Allowed(matched) | Self::Denied(matched) => Some(*matched),
            Self::Open | Self::NotAllowed => None,
        }
    }
}

/// The same rule of the same policy object.
impl PartialEq for Matched<'_> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.policy, other.policy) && self.rule == other.rule
    }
}

impl Eq for Matched<'_> {}

impl fmt::Display for Matched<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Policy { name, action, provider, stands_in, .. } = &**self.policy;
        write!(f, "rule {} of {} policy {name}", self.rule, action.as_str())?;
        match (stands_in, provider) {
            (Some(why), _) => write!(f, ", which stands in for one that cannot be read ({why})"),
            (None, Some(provider)) => write!(f, ", whose provider {provider} is not to be had here"),
            (None, None) => Ok(()),
        }
    }
}

/// As the second half of a sentence that began with the connection.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("allowed: no ALLOW policy concerns the pod, and none denies it"),
            Self::Allowed(matched) => write!(f, "allowed by {matched}"),
            Self::Denied(matched) => write!(f, "denied by {matched}"),
            Self::NotAllowed => {
                f.write_str("denied: ALLOW policies concern the pod, and none of them matches")
            }
        }
    }
}
