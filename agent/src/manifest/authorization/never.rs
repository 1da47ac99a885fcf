//! What of an AuthorizationPolicy can never match. Its meaning stays what Istio means: people are warned, because an ALLOW
//! rule that never matches closes a pod, and a DENY rule that never matches leaves it open.
//!
//! Only what is certain is said: that nothing is found here does not mean that something matches.

use super::pattern::{self, Never, Pattern};
use super::written::{
    Account, Block, Condition, List, Operation, Port, Rule, Source, Text, Values, Written, WrittenAction,
};
use crate::mesh::{Networks, Warning};
use std::net::IpAddr;

pub(super) fn warnings(written: &Written) -> Vec<Warning> {
    let (spec, namespace) = (&written.spec, written.metadata.namespace());
    let mut search = Search { namespace, found: Vec::new(), budget: BUDGET };
    if spec.has_target() {
        return Vec::new();
    }
    for (key, value) in &spec.selector.match_labels {
        if let Err(never) = pattern::label(key, value) {
            search.say(
                format!("spec.selector.matchLabels.{key}"),
                format!("selects no pod: {}", never.why),
                &never,
            );
        }
    }
    let rules = spec.rules.iter().enumerate();
    let dead: Vec<Option<Dead>> =
        rules.map(|(i, rule)| search.rule(rule, &format!("spec.rules[{i}]"))).collect();
    let consequence = match spec.action {
        WrittenAction::Allow => "the policy lets nobody in, and closes the pods that it selects",
        WrittenAction::Deny | WrittenAction::Custom => "the policy denies nothing",
        WrittenAction::Audit => "the policy marks nothing",
    };
    match (all(dead.iter().cloned()), spec.rules.is_empty(), spec.action) {
        // It is how a policy says that nobody may come in.
        (_, true, WrittenAction::Allow) => {}
        (_, true, _) => {
            search.conclude("spec.rules", format!("there are none, so {consequence}"), Vec::new());
        }
        (Some(dead), ..) => {
            search.conclude("spec.rules", format!("none can ever match, so {consequence}"), dead);
        }
        (None, ..) => {
            for (i, dead) in dead.into_iter().enumerate() {
                if let Some(dead) = dead {
                    let message = "the rule can never match".to_owned();
                    search.say_unless(&format!("spec.rules[{i}]"), message, dead);
                }
            }
        }
    }
    search.found
}

/// Something never matches, unless one of these is a trust domain of the mesh.
type Dead = Vec<String>;

/// A list of a source, an operation or a condition, and the list of what it leaves out.
struct Part<'a, T> {
    path: String,
    name: &'static str,
    values: &'a List<T>,
    nots: &'a List<T>,
}

/// The parts of one source or operation, with those of the rule's conditions.
#[derive(Default)]
struct Parts<'a> {
    principals: Vec<Part<'a, Text>>,
    namespaces: Vec<Part<'a, Text>>,
    accounts: Vec<Part<'a, Account>>,
    trust_domains: Vec<Part<'a, Text>>,
    sources: Vec<Part<'a, Block>>,
    destinations: Vec<Part<'a, Block>>,
    ports: Vec<Part<'a, Port>>,
}

struct Search<'a> {
    namespace: &'a str,
    found: Vec<Warning>,
    /// How many comparisons are left: a policy may be as large as an object of the API server can be, and many people write some.
    budget: usize,
}

const BUDGET: usize = 200_000;

/// As many details are kept of one policy.
const MOST: usize = 100;

impl<'a> Search<'a> {
    fn rule(&mut self, rule: &'a Rule, path: &str) -> Option<Dead> {
        let mut when = Parts::default();
        for (i, condition) in rule.when.iter().enumerate() {
            when.condition(condition, &format!("{path}.when[{i}]"));
        }
        let conditions = self.parts(&when, &Parts::default(), path);
        let sources = rule.from.iter().enumerate().map(|(i, from)| {
            let path = format!("{path}.from[{i}].source");
            self.parts(&Parts::of_source(&from.source, &path), &when, &path)
        });
        let sources: Vec<_> = sources.collect();
        let operations = rule.to.iter().enumerate().map(|(i, to)| {
            let path = format!("{path}.to[{i}].operation");
            self.parts(&Parts::of_operation(&to.operation, &path), &when, &path)
        });
        let operations: Vec<_> = operations.collect();
        any([conditions, all(sources.into_iter()), all(operations.into_iter())])
    }

