//! Random policies, pods and connections, of alphabets small enough that they often have to do with each other.

use crate::world::{Connection, Identity, Pod, World};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const ROOT: &str = "mesh";
/// One begins as another does, for patterns to tell apart.
const NAMESPACES: [&str; 3] = ["shop", "shop-lab", "bank"];
const SERVICE_ACCOUNTS: [&str; 4] = ["web", "web-admin", "admin", "db"];
const TRUST_DOMAINS: [&str; 3] = ["cluster.local", "new-td", "old-td"];
const PORTS: [u16; 4] = [80, 81, 443, 8080];
const V4: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.168.0.1"];
const V6: [&str; 4] = ["fd00::1", "fd00::2", "fd00:0:1::1", "2001:db8::1"];
/// Nested, of both families, one of them with bits of a host.
const BLOCKS: [&str; 16] = [
    "10.0.0.1",
    "10.0.0.2/32",
    "10.0.0.0/30",
    "10.0.0.0/24",
    "10.0.7.7/16",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "0.0.0.0/0",
    "fd00::1",
    "fd00:0:0::2/128",
    "fd00::/126",
    "fd00::/64",
    "fd00::/32",
    "fc00::/7",
    "2001:db8::/32",
    "::/0",
];
/// Fields of HTTP only, and a value that each may have.
const HTTP_OPERATION: [(&str, &str); 3] = [("hosts", "*.example"), ("methods", "GET"), ("paths", "/info*")];
const UNKNOWN_KEYS: [&str; 6] = [
    "request.headers[version]",
    "request.auth.claims[iss]",
    "request.auth.principal",
    "request.auth.audiences",
    "connection.sni",
    "experimental.envoy.filters.network.mysql_proxy[db.table]",
];

/// Makes the same things again from the same seed.
pub struct Maker(StdRng);

impl Maker {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn world(&mut self) -> World {
        let mut domains = TRUST_DOMAINS.map(str::to_owned).to_vec();
        domains.shuffle(&mut self.0);
        domains.truncate(self.0.random_range(1..=3));
        let pod = Pod {
            namespace: self.rarely(ROOT, &NAMESPACES),
            labels: self.labels(),
            addresses: [self.pick(&V4), self.pick(&V6)].map(|address| address.parse().unwrap()).to_vec(),
        };
        // Names are not in the order in which policies stand.
        let mut names = ["a", "b", "c", "d", "e", "f"];
        names.shuffle(&mut self.0);
        let policies = self.0.random_range(0..=5);
        let mut policies: Vec<_> = names[..policies].iter().map(|name| self.policy(name, &pod)).collect();
        for name in ["x", "y", "z"] {
            if self.chance(0.15) {
                policies.push(self.peer_authentication(name, &pod));
            }
        }
        World { root_namespace: ROOT.to_owned(), trust_domains: domains, pod, policies }
    }

    pub fn connection(&mut self, world: &World) -> Connection {
        let to = self.pick(&world.pod.addresses);
        let source: IpAddr = self.pick(if to.is_ipv4() { &V4[..] } else { &V6[..] }).parse().unwrap();
        let identity = self.chance(0.8).then(|| Identity {
            trust_domain: match self.chance(0.7) {
                true => self.pick(&world.trust_domains),
                false => self.pick(&TRUST_DOMAINS).to_owned(),
            },
            namespace: self.rarely(ROOT, &NAMESPACES),
            service_account: self.pick(&SERVICE_ACCOUNTS).to_owned(),
        });
        Connection { source, identity, destination: SocketAddr::new(to, self.pick(&PORTS)) }
    }

