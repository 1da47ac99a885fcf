//! What policies say of plaintext, for every source there may be: the kernel looks it up, and evaluates nothing.

use super::authorize::{Connection, authorize};
use crate::mesh::{Authorization, Condition, Policy, Workload};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether a source may connect in plain: the longest prefix decides. `::/0` does not mean IPv4, and who is in no network may not:
/// what is worked out here has one for every address.
pub type SourceRules = BTreeMap<IpNet, bool>;

/// The rules of a pod's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaintextRules {
    pub default: SourceRules,
    /// Ports whose rules differ.
    pub ports: BTreeMap<u16, SourceRules>,
    /// Policies name more networks and ports than [`MOST_STEPS`] allows to work out: nobody may connect in plain.
    pub is_too_large: bool,
}

/// How much work the rules of one pod may be: the networks that its policies name, times the conditions that each is asked of
/// (or once more the networks, which are compared with each other), times the ports. A step takes some 50 ns at the most, and the
/// node's core takes them: 2,000 networks without ports are 0.2 s.
const MOST_STEPS: usize = 5_000_000;

/// `None` where policies let all plaintext in.
///
/// Nobody has proven who sends plaintext, so that policies can tell it by addresses and ports only. Between the networks
/// that they name, and between the ports, the answer is the same throughout: one address of each is asked for.
pub fn plaintext(pod: &Workload) -> Option<PlaintextRules> {
    let named = Named::by(&pod.authorization)?;
    if named.steps() > MOST_STEPS {
        let nobody = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())].map(|all| (all, false));
        return Some(PlaintextRules { default: nobody.into(), ports: BTreeMap::new(), is_too_large: true });
    }
    let samples = samples(&named.networks);
    let rules = |port: u16| {
        let may_connect = |source: IpAddr| {
            let unspecified =
                if source.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            let destination = SocketAddr::new(pod.address(source.is_ipv6()).unwrap_or(unspecified), port);
            authorize(&pod.authorization, &Connection { source, identity: None, destination }).is_allowed()
        };
        pruned(samples.iter().map(|(network, sample)| (*network, may_connect(*sample))).collect())
    };
    let other_port = (1..=u16::MAX).find(|port| !named.ports.contains(port)).unwrap_or(u16::MAX);
    let default = rules(other_port);
    let of_ports = named.ports.iter().map(|port| (*port, rules(*port)));
    let ports: BTreeMap<u16, SourceRules> = of_ports.filter(|(_, of_port)| *of_port != default).collect();
    let is_closed = ports.values().chain([&default]).any(|rules| rules.values().any(|allowed| !allowed));
    is_closed.then_some(PlaintextRules { default, ports, is_too_large: false })
}

/// Whether what [`plaintext`] says may be another for pods of other addresses.
pub fn asks_for_own_address(authorization: &Authorization) -> bool {
    let mut all = authorization.policies().iter().flat_map(|policy| conditions(policy));
    all.any(|condition| matches!(condition, Condition::DestinationAddress(_)))
}

/// What the policies in force name.
struct Named {
    networks: BTreeSet<IpNet>,
    ports: BTreeSet<u16>,
    /// How many conditions there are, whatever they name: each may be asked for each network and port.
    conditions: usize,
}

impl Named {
    fn by(authorization: &Authorization) -> Option<Self> {
        let mut in_force = authorization.policies().iter().filter(|policy| policy.is_enforced()).peekable();
        in_force.peek()?;
        let everything = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        let mut named = Self { networks: everything.into(), ports: BTreeSet::new(), conditions: 0 };
        in_force.flat_map(|policy| conditions(policy)).for_each(|condition| named.add(condition));
        Some(named)
    }

    fn steps(&self) -> usize {
        let networks = self.networks.len();
        let of_each = networks.max(self.conditions);
        networks.saturating_mul(of_each).saturating_mul(self.ports.len() + 1)
    }

    fn add(&mut self, condition: &Condition) {
        self.conditions += 1;
        match condition {
            Condition::SourceAddress(test) => self.networks.extend(test.lists().flat_map(|list| list.iter())),
            Condition::DestinationPort(test) => self.ports.extend(test.lists().flatten()),
            _ => {}
        }
    }
}