    /// Whether these can all hold, together with those of the conditions.
    fn parts(&mut self, parts: &Parts<'a>, when: &Parts<'a>, path: &str) -> Option<Dead> {
        let namespace = self.namespace;
        let meets = |a: &Text, b: &Text| pattern(a).meets(pattern(b));
        let covers = |a: &Text, b: &Text| pattern(a).covers(pattern(b));
        let same = |a: &Account, b: &Account| full(a, namespace) == full(b, namespace);
        let dead = [
            self.each(&parts.principals, |text| pattern::principal(&text.0), covers),
            self.each(&parts.namespaces, |text| pattern::namespace(&text.0), covers),
            self.each(
                &parts.accounts,
                |account| pattern::service_account(account.namespace.as_deref(), &account.name),
                same,
            ),
            self.each(&parts.trust_domains, |text| pattern::trust_domain(&text.0), covers),
            self.each(&parts.sources, is_anybodys, |a, b| a.0.contains(&b.0)),
            self.each(&parts.destinations, is_anybodys, |a, b| a.0.contains(&b.0)),
            self.each(&parts.ports, |_| Ok(()), |a, b| a.0 == b.0),
            self.together(&parts.principals, &when.principals, meets, path),
            self.together(&parts.namespaces, &when.namespaces, meets, path),
            self.together(&parts.accounts, &when.accounts, same, path),
            self.together(&parts.trust_domains, &when.trust_domains, meets, path),
            self.together(&parts.sources, &when.sources, overlap, path),
            self.together(&parts.destinations, &when.destinations, overlap, path),
            self.together(&parts.ports, &when.ports, |a, b| a.0 == b.0, path),
            self.principals_and_namespaces(parts, when, path),
        ];
        any(dead)
    }