    fn policy(&mut self, name: &str, pod: &Pod) -> Value {
        let namespace = match self.0.random_range(0..10) {
            0..6 => pod.namespace.clone(),
            6..9 => ROOT.to_owned(),
            _ => self.pick(&NAMESPACES).to_owned(),
        };
        let mut metadata = json!({"name": name, "namespace": namespace});
        if self.chance(0.15) {
            metadata["annotations"] = json!({"istio.io/dry-run": self.pick(&["true", "true", "false"])});
        }
        let mut spec = Map::new();
        match self.0.random_range(0..20) {
            0..6 => _ = spec.insert("action".into(), "ALLOW".into()),
            6..10 => {}
            10..16 => _ = spec.insert("action".into(), "DENY".into()),
            16..18 => _ = spec.insert("action".into(), "AUDIT".into()),
            _ => {
                spec.insert("action".into(), "CUSTOM".into());
                spec.insert("provider".into(), json!({"name": "oracle"}));
            }
        }
        match self.0.random_range(0..20) {
            0..12 => {}
            12..19 => _ = spec.insert("selector".into(), json!({"matchLabels": self.labels()})),
            _ => {
                let waypoint =
                    json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"});
                match self.chance(0.5) {
                    true => spec.insert("targetRef".into(), waypoint),
                    false => spec.insert("targetRefs".into(), json!([waypoint])),
                };
            }
        }
        match self.0.random_range(0..20) {
            0 => {}
            1 => _ = spec.insert("rules".into(), json!([])),
            _ => {
                let rules: Vec<_> = (0..self.0.random_range(1..=3)).map(|_| self.rule()).collect();
                spec.insert("rules".into(), rules.into());
            }
        }
        let version = self.pick(&["security.istio.io/v1", "security.istio.io/v1beta1"]);
        json!({"apiVersion": version, "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec})
    }

    fn peer_authentication(&mut self, name: &str, pod: &Pod) -> Value {
        let namespace = if self.chance(0.6) { pod.namespace.clone() } else { ROOT.to_owned() };
        let made = format!("2026-01-0{}T00:00:00Z", self.0.random_range(1..=3));
        let mut spec = json!({"mtls": {"mode": self.mode()}});
        if self.chance(0.6) {
            spec["selector"] = json!({"matchLabels": self.labels()});
            spec["portLevelMtls"] = json!({self.pick(&PORTS).to_string(): {"mode": self.mode()}});
        }
        json!({
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": made},
            "spec": spec,
        })
    }

    fn mode(&mut self) -> &'static str {
        self.pick(&["STRICT", "STRICT", "PERMISSIVE", "DISABLE", "UNSET"])
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([("app".to_owned(), self.pick(&["cart", "db"]).to_owned())]);
        if self.chance(0.4) {
            labels.insert("version".to_owned(), self.pick(&["v1", "v2"]).to_owned());
        }
        labels
    }

    fn rule(&mut self) -> Value {
        let mut rule = Map::new();
        if self.chance(0.6) {
            let from: Vec<_> = (0..self.few()).map(|_| json!({"source": self.source()})).collect();
            rule.insert("from".into(), from.into());
        }
        if self.chance(0.4) {
            let to: Vec<_> = (0..self.few()).map(|_| json!({"operation": self.operation()})).collect();
            rule.insert("to".into(), to.into());
        }
        if self.chance(0.25) {
            let when: Vec<_> = (0..self.few()).map(|_| self.condition()).collect();
            rule.insert("when".into(), when.into());
        }
        rule.into()
    }

    fn source(&mut self) -> Value {
        let mut fields = Map::new();
        for _ in 0..self.few() {
            let (field, values) = match self.0.random_range(0..20) {
                0..5 => ("principals", self.values(Self::principal)),
                5..9 => ("namespaces", self.values(Self::namespace)),
                9..11 => ("serviceAccounts", self.values(Self::service_account)),
                11..13 => ("trustDomains", self.values(Self::trust_domain)),
                13..17 => ("ipBlocks", self.values(Self::block)),
                17..19 => ("remoteIpBlocks", self.values(Self::block)),
                _ => ("requestPrincipals", json!(["issuer.example/*"])),
            };
            // Istio refuses service accounts beside what they are part of.
            let both = |fields: &Map<String, Value>, names: &[&str]| {
                fields.keys().any(|key| names.iter().any(|name| key.to_lowercase().ends_with(name)))
            };
            let refused = match field {
                "serviceAccounts" => both(&fields, &["namespaces", "principals"]),
                "principals" | "namespaces" => both(&fields, &["serviceaccounts"]),
                _ => false,
            };
            if !refused {
                fields.insert(self.negated(field), values);
            }
        }
        fields.into()
    }

    fn operation(&mut self) -> Value {
        let mut fields = Map::new();
        let http = self.chance(0.12);
        if http {
            let (field, value) = self.pick(&HTTP_OPERATION);
            fields.insert(self.negated(field), json!([value]));
        }
        if !http || self.chance(0.5) {
            let ports = self.values(|maker| maker.pick(&PORTS).to_string());
            fields.insert(self.negated("ports"), ports);
            if self.chance(0.1) {
                // An empty list says nothing.
                fields.entry("methods").or_insert(json!([]));
            }
        }
        fields.into()
    }

    fn condition(&mut self) -> Value {
        let (key, values): (_, fn(&mut Self) -> String) = match self.0.random_range(0..16) {
            0..3 => ("source.principal", Self::principal),
            3..6 => ("source.namespace", Self::namespace),
            6 => ("source.serviceAccount", Self::service_account),
            7..9 => ("source.ip", Self::block),
            9 => ("remote.ip", Self::block),
            10..12 => ("destination.ip", Self::block),
            12..15 => ("destination.port", |maker| maker.pick(&PORTS).to_string()),
            _ => (self.pick(&UNKNOWN_KEYS), |_| "x".to_owned()),
        };
        let mut condition = json!({"key": key});
        let which = self.0.random_range(0..5);
        if which != 0 {
            condition["values"] = self.values(values);
        }
        if which < 2 {
            condition["notValues"] = self.values(values);
        }
        condition
    }

    fn principal(&mut self) -> String {
        let [domain, namespace, account] = [&TRUST_DOMAINS[..], &NAMESPACES, &SERVICE_ACCOUNTS]
            .map(|words| words.choose(&mut self.0).unwrap().to_string());
        let whole = format!("{domain}/ns/{namespace}/sa/{account}");
        match self.0.random_range(0..20) {
            0..10 => whole,
            10..12 => format!("*/ns/{namespace}/sa/{account}"),
            12..13 => format!("*-td/ns/{namespace}/sa/{account}"),
            13..18 => self.cut(&whole),
            18 => format!("{namespace}/sa/{account}"),
            _ => "*".to_owned(),
        }
    }

    fn namespace(&mut self) -> String {
        let namespace = self.rarely(ROOT, &NAMESPACES);
        self.pattern(&namespace)
    }

    fn service_account(&mut self) -> String {
        let account = self.pick(&SERVICE_ACCOUNTS);
        match self.chance(0.5) {
            true => account.to_owned(),
            false => format!("{}/{account}", self.pick(&NAMESPACES)),
        }
    }

    fn trust_domain(&mut self) -> String {
        let domain = self.pick(&TRUST_DOMAINS);
        self.pattern(domain)
    }

    fn block(&mut self) -> String {
        self.pick(&BLOCKS).to_owned()
    }

    fn pattern(&mut self, word: &str) -> String {
        match self.0.random_range(0..10) {
            0..6 => word.to_owned(),
            6..9 => self.cut(word),
            _ => "*".to_owned(),
        }
    }

    /// What a word begins or ends with, down to half of it, and a star.
    fn cut(&mut self, word: &str) -> String {
        let kept = self.0.random_range(word.len().div_ceil(2)..=word.len());
        match self.chance(0.5) {
            true => format!("{}*", &word[..kept]),
            false => format!("*{}", &word[word.len() - kept..]),
        }
    }

    fn values(&mut self, mut value: impl FnMut(&mut Self) -> String) -> Value {
        let values: Vec<_> = (0..self.few()).map(|_| value(self)).collect();
        values.into()
    }

    /// A field, or now and then its opposite.
    fn negated(&mut self, field: &str) -> String {
        if self.chance(0.7) {
            return field.to_owned();
        }
        let (first, rest) = field.split_at(1);
        format!("not{}{rest}", first.to_uppercase())
    }

    /// One, or a few more.
    fn few(&mut self) -> usize {
        self.pick(&[1, 1, 1, 2, 2, 3])
    }

    fn chance(&mut self, p: f64) -> bool {
        self.0.random_bool(p)
    }

    fn rarely(&mut self, other: &str, usual: &[&str]) -> String {
        if self.chance(0.08) { other.to_owned() } else { self.pick(usual).to_owned() }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.0).unwrap().clone()
    }
}