fn conditions(policy: &Policy) -> impl Iterator<Item = &Condition> {
    policy.rules.iter().flat_map(|rule| rule.from.iter().chain(&rule.to).flatten().chain(&rule.when))
}

/// An address of each network that is in none of the smaller ones within it. What they cover whole needs none.
fn samples(networks: &BTreeSet<IpNet>) -> Vec<(IpNet, IpAddr)> {
    let sample = |network: &IpNet| {
        let within: Vec<IpNet> =
            networks.iter().filter(|other| *other != network && network.contains(*other)).copied().collect();
        let mut smaller = IpNet::aggregate(&within);
        smaller.sort_unstable();
        let mut free = number(network.network());
        for other in smaller {
            if number(other.network()) > free {
                break;
            }
            free = number(other.broadcast()).checked_add(1)?;
        }
        (free <= number(network.broadcast())).then(|| (*network, address(free, network)))
    };
    networks.iter().filter_map(sample).collect()
}

/// Leaves out what the next larger network says, too.
fn pruned(rules: SourceRules) -> SourceRules {
    let says_new = |network: &IpNet, allowed: &bool| {
        let larger = rules.iter().filter(|(other, _)| *other != network && other.contains(network));
        larger.max_by_key(|(other, _)| other.prefix_len()).is_none_or(|(_, larger)| larger != allowed)
    };
    rules.iter().filter(|(network, allowed)| says_new(network, allowed)).map(|(n, a)| (*n, *a)).collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The number is one of the network's.
fn address(number: u128, network: &IpNet) -> IpAddr {
    match network {
        IpNet::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Settings, parse, snapshot};
    use crate::mesh::{Mesh, PodName};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn cart(specs: &[String]) -> (Mesh, PodName) {
        let mut text = "{apiVersion: v1, kind: Pod, metadata: {name: cart}, \
                        status: {podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}\n"
            .to_owned();
        for (i, spec) in specs.iter().enumerate() {
            text += &format!(
                "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{i}}}, spec: {spec}}}\n"
            );
        }
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let mesh = snapshot::build(&objects, &Settings::default(), &Mesh::default()).unwrap();
        (mesh, PodName { namespace: "default".into(), name: "cart".into() })
    }

    fn rules(spec: &str) -> Option<PlaintextRules> {
        let (mesh, name) = cart(&[spec.to_owned()]);
        plaintext(&mesh.workloads[&name])
    }

    // proves: ISO-3
    #[test]
    fn policies_that_name_too_much_let_nobody_in_and_cost_no_more() {
        let blocks = |count: usize| {
            let blocks: Vec<String> =
                (0..count).map(|i| format!("10.{}.{}.0/25", i / 256, i % 256)).collect();
            format!("{{rules: [{{from: [{{source: {{ipBlocks: [{}]}}}}]}}]}}", blocks.join(", "))
        };
        let few = rules(&blocks(200)).unwrap();
        assert!(!few.is_too_large && few.default.values().any(|allowed| *allowed));
        let many = rules(&blocks(3_000)).unwrap();
        assert!(many.is_too_large && many.ports.is_empty());
        assert_eq!(written(&many.default), ["0.0.0.0/0 false", "::/0 false"]);
    }

    // proves: ISO-3
    #[test]
    fn few_networks_that_many_rules_name_cost_no_more_either() {
        let ports: Vec<String> = (1..=20_000).map(|port| format!("'{port}'")).collect();
        let all_ports = format!("{{rules: [{{to: [{{operation: {{ports: [{}]}}}}]}}]}}", ports.join(", "));
        let sources = |count: usize| {
            let sources = vec!["{source: {ipBlocks: [1.1.1.1]}}"; count].join(", ");
            format!("{{rules: [{{from: [{sources}]}}]}}")
        };
        let decided = |specs: &[String]| {
            let (mesh, name) = cart(specs);
            plaintext(&mesh.workloads[&name]).unwrap()
        };
        assert!(!decided(&[all_ports.clone(), sources(10)]).is_too_large);
        // Each of 60,000 questions would ask 20,000 conditions.
        assert!(decided(&[all_ports, sources(20_000)]).is_too_large);
    }

    fn written(rules: &SourceRules) -> Vec<String> {
        rules.iter().map(|(network, allowed)| format!("{network} {allowed}")).collect()
    }

    /// As the kernel looks it up.
    fn look_up(rules: &PlaintextRules, source: IpAddr, port: u16) -> bool {
        let of_port = rules.ports.get(&port).unwrap_or(&rules.default);
        let mut networks = of_port.iter().filter(|(network, _)| network.contains(&source));
        let first = networks.next().unwrap();
        *networks.fold(first, |a, b| if b.0.prefix_len() > a.0.prefix_len() { b } else { a }).1
    }

    #[test]
    fn policies_that_let_all_plaintext_in_leave_no_rules() {
        for spec in [
            "{action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]}",
            "{action: AUDIT, rules: [{}]}",
            "{rules: [{}]}",
        ] {
            assert_eq!(rules(spec), None, "{spec}");
        }
    }

    #[test]
    fn policies_for_the_proven_keep_all_plaintext_out() {
        for spec in ["{}", "{rules: [{from: [{source: {principals: ['*']}}]}]}"] {
            let rules = rules(spec).unwrap();
            assert_eq!(written(&rules.default), ["0.0.0.0/0 false", "::/0 false"], "{spec}");
            assert!(rules.ports.is_empty());
        }
    }

    #[test]
    fn networks_and_ports_are_told_apart_where_they_differ() {
        let rules = rules(
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 192.0.2.0/25, 192.0.2.128/25], notIpBlocks: [10.1.0.0/16]}}], \
             to: [{operation: {ports: ['80']}}]}]}",
        )
        .unwrap();
        assert_eq!(written(&rules.default), ["0.0.0.0/0 false", "::/0 false"]);
        assert_eq!(rules.ports.keys().copied().collect::<Vec<_>>(), [80]);
        assert_eq!(
            written(&rules.ports[&80]),
            ["0.0.0.0/0 false", "10.0.0.0/8 true", "10.1.0.0/16 false", "192.0.2.0/24 true", "::/0 false"]
        );
    }

    // proves: POL-1
    #[test]
    fn the_rules_say_what_the_policies_say_of_every_source() {
        let mut random = StdRng::seed_from_u64(11);
        let mut denied = 0;
        for _ in 0..300 {
            let one = |random: &mut StdRng, of: &[&str]| of[random.random_range(0..of.len())].to_owned();
            let block = |random: &mut StdRng| match random.random_range(0..3) {
                0 => format!("'fd00::{:x}/{}'", random.random_range(0..16), random.random_range(120..=128)),
                _ => format!("10.0.0.{}/{}", random.random_range(0..64), random.random_range(24..=32)),
            };
            let specs: Vec<String> = (0..random.random_range(1..4))
                .map(|_| {
                    let action = one(&mut random, &["ALLOW", "DENY"]);
                    let key = one(&mut random, &["ipBlocks", "notIpBlocks", "remoteIpBlocks"]);
                    let blocks = [block(&mut random), block(&mut random)].join(", ");
                    let to = one(&mut random, &["", ", to: [{operation: {ports: ['80']}}]", ", to: [{operation: {notPorts: ['80', '81']}}]"]);
                    let when = one(&mut random, &["", ", when: [{key: destination.ip, values: ['10.0.0.2']}]"]);
                    format!("{{action: {action}, rules: [{{from: [{{source: {{{key}: [{blocks}]}}}}]{to}{when}}}]}}")
                })
                .collect();
            let (mesh, name) = cart(&specs);
            let pod = &mesh.workloads[&name];
            let rules = plaintext(pod);
            for _ in 0..60 {
                let source: IpAddr = match random.random_range(0..3) {
                    0 => format!("fd00::{:x}", random.random_range(0..20)).parse().unwrap(),
                    _ => format!("10.0.0.{}", random.random_range(0..80)).parse().unwrap(),
                };
                let port = random.random_range(79..83);
                let destination = SocketAddr::new(pod.address(source.is_ipv6()).unwrap(), port);
                let connection = Connection { source, identity: None, destination };
                let expected = authorize(&pod.authorization, &connection).is_allowed();
                let found = rules.as_ref().is_none_or(|rules| look_up(rules, source, port));
                assert_eq!(found, expected, "{source} to {port} by {specs:#?}");
                denied += usize::from(!expected);
            }
        }
        assert!((3_000..15_000).contains(&denied), "{denied} of 18000");
    }
}