    /// Looks at each value alone, and whether what is left out leaves any of it.
    fn each<T: Listed>(
        &mut self,
        parts: &[Part<'a, T>],
        shape: impl Fn(&T) -> Result<(), Never>,
        covers: impl Fn(&T, &T) -> bool,
    ) -> Option<Dead> {
        let mut dead = None;
        for part in parts {
            let Part { path, name, values, nots } = part;
            let not = not_name(name);
            for (i, value) in nots.0.iter().enumerate() {
                if let Err(never) = shape(value) {
                    let message = format!("{} excludes nobody: {}", value.text(), never.why);
                    self.say(format!("{path}.{not}[{i}]"), message, &never);
                }
            }
            let is_affordable = self.affords(T::comparisons(values.0.len(), nots.0.len()));
            let left_out = is_affordable.then(|| T::left_out(&nots.0, &covers));
            let left_out = |value: &T| left_out.as_ref().is_some_and(|left_out| left_out(value));
            let mut lives = Vec::new();
            for (i, value) in values.0.iter().enumerate() {
                let field = format!("{path}.{name}[{i}]");
                lives.push(match shape(value) {
                    Err(never) => {
                        self.say(field, format!("{} matches nobody: {}", value.text(), never.why), &never);
                        Some(never.unless.into_iter().collect())
                    }
                    Ok(()) if left_out(value) => {
                        let message = format!("{} matches nobody: {not} leaves out all of it", value.text());
                        self.say_unless(&field, message, Vec::new());
                        Some(Vec::new())
                    }
                    Ok(()) => None,
                });
            }
            dead = any([dead, all(lives.into_iter())]);
        }
        dead
    }

    /// Whether lists of one attribute that all have to hold have anything in common.
    fn together<T>(
        &mut self,
        parts: &[Part<'a, T>],
        when: &[Part<'a, T>],
        meet: impl Fn(&T, &T) -> bool,
        path: &str,
    ) -> Option<Dead> {
        let all: Vec<&Part<'a, T>> = parts.iter().chain(when).collect();
        // Two conditions are looked at once, not for each source.
        let pairs = (0..parts.len()).flat_map(|i| (i + 1..all.len()).map(move |j| (i, j)));
        for (i, j) in pairs {
            let (a, b) = (all[i], all[j]);
            if !self.affords(a.values.0.len() * b.values.0.len() + 1) {
                return None;
            }
            let both_given = !a.values.is_empty() && !b.values.is_empty();
            if both_given && !a.values.0.iter().any(|x| b.values.0.iter().any(|y| meet(x, y))) {
                let message = format!(
                    "{} and {} have nothing in common, and both have to hold",
                    a.full_name(),
                    b.full_name()
                );
                self.say_unless(path, message, Vec::new());
                return Some(Vec::new());
            }
        }
        None
    }

    /// An identity has one namespace.
    fn principals_and_namespaces(&mut self, parts: &Parts<'a>, when: &Parts<'a>, path: &str) -> Option<Dead> {
        let principals = parts.principals.iter().chain(&when.principals);
        let pairs = principals.flat_map(|principals| {
            let namespaces = parts.namespaces.iter().chain(&when.namespaces);
            namespaces.map(move |namespaces| (principals, namespaces))
        });
        for (principals, namespaces) in pairs {
            if !self.affords(principals.values.0.len() * namespaces.values.0.len() + 1) {
                return None;
            }
            let is_elsewhere = |text: &Text| {
                let own = pattern::namespace_of(&text.0).filter(|own| !own.contains('*'));
                own.is_some_and(|own| {
                    !namespaces.values.0.iter().any(|listed| pattern(listed).covers(Pattern::Exact(own)))
                })
            };
            let both_given = !principals.values.is_empty() && !namespaces.values.is_empty();
            if both_given && principals.values.0.iter().all(is_elsewhere) {
                let (a, b) = (principals.full_name(), namespaces.full_name());
                let message = format!("the namespaces of {a} are none of {b}, and both have to hold");
                self.say_unless(path, message, Vec::new());
                return Some(Vec::new());
            }
        }
        None
    }

    /// Whether so many comparisons are left; they are spent then.
    fn affords(&mut self, comparisons: usize) -> bool {
        let left = self.budget.checked_sub(comparisons);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }

    fn say(&mut self, field: String, message: String, never: &Never) {
        self.say_unless(&field, message, never.unless.iter().cloned().collect());
    }

    fn say_unless(&mut self, field: &str, message: String, unless: Dead) {
        if self.found.len() < MOST {
            self.found.push(Warning { field: field.to_owned(), message, unless });
        }
    }

    /// What matters most comes first.
    fn conclude(&mut self, field: &str, message: String, unless: Dead) {
        self.found.insert(0, Warning { field: field.to_owned(), message, unless });
    }
}

impl<'a> Parts<'a> {
    fn of_source(source: &'a Source, path: &str) -> Self {
        fn part<'a, T>(
            path: &str,
            name: &'static str,
            values: &'a List<T>,
            nots: &'a List<T>,
        ) -> Vec<Part<'a, T>> {
            vec![Part { path: path.to_owned(), name, values, nots }]
        }
        let mut sources = part(path, "ipBlocks", &source.ip_blocks, &source.not_ip_blocks);
        sources.extend(part(path, "remoteIpBlocks", &source.remote_ip_blocks, &source.not_remote_ip_blocks));
        Self {
            principals: part(path, "principals", &source.principals, &source.not_principals),
            namespaces: part(path, "namespaces", &source.namespaces, &source.not_namespaces),
            accounts: part(path, "serviceAccounts", &source.service_accounts, &source.not_service_accounts),
            trust_domains: part(path, "trustDomains", &source.trust_domains, &source.not_trust_domains),
            sources,
            ..Self::default()
        }
    }

    fn of_operation(operation: &'a Operation, path: &str) -> Self {
        let (values, nots) = (&operation.ports, &operation.not_ports);
        Self { ports: vec![Part { path: path.to_owned(), name: "ports", values, nots }], ..Self::default() }
    }

    fn condition(&mut self, condition: &'a Condition, path: &str) {
        fn part<'a, T>(path: &str, Values { values, not_values: nots }: &'a Values<T>) -> Part<'a, T> {
            Part { path: path.to_owned(), name: "values", values, nots }
        }
        match condition {
            Condition::SourceIp(v) | Condition::RemoteIp(v) => self.sources.push(part(path, v)),
            Condition::SourceNamespace(v) => self.namespaces.push(part(path, v)),
            Condition::SourcePrincipal(v) => self.principals.push(part(path, v)),
            Condition::SourceServiceAccount(v) => self.accounts.push(part(path, v)),
            Condition::SourceTrustDomain(v) => self.trust_domains.push(part(path, v)),
            Condition::DestinationIp(v) => self.destinations.push(part(path, v)),
            Condition::DestinationPort(v) => self.ports.push(part(path, v)),
            Condition::Http => {}
        }
    }
}

