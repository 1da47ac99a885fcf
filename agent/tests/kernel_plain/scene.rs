//! A pod that is connected to in plain, who connects, rules, and the maps that they are kept in.

use crate::common::Bed;
use crate::common::node::{Listener, NODE4, NODE6, Node, PATIENCE, Pod, on_node};
use Family::{Ipv4, Ipv6, Mapped};
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use ipnet::IpNet;
use pillion_agent::kernel::{Counts, Inbound, Kernel, PlainRules, PodCapture, SourceRules};
use pillion_ebpf_common::{InboundPort, Ip, LocalPod, PodPort, Source, list};
use std::collections::BTreeSet;
use std::io;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};

pub const PORTS: [u16; 3] = [80, 81, 82];

/// How a client's socket and its destination are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
    Mapped,
}

/// A pod with apps, and who connects to it: two pods outside the mesh, and the node.
pub struct Scene {
    pub kernel: Kernel,
    pub server: Pod,
    pub apps: Vec<(u16, Listener)>,
    pub friend: Pod,
    pub foe: Pod,
}

pub fn scene(bed: &Bed, test: impl FnOnce(Scene) + Send) {
    on_node(|node| test(Scene::new(bed, node)));
}

impl Scene {
    pub fn new(bed: &Bed, node: &Node) -> Self {
        let mut kernel = bed.open();
        kernel.set_node_addresses(&[NODE4.into(), NODE6.into()].into()).unwrap();
        let [server, foe, friend] = [2, 3, 4].map(|host| node.pod(host));
        server.captured(&mut kernel, &server.capture());
        let apps = PORTS.iter().map(|port| (*port, server.listen(*port))).collect();
        Self { kernel, server, apps, friend, foe }
    }

    pub fn capture(&mut self, inbound: Inbound) -> PodCapture {
        let capture = PodCapture { inbound, ..self.server.capture() };
        self.kernel.capture(self.server.cookie, &capture).unwrap();
        capture
    }

    pub fn address(&self, family: Family, port: u16) -> SocketAddr {
        let ip: IpAddr = match family {
            Ipv4 => self.server.ipv4.into(),
            Ipv6 => self.server.ipv6.into(),
            Mapped => self.server.ipv4.to_ipv6_mapped().into(),
        };
        SocketAddr::new(ip, port)
    }

    /// Whether a pod's connection gets in, or one of the node's.
    pub fn admits(&self, client: Option<&Pod>, family: Family, port: u16) -> bool {
        let to = self.address(family, port);
        let connected = match client {
            Some(pod) => pod.connect(to),
            None => TcpStream::connect_timeout(&to, PATIENCE),
        };
        self.has_arrived(connected, port)
    }

    pub fn admits_friend(&self, port: u16) -> bool {
        self.admits(Some(&self.friend), Ipv4, port)
    }

    pub fn admits_foe(&self, port: u16) -> bool {
        self.admits(Some(&self.foe), Ipv4, port)
    }

    pub fn admits_node(&self, port: u16) -> bool {
        let [ipv4, ipv6] = [Ipv4, Ipv6].map(|family| self.admits(None, family, port));
        assert_eq!(ipv4, ipv6);
        ipv4
    }

    /// What does not get in is refused at once.
    pub fn has_arrived(&self, connected: io::Result<TcpStream>, port: u16) -> bool {
        let (_, app) = self.apps.iter().find(|(listens, _)| *listens == port).unwrap();
        match connected {
            Ok(_) => {
                app.accept().expect("it arrives");
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                assert!(app.accept_now().is_none());
                false
            }
        }
    }

    pub fn counts(&self) -> Counts {
        self.kernel.counts(self.server.cookie).unwrap()
    }
}

pub fn sources(rules: &[(&str, bool)]) -> SourceRules {
    rules.iter().map(|(network, may)| (network.parse::<IpNet>().unwrap(), *may)).collect()
}

pub fn all(may: bool) -> SourceRules {
    sources(&[("0.0.0.0/0", may), ("::/0", may)])
}

/// All but the foe.
pub fn all_but_foe() -> SourceRules {
    let mut rules = all(true);
    rules.extend(sources(&[("10.79.0.3/32", false), ("fd79::3/128", false)]));
    rules
}

/// One set of rules for all ports.
pub fn rules(default: SourceRules) -> Inbound {
    Inbound { rules: PlainRules { default: Some(default), ports: [].into() }, ..Inbound::default() }
}

/// The pinned maps, opened as any other process with root could.
pub struct Tables {
    pub sources: LpmTrie<MapData, Source, u8>,
    pub pods: BpfHashMap<MapData, Ip, LocalPod>,
    pub ports: BpfHashMap<MapData, PodPort, InboundPort>,
}

impl Tables {
    pub fn open(bed: &Bed) -> Self {
        let open = |name| MapData::from_pin(bed.pin(name)).unwrap();
        Self {
            sources: Map::LpmTrie(open("SOURCES")).try_into().unwrap(),
            pods: Map::HashMap(open("LOCAL_PODS")).try_into().unwrap(),
            ports: Map::HashMap(open("INBOUND_PORTS")).try_into().unwrap(),
        }
    }

    /// All networks of all lists: prefix length, list, address.
    pub fn lists(&self) -> BTreeSet<(u32, u32, Ip)> {
        let keys = self.sources.keys().map(Result::unwrap);
        keys.map(|key| (key.prefix_len(), key.data().list, key.data().ip)).collect()
    }

    /// The lists that pods and ports name.
    pub fn names(&self) -> BTreeSet<u32> {
        let pods = self.pods.iter().map(|entry| entry.unwrap().1.sources);
        let ports = self.ports.iter().map(|entry| entry.unwrap().1.sources);
        pods.chain(ports).filter(|list| *list != list::NONE).collect()
    }
}
