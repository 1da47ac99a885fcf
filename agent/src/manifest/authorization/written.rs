//! An AuthorizationPolicy as it is written. A field that is not known, or cannot mean anything, is an error: it may be a
//! mistyped one that was to keep somebody out.

use crate::manifest::metadata::Metadata;
use crate::manifest::null::null_as_default;
use crate::manifest::selector::WorkloadSelector;
use ipnet::IpNet;
use serde::de::{Error, IgnoredAny};
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;

#[derive(Deserialize)]
pub(super) struct Written {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "null_as_default")]
    pub spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    #[serde(default, deserialize_with = "null_as_default")]
    pub selector: WorkloadSelector,
    target_ref: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "null_as_default")]
    target_refs: Vec<IgnoredAny>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub action: WrittenAction,
    pub provider: Option<Provider>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum WrittenAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    pub name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(default, deserialize_with = "at_least_one")]
    pub from: Vec<From>,
    #[serde(default, deserialize_with = "at_least_one")]
    pub to: Vec<To>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub when: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    #[serde(deserialize_with = "source")]
    pub source: Source,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct To {
    #[serde(deserialize_with = "operation")]
    pub operation: Operation,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Source {
    pub principals: List<Text>,
    pub not_principals: List<Text>,
    pub request_principals: List<Text>,
    pub not_request_principals: List<Text>,
    pub namespaces: List<Text>,
    pub not_namespaces: List<Text>,
    pub service_accounts: List<Account>,
    pub not_service_accounts: List<Account>,
    pub trust_domains: List<Text>,
    pub not_trust_domains: List<Text>,
    pub ip_blocks: List<Block>,
    pub not_ip_blocks: List<Block>,
    pub remote_ip_blocks: List<Block>,
    pub not_remote_ip_blocks: List<Block>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Operation {
    pub hosts: List<Text>,
    pub not_hosts: List<Text>,
    pub ports: List<Port>,
    pub not_ports: List<Port>,
    pub methods: List<Text>,
    pub not_methods: List<Text>,
    pub paths: List<Plain>,
    pub not_paths: List<Plain>,
}

/// A condition of `when`: an attribute's name decides what its values have to be.
#[derive(Deserialize)]
#[serde(try_from = "WrittenCondition")]
pub(super) enum Condition {
    SourceIp(Values<Block>),
    RemoteIp(Values<Block>),
    SourceNamespace(Values<Text>),
    SourcePrincipal(Values<Text>),
    SourceServiceAccount(Values<Account>),
    SourceTrustDomain(Values<Text>),
    DestinationIp(Values<Block>),
    DestinationPort(Values<Port>),
    /// Known only once somebody reads what the connection carries.
    Http,
}

pub(super) struct Values<T> {
    pub values: List<T>,
    pub not_values: List<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenCondition {
    key: String,
    #[serde(default, deserialize_with = "null_as_default")]
    values: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    not_values: Vec<String>,
}

/// A list that may be absent, `null` or empty: then it says nothing.
pub(super) struct List<T>(pub Vec<T>);

/// With a `*` at its beginning or at its end, if at all.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Text(pub String);

/// Not empty; what is in it is not for layer 4 to say.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Plain;

/// A network, or one address.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Block(pub IpNet);

/// From 1 to 65535, written as a text.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Port(pub u16);

/// A service account, with its namespace or in the policy's.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Account {
    pub namespace: Option<String>,
    pub name: String,
}

/// The most service accounts that Istio's API takes in one list.
const MOST_ACCOUNTS: usize = 16;

impl Spec {
    /// It is for gateways or waypoints, and no pod's business.
    pub fn has_target(&self) -> bool {
        self.target_ref.is_some() || !self.target_refs.is_empty()
    }
}

impl TryFrom<WrittenCondition> for Condition {
    type Error = String;

    fn try_from(written: WrittenCondition) -> Result<Self, String> {
        let WrittenCondition { key, values, not_values } = &written;
        if values.is_empty() && not_values.is_empty() {
            return Err(format!("key {key} has neither values nor notValues to be compared with"));
        }
        Ok(match key.as_str() {
            "source.ip" => Self::SourceIp(written.typed()?),
            "remote.ip" => Self::RemoteIp(written.typed()?),
            "source.namespace" => Self::SourceNamespace(written.typed()?),
            "source.principal" => Self::SourcePrincipal(written.typed()?),
            "source.serviceAccount" => Self::SourceServiceAccount(written.typed()?),
            "source.trustDomain" => Self::SourceTrustDomain(written.typed()?),
            "destination.ip" => Self::DestinationIp(written.typed()?),
            "destination.port" => Self::DestinationPort(written.typed()?),
            _ if is_http(key) => {
                let _: Values<Plain> = written.typed()?;
                Self::Http
            }
            _ => {
                return Err(format!(
                    "{key:?} is no key: use source.ip, source.namespace, source.principal, source.serviceAccount, \
                     source.trustDomain, remote.ip, destination.ip, destination.port, or one of Istio's for HTTP"
                ));
            }
        })
    }
}

/// Istio's other attributes. That of a connection's TLS, too, belongs to what the connection carries.
fn is_http(key: &str) -> bool {
    let in_brackets = |name: &str| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2)
    };
    ["request.auth.principal", "request.auth.audiences", "request.auth.presenter", "connection.sni"]
        .contains(&key)
        || ["request.headers", "request.auth.claims"].into_iter().any(in_brackets)
        || key.starts_with("experimental.envoy.filters.")
}

