//! From what is written to what layer 4 can decide.
//!
//! What only HTTP knows fails safe, as Istio has it for TCP: a rule of an ALLOW policy that speaks of it matches
//! nothing; other policies' rules match without it, and so match more.

use super::written::{
    Account, Block, Condition as Written, List, Operation, Port, Rule as WrittenRule, Source, Text, Values,
    Written as WrittenPolicy, WrittenAction,
};
use crate::mesh::{Action, Condition, Policy, PolicyName, Principals, Rule, Test};

/// Istio's annotation for a dry run, and what means so in it.
pub const DRY_RUN: &str = "istio.io/dry-run";
const YES: [&str; 6] = ["1", "t", "T", "true", "True", "TRUE"];

/// Whether the annotation's value means a dry run.
pub fn is_dry_run(value: &str) -> bool {
    YES.contains(&value)
}

pub(super) fn compile(written: &WrittenPolicy) -> Policy {
    let (metadata, spec) = (&written.metadata, &written.spec);
    let action = match spec.action {
        WrittenAction::Allow => Action::Allow,
        WrittenAction::Deny => Action::Deny,
        WrittenAction::Audit => Action::Audit,
        WrittenAction::Custom => Action::Custom,
    };
    let mut http_fields = Vec::new();
    let mut rules = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let mut compiler = Compiler { namespace: metadata.namespace(), http_fields: Vec::new() };
        let compiled = compiler.rule(index, rule);
        if action != Action::Allow || compiler.http_fields.is_empty() {
            rules.push(compiled);
        }
        http_fields.append(&mut compiler.http_fields);
    }
    Policy {
        name: PolicyName { namespace: metadata.namespace().to_owned(), name: metadata.name.clone() },
        action,
        dry_run: metadata.annotations.get(DRY_RUN).is_some_and(|value| is_dry_run(value)),
        rules,
        http_fields,
        warnings: super::never::warnings(written),
        provider: spec.provider.as_ref().map(|provider| provider.name.clone()),
        stands_in: None,
    }
}

/// Compiles one rule, and notes what of it only HTTP has.
struct Compiler<'a> {
    /// The policy's own.
    namespace: &'a str,
    http_fields: Vec<String>,
}

impl Compiler<'_> {
    fn rule(&mut self, index: usize, rule: &WrittenRule) -> Rule {
        let path = format!("spec.rules[{index}]");
        let from = rule.from.iter().enumerate();
        let from = from.map(|(i, from)| self.source(&from.source, &format!("{path}.from[{i}].source")));
        let from = from.collect();
        let to = rule.to.iter().enumerate();
        let to = to.map(|(i, to)| self.operation(&to.operation, &format!("{path}.to[{i}].operation")));
        let to = to.collect();
        let when = rule.when.iter().enumerate();
        let when = when.filter_map(|(i, condition)| self.condition(condition, &format!("{path}.when[{i}]")));
        let when = when.collect();
        Rule { index, from, to, when }
    }

    fn source(&mut self, source: &Source, path: &str) -> Vec<Condition> {
        self.http(path, "requestPrincipals", &source.request_principals);
        self.http(path, "notRequestPrincipals", &source.not_request_principals);
        let conditions = [
            test(&source.principals, &source.not_principals, texts).map(principal),
            test(&source.namespaces, &source.not_namespaces, texts).map(Condition::SourceNamespace),
            self.accounts(&source.service_accounts, &source.not_service_accounts),
            test(&source.trust_domains, &source.not_trust_domains, texts).map(Condition::SourceTrustDomain),
            test(&source.ip_blocks, &source.not_ip_blocks, networks).map(Condition::SourceAddress),
            // At layer 4 nobody but the source itself says where a connection comes from.
            test(&source.remote_ip_blocks, &source.not_remote_ip_blocks, networks)
                .map(Condition::SourceAddress),
        ];
        conditions.into_iter().flatten().collect()
    }

    fn operation(&mut self, operation: &Operation, path: &str) -> Vec<Condition> {
        self.http(path, "hosts", &operation.hosts);
        self.http(path, "notHosts", &operation.not_hosts);
        self.http(path, "methods", &operation.methods);
        self.http(path, "notMethods", &operation.not_methods);
        self.http(path, "paths", &operation.paths);
        self.http(path, "notPaths", &operation.not_paths);
        test(&operation.ports, &operation.not_ports, ports)
            .map(Condition::DestinationPort)
            .into_iter()
            .collect()
    }

    fn condition(&mut self, condition: &Written, path: &str) -> Option<Condition> {
        match condition {
            Written::SourceIp(v) | Written::RemoteIp(v) => values(v, networks).map(Condition::SourceAddress),
            Written::SourceNamespace(v) => values(v, texts).map(Condition::SourceNamespace),
            Written::SourcePrincipal(v) => values(v, texts).map(principal),
            Written::SourceServiceAccount(v) => self.accounts(&v.values, &v.not_values),
            Written::SourceTrustDomain(v) => values(v, texts).map(Condition::SourceTrustDomain),
            Written::DestinationIp(v) => values(v, networks).map(Condition::DestinationAddress),
            Written::DestinationPort(v) => values(v, ports).map(Condition::DestinationPort),
            Written::Http => {
                self.http_fields.push(path.to_owned());
                None
            }
        }
    }

    fn accounts(&self, values: &List<Account>, not_values: &List<Account>) -> Option<Condition> {
        let name = |account: &Account| {
            let namespace = account.namespace.as_deref().unwrap_or(self.namespace);
            format!("{namespace}/{}", account.name)
        };
        let names = |list: &List<Account>| {
            let names: Vec<String> = list.0.iter().map(name).collect();
            names.iter().map(String::as_str).collect()
        };
        test(values, not_values, names).map(Condition::SourceServiceAccount)
    }

    fn http<T>(&mut self, path: &str, field: &str, list: &List<T>) {
        if !list.is_empty() {
            self.http_fields.push(format!("{path}.{field}"));
        }
    }
}

fn principal(test: Test<Principals>) -> Condition {
    Condition::SourcePrincipal(Box::new(test))
}

/// Nothing, where neither list says anything.
fn test<T, S>(values: &List<T>, not_values: &List<T>, set: impl Fn(&List<T>) -> S) -> Option<Test<S>> {
    let given = |list: &List<T>| (!list.is_empty()).then(|| set(list));
    match (given(values), given(not_values)) {
        (None, None) => None,
        (values, not_values) => Some(Test { values, not_values }),
    }
}

fn values<T, S>(of: &Values<T>, set: impl Fn(&List<T>) -> S) -> Option<Test<S>> {
    test(&of.values, &of.not_values, set)
}

fn texts<S: for<'a> FromIterator<&'a str>>(list: &List<Text>) -> S {
    list.0.iter().map(|text| text.0.as_str()).collect()
}

fn networks<S: FromIterator<ipnet::IpNet>>(list: &List<Block>) -> S {
    list.0.iter().map(|block| block.0).collect()
}

fn ports<S: FromIterator<u16>>(list: &List<Port>) -> S {
    list.0.iter().map(|port| port.0).collect()
}
