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

/// All that policies say of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement<'a> {
    pub verdict: Verdict<'a>,
    /// What would be decided if no policy were a dry run; `None` where none is.
    pub rehearsal: Option<Verdict<'a>>,
    /// The AUDIT policies that match.
    pub audits: Vec<Matched<'a>>,
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

/// Decides, and says what else policies have to say of the connection.
pub fn judge<'a>(authorization: &'a Authorization, connection: &Connection<'_>) -> Judgement<'a> {
    let policies = authorization.policies();
    if policies.is_empty() {
        return Judgement { verdict: Verdict::Open, rehearsal: None, audits: Vec::new() };
    }
    let judge = Judge::new(authorization, connection);
    let is_rehearsed = |policy: &Policy| policy.action != Action::Audit;
    let has_dry_run = policies.iter().any(|policy| policy.dry_run && is_rehearsed(policy));
    let audits = policies.iter().filter(|policy| policy.action == Action::Audit && !policy.dry_run);
    Judgement {
        verdict: judge.verdict(Policy::is_enforced),
        rehearsal: has_dry_run.then(|| judge.verdict(is_rehearsed)),
        audits: audits.filter_map(|policy| judge.matched(policy)).collect(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::{Mesh, PodName, TrustDomains};

    /// What is decided on a connection to the pod `shop/cart` at 10.0.0.2:80, in short; `-` is plaintext.
    fn decide(policies: &str, identity: &str) -> String {
        let mesh = mesh(policies);
        let judgement = judged(&mesh, identity, "10.0.0.1", 80);
        short(&judgement.verdict)
    }

    fn mesh(policies: &str) -> Mesh {
        let cart = "{apiVersion: v1, kind: Pod, metadata: {name: cart, namespace: shop, labels: {app: cart}}, \
                    status: {podIP: 10.0.0.2}}\n";
        let objects = parse("x.yaml", format!("{cart}{policies}").as_bytes()).unwrap();
        let domain = |name: &str| name.parse().unwrap();
        let trust_domains = TrustDomains::new(domain("new"), [domain("old")]);
        let settings = Settings { trust_domains, ..Settings::default() };
        snapshot::build(&objects, &settings, &Mesh::default()).unwrap()
    }

    fn judged<'a>(mesh: &'a Mesh, identity: &str, source: &str, port: u16) -> Judgement<'a> {
        let cart = &mesh.workloads[&PodName { namespace: "shop".into(), name: "cart".into() }];
        let identity: Option<SpiffeId> =
            (identity != "-").then(|| format!("spiffe://{identity}").parse().unwrap());
        let destination = SocketAddr::new("10.0.0.2".parse().unwrap(), port);
        let source = source.parse().unwrap();
        judge(&cart.authorization, &Connection { source, identity: identity.as_ref(), destination })
    }

    fn short(verdict: &Verdict<'_>) -> String {
        let of = |matched: &Matched<'_>| format!("{}[{}]", matched.policy.name, matched.rule);
        match verdict {
            Verdict::Open => "open".into(),
            Verdict::Allowed(matched) => format!("allowed {}", of(matched)),
            Verdict::Denied(matched) => format!("denied {}", of(matched)),
            Verdict::NotAllowed => "not allowed".into(),
        }
    }

    fn policy(name: &str, spec: &str) -> String {
        let (namespace, name) = name.split_once('/').unwrap();
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
             metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
        )
    }

    const WEB: &str = "new/ns/shop/sa/web";

    // proves: POL-1
    #[test]
    fn deny_comes_before_allow_and_without_allow_the_pod_is_open() {
        let allow = policy("shop/allow", "{rules: [{from: [{source: {namespaces: [shop]}}]}]}");
        let deny =
            policy("shop/deny", "{action: DENY, rules: [{}, {from: [{source: {namespaces: [shop]}}]}]}");
        let other = policy("shop/other", "{action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]}");
        let custom = policy("shop/z", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}");
        for (policies, expected) in [
            (String::new(), "open"),
            (other.clone(), "open"),
            (allow.clone(), "allowed shop/allow[0]"),
            (allow.clone() + &other, "allowed shop/allow[0]"),
            (allow.clone() + &deny, "denied shop/deny[0]"),
            (deny + &custom, "denied shop/z[0]"),
            (policy("shop/nobody", "{}"), "not allowed"),
            (policy("shop/nobody", "{}") + &allow, "allowed shop/allow[0]"),
            (policy("shop/nothing", "{action: DENY}"), "open"),
        ] {
            assert_eq!(decide(&policies, WEB), expected, "{policies}");
        }
    }

    #[test]
    fn policies_of_the_namespace_and_of_the_root_namespace_concern_the_pods_that_they_select() {
        for (name, selector, expected) in [
            ("shop/p", "{}", "denied shop/p[0]"),
            ("bank/p", "{}", "open"),
            ("istio-system/p", "{}", "denied istio-system/p[0]"),
            ("shop/p", "{matchLabels: {app: cart}}", "denied shop/p[0]"),
            ("shop/p", "{matchLabels: {app: cart, tier: db}}", "open"),
            ("istio-system/p", "{matchLabels: {app: cart}}", "denied istio-system/p[0]"),
            ("istio-system/p", "{matchLabels: {app: web}}", "open"),
        ] {
            let policy = policy(name, &format!("{{selector: {selector}, action: DENY, rules: [{{}}]}}"));
            assert_eq!(decide(&policy, WEB), expected, "{name} {selector}");
        }
        // Gateways' and waypoints' policies are theirs.
        let spec = "{targetRefs: [{kind: Gateway, name: g}], action: DENY, rules: [{}]}";
        assert_eq!(decide(&policy("shop/p", spec), WEB), "open");
    }

    #[test]
    fn nobody_proven_is_in_no_list() {
        for (source, proven, plain) in [
            ("principals: ['*']", true, false),
            ("notPrincipals: ['*']", false, true),
            ("namespaces: [shop]", true, false),
            ("notNamespaces: [shop]", false, true),
            ("serviceAccounts: [web]", true, false),
            ("notServiceAccounts: [shop/web]", false, true),
            ("trustDomains: ['*']", true, false),
            ("ipBlocks: [10.0.0.0/24]", true, true),
            ("ipBlocks: [10.0.0.0/24], notIpBlocks: [10.0.0.1]", false, false),
            ("remoteIpBlocks: [10.0.0.1]", true, true),
            ("notRemoteIpBlocks: [10.0.0.2]", true, true),
            ("principals: ['*/sa/web'], ipBlocks: [10.0.0.2]", false, false),
        ] {
            let policy = policy("shop/p", &format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}"));
            let expected = |matches| if matches { "allowed shop/p[0]" } else { "not allowed" };
            assert_eq!(decide(&policy, WEB), expected(proven), "{source}");
            assert_eq!(decide(&policy, "-"), expected(plain), "{source} in plain");
        }
    }

    #[test]
    fn the_meshs_trust_domain_has_many_names() {
        for (principal, own, alias, foreign) in [
            ("new/ns/shop/sa/web", true, true, false),
            ("old/ns/shop/sa/web", true, true, false),
            ("cluster.local/ns/shop/sa/web", true, true, false),
            ("'*w/ns/shop/sa/web'", true, true, false),
            ("other/ns/shop/sa/web", false, false, true),
            ("'*/ns/shop/sa/web'", true, true, true),
            ("'new/*'", true, false, false),
            ("'*'", true, true, true),
            ("new/ns/shop/sa/we", false, false, false),
        ] {
            let spec = format!("{{rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]}}");
            let matches = |domain: &str| {
                decide(&policy("shop/p", &spec), &format!("{domain}/ns/shop/sa/web")) == "allowed shop/p[0]"
            };
            assert_eq!(
                (matches("new"), matches("old"), matches("other")),
                (own, alias, foreign),
                "{principal}"
            );
        }
        for (domain, own, alias) in [("new", true, true), ("old", true, true), ("'n*'", true, false)] {
            let spec = format!("{{rules: [{{from: [{{source: {{trustDomains: [{domain}]}}}}]}}]}}");
            let matches = |domain: &str| {
                decide(&policy("shop/p", &spec), &format!("{domain}/ns/shop/sa/web")) == "allowed shop/p[0]"
            };
            assert_eq!((matches("new"), matches("old")), (own, alias), "{domain}");
        }
    }

    // proves: POL-1
    #[test]
    fn what_only_http_knows_fails_safe() {
        let http = "{to: [{operation: {methods: [GET], ports: ['80']}}]}";
        let when = "{when: [{key: 'request.headers[x]', values: [z]}]}";
        for rules in [http, when] {
            assert_eq!(decide(&policy("shop/p", &format!("{{rules: [{rules}]}}")), WEB), "not allowed");
            let deny = policy("shop/p", &format!("{{action: DENY, rules: [{rules}]}}"));
            assert_eq!(decide(&deny, WEB), "denied shop/p[0]");
        }
        // The next rule keeps its number, and a deny rule what layer 4 knows of it.
        let two = policy("shop/p", &format!("{{rules: [{http}, {{}}]}}"));
        assert_eq!(decide(&two, WEB), "allowed shop/p[1]");
        let mesh = mesh(&policy("shop/p", &format!("{{action: DENY, rules: [{http}]}}")));
        assert_eq!(short(&judged(&mesh, WEB, "10.0.0.1", 81).verdict), "open");
        assert_eq!(
            mesh.policies.values().next().unwrap().http_fields,
            ["spec.rules[0].to[0].operation.methods"]
        );
    }

    // proves: POL-1
    #[test]
    fn dry_runs_and_audits_say_what_they_would_do_and_do_nothing() {
        let dry_run = |name: &str, spec: &str| {
            policy(name, spec)
                .replace("namespace: shop}", "namespace: shop, annotations: {istio.io/dry-run: 'true'}}")
        };
        let mesh = mesh(
            &(dry_run("shop/dry", "{action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]}")
                + &policy(
                    "shop/audit",
                    "{action: AUDIT, rules: [{from: [{source: {namespaces: [bank]}}]}, {}]}",
                )),
        );
        let at = |port| judged(&mesh, WEB, "10.0.0.1", port);
        assert_eq!(short(&at(80).verdict), "open");
        assert_eq!(short(&at(80).rehearsal.unwrap()), "denied shop/dry[0]");
        assert_eq!(short(&at(81).rehearsal.unwrap()), "open");
        let audits: Vec<_> = at(80).audits.iter().map(ToString::to_string).collect();
        assert_eq!(audits, ["rule 1 of AUDIT policy shop/audit"]);
    }

    #[test]
    fn a_verdict_is_half_a_sentence_that_names_policy_and_rule() {
        let deny = mesh(&policy("shop/p", "{action: DENY, rules: [{}]}"));
        assert_eq!(
            judged(&deny, WEB, "10.0.0.1", 80).verdict.to_string(),
            "denied by rule 0 of DENY policy shop/p"
        );
        let custom = mesh(&policy("shop/p", "{action: CUSTOM, provider: {name: opa}, rules: [{}]}"));
        assert_eq!(
            judged(&custom, WEB, "10.0.0.1", 80).verdict.to_string(),
            "denied by rule 0 of CUSTOM policy shop/p, whose provider opa is not to be had here"
        );
        let none = mesh(&policy("shop/p", "{}"));
        assert_eq!(
            judged(&none, WEB, "10.0.0.1", 80).verdict.to_string(),
            "denied: ALLOW policies concern the pod, and none of them matches"
        );
    }
}