impl WrittenCondition {
    fn typed<T: TryFrom<String, Error = String>>(self) -> Result<Values<T>, String> {
        let read =
            |texts: Vec<String>| texts.into_iter().map(T::try_from).collect::<Result<Vec<T>, String>>();
        let error = |e: String| format!("key {}: {e}", self.key);
        Ok(Values {
            values: List(read(self.values).map_err(error)?),
            not_values: List(read(self.not_values).map_err(error)?),
        })
    }
}

impl<T> List<T> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        null_as_default(d).map(Self)
    }
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let stem = text.strip_prefix('*').or_else(|| text.strip_suffix('*')).unwrap_or(&text);
        match (text.is_empty(), stem.contains('*')) {
            (true, _) => Err("an empty text matches nothing; use * for any that is not empty".into()),
            (_, true) => Err(format!("{text:?} has a * that is neither its beginning nor its end alone")),
            (false, false) => Ok(Self(text)),
        }
    }
}

impl TryFrom<String> for Plain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() { Err("an empty text matches nothing".into()) } else { Ok(Self) }
    }
}

impl TryFrom<String> for Block {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
        let network = text.parse::<IpNet>().ok().or_else(address);
        network.map(Self).ok_or_else(|| format!("{text:?} is no address and no network like 10.0.0.0/8"))
    }
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let port = text.parse::<u16>().ok().filter(|port| *port != 0 && port.to_string() == text);
        port.map(Self).ok_or_else(|| format!("{text:?} is no port: use a number from 1 to 65535"))
    }
}

impl TryFrom<String> for Account {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text.as_str()),
        };
        let is_whole = |part: &str| !part.is_empty() && !part.contains(['/', '*']);
        if !is_whole(name) || !namespace.as_deref().is_none_or(is_whole) {
            return Err(format!(
                "{text:?} is no service account: write namespace/name, or name for one of the policy's namespace; no *"
            ));
        }
        Ok(Self { namespace, name: name.to_owned() })
    }
}

/// Absent is any; an empty list may have been meant as none.
fn at_least_one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    match Option::<Vec<T>>::deserialize(d)? {
        Some(list) if list.is_empty() => Err(D::Error::custom("is an empty list; leave it out to mean any")),
        list => Ok(list.unwrap_or_default()),
    }
}

fn source<'de, D: Deserializer<'de>>(d: D) -> Result<Source, D::Error> {
    let source = Source::deserialize(d)?;
    let accounts = [&source.service_accounts, &source.not_service_accounts];
    let names = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    if accounts.iter().any(|list| !list.is_empty()) && names.iter().any(|list| !list.is_empty()) {
        return Err(D::Error::custom(
            "has service accounts beside principals or namespaces; Istio takes one way only",
        ));
    }
    if accounts.iter().any(|list| list.0.len() > MOST_ACCOUNTS) {
        return Err(D::Error::custom(format!("has more than {MOST_ACCOUNTS} service accounts in one list")));
    }
    match source.is_empty() {
        true => Err(D::Error::custom("says nothing; leave `from` out to mean any source")),
        false => Ok(source),
    }
}

fn operation<'de, D: Deserializer<'de>>(d: D) -> Result<Operation, D::Error> {
    let operation = Operation::deserialize(d)?;
    match operation.is_empty() {
        true => Err(D::Error::custom("says nothing; leave `to` out to mean any operation")),
        false => Ok(operation),
    }
}

impl Source {
    fn is_empty(&self) -> bool {
        let texts = [
            &self.principals,
            &self.not_principals,
            &self.request_principals,
            &self.not_request_principals,
            &self.namespaces,
            &self.not_namespaces,
            &self.trust_domains,
            &self.not_trust_domains,
        ];
        let blocks =
            [&self.ip_blocks, &self.not_ip_blocks, &self.remote_ip_blocks, &self.not_remote_ip_blocks];
        texts.iter().all(|list| list.is_empty())
            && blocks.iter().all(|list| list.is_empty())
            && self.service_accounts.is_empty()
            && self.not_service_accounts.is_empty()
    }
}

impl Operation {
    fn is_empty(&self) -> bool {
        let texts = [&self.hosts, &self.not_hosts, &self.methods, &self.not_methods];
        texts.iter().all(|list| list.is_empty())
            && self.paths.is_empty()
            && self.not_paths.is_empty()
            && self.ports.is_empty()
            && self.not_ports.is_empty()
    }
}
