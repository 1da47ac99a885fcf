//! Sets of texts, networks and ports, as policies write them, made for asking whether something is in them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

/// Texts: `x` is x alone, `x*` begins with x, `*x` ends with x, `*` is any that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    exact: HashSet<Box<str>>,
    prefixes: Vec<Box<str>>,
    suffixes: Vec<Box<str>>,
    any: bool,
}

/// IPv4 and IPv6 networks. The whole of IPv6 does not mean IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Disjoint and in order, so that one that may have an address is found by halving.
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

/// TCP ports, each from 1 to 65535.
pub type PortSet = BTreeSet<u16>;

impl Strings {
    pub fn contains(&self, text: &str) -> bool {
        self.any && !text.is_empty()
            || self.exact.contains(text)
            || self.prefixes.iter().any(|prefix| text.starts_with(&**prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(&**suffix))
    }

    /// Whether the text itself is listed, not something that stands for it.
    pub fn names(&self, text: &str) -> bool {
        self.exact.contains(text)
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(patterns: I) -> Self {
        let mut strings = Self::default();
        for pattern in patterns {
            match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
                (Some(""), _) => strings.any = true,
                (Some(suffix), _) => strings.suffixes.push(suffix.into()),
                (None, Some(prefix)) => strings.prefixes.push(prefix.into()),
                (None, None) => drop(strings.exact.insert(pattern.into())),
            }
        }
        strings
    }
}

impl Networks {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.holding(address).is_some()
    }

    /// The network that has the address. It is as large as all listed networks make it together.
    pub fn holding(&self, address: IpAddr) -> Option<IpNet> {
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let after = self.v4.partition_point(|network| network.network() <= ip);
                let network = self.v4[after.checked_sub(1)?];
                network.contains(&ip).then_some(IpNet::V4(network))
            }
            IpAddr::V6(ip) => {
                let after = self.v6.partition_point(|network| network.network() <= ip);
                let network = self.v6[after.checked_sub(1)?];
                network.contains(&ip).then_some(IpNet::V6(network))
            }
        }
    }

    /// As few networks as there can be: not necessarily those that were written.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.iter().copied().map(IpNet::V4);
        v4.chain(self.v6.iter().copied().map(IpNet::V6))
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(network.trunc()),
                IpNet::V6(network) => match unmapped(network) {
                    Some(network) => v4.push(network),
                    None => v6.push(network.trunc()),
                },
            }
        }
        let (mut v4, mut v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4, v6 }
    }
}

/// An IPv4 network that is written as IPv4-mapped IPv6.
fn unmapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let prefix = network.prefix_len().checked_sub(96)?;
    Ipv4Net::new(network.addr().to_ipv4_mapped()?, prefix).ok().map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_at_its_end() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("abc*", "abc", true),
            ("abc*", "abcd", true),
            ("abc*", "xabc", false),
            ("*abc", "abc", true),
            ("*abc", "xabc", true),
            ("*abc", "abcx", false),
            ("*", "x", true),
            ("*", "", false),
            ("", "x", false),
        ] {
            assert_eq!(Strings::from_iter([pattern]).contains(text), expected, "{pattern} {text}");
        }
        let several = Strings::from_iter(["a*", "*z", "exact"]);
        assert!(["abba", "fuzz", "exact"].iter().all(|text| several.contains(text)));
        assert!(!several.contains("other"));
    }

    #[test]
    fn networks_contain_their_addresses() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect();
        let contains = |networks: &Networks, address: &str| networks.contains(address.parse().unwrap());
        let some: Networks =
            networks(&["10.0.0.77/8", "192.0.2.1/32", "10.1.0.0/16", "fd00::/8", "::ffff:198.51.100.0/120"]);
        for inside in ["10.255.0.1", "192.0.2.1", "::ffff:10.0.0.1", "fd12::1", "198.51.100.255"] {
            assert!(contains(&some, inside), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "192.0.2.2", "fe80::1", "198.51.101.0"] {
            assert!(!contains(&some, outside), "{outside}");
        }
        assert_eq!(some.iter().count(), 4);
        assert!(!contains(&Networks::default(), "10.0.0.1"));
    }

    #[test]
    fn all_of_one_family_is_nothing_of_the_other() {
        let all = |text: &str| Networks::from_iter([text.parse::<IpNet>().unwrap()]);
        let (v4, v6) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        assert!(all("0.0.0.0/0").contains(v4) && !all("0.0.0.0/0").contains(v6));
        assert!(all("::/0").contains(v6) && !all("::/0").contains(v4));
    }
}