impl<T> Part<'_, T> {
    fn full_name(&self) -> String {
        format!("{}.{}", self.path, self.name)
    }
}

/// A value of a list, as people wrote it.
trait Listed: Sized {
    fn text(&self) -> String;

    /// Whether these leave nothing of a value.
    fn left_out<'n>(
        nots: &'n [Self],
        covers: &'n impl Fn(&Self, &Self) -> bool,
    ) -> Box<dyn Fn(&Self) -> bool + 'n> {
        Box::new(move |value| nots.iter().any(|not| covers(not, value)))
    }

    /// How much work that is for all values.
    fn comparisons(values: usize, nots: usize) -> usize {
        values * nots
    }
}

impl Listed for Text {
    fn text(&self) -> String {
        format!("{:?}", self.0)
    }
}

impl Listed for Account {
    fn text(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("\"{namespace}/{}\"", self.name),
            None => format!("{:?}", self.name),
        }
    }
}

impl Listed for Port {
    fn text(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl Listed for Block {
    fn text(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// Several networks may leave out together what none leaves out alone.
    fn left_out<'n>(
        nots: &'n [Self],
        _: &'n impl Fn(&Self, &Self) -> bool,
    ) -> Box<dyn Fn(&Self) -> bool + 'n> {
        let out: Networks = nots.iter().map(|not| not.0).collect();
        Box::new(move |value| {
            let one = Networks::from_iter([value.0]);
            one.iter().all(|one| out.holding(one.network()).is_some_and(|out| out.contains(&one)))
        })
    }

    fn comparisons(values: usize, nots: usize) -> usize {
        values + nots
    }
}

fn not_name(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    format!("not{}{}", first.unwrap_or_default(), letters.as_str())
}

fn pattern(text: &Text) -> Pattern<'_> {
    Pattern::new(&text.0)
}

fn full<'a>(account: &'a Account, namespace: &'a str) -> (&'a str, &'a str) {
    (account.namespace.as_deref().unwrap_or(namespace), &account.name)
}

fn overlap(a: &Block, b: &Block) -> bool {
    let networks = |block: &Block| Networks::from_iter([block.0]);
    let (a, b) = (networks(a), networks(b));
    a.iter().any(|a| b.iter().any(|b| a.contains(&b) || b.contains(&a)))
}

/// Whether any connection that comes to a pod may have such an address.
fn is_anybodys(block: &Block) -> Result<(), Never> {
    let networks = Networks::from_iter([block.0]);
    let is_special = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_unspecified(),
    };
    // Of a loopback or multicast network both ends are such addresses; of 0.0.0.0/0 only one is.
    match networks.iter().all(|network| is_special(network.network()) && is_special(network.broadcast())) {
        true => Err(Never {
            why: "no connection to a pod comes from or goes to a loopback, multicast or unspecified address"
                .to_owned(),
            unless: None,
        }),
        false => Ok(()),
    }
}

/// What has to match as a whole never does where one part never does.
fn any(parts: impl IntoIterator<Item = Option<Dead>>) -> Option<Dead> {
    parts.into_iter().flatten().min_by_key(Vec::len)
}

/// What matches by any of its parts never does where none of them does; without parts it matches everything.
fn all(parts: impl ExactSizeIterator<Item = Option<Dead>>) -> Option<Dead> {
    if parts.len() == 0 {
        return None;
    }
    let dead: Option<Vec<Dead>> = parts.collect();
    dead.map(|dead| dead.concat())
}
