//! The same pods for real: namespaces, sockets, and the agent's kernel side.

use crate::common::node::{self, Listener, NODE4, NODE6, Node, PATIENCE, Pod, canonical, reset, wait_for};
use crate::common::permit::permit;
use crate::common::{Bed, Worker};
use crate::reference::{Allowed, Generation, How, Outcome, Party, Standing, Table};
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use ipnet::IpNet;
use pillion_agent::kernel::{
    AttestedFlow, Inbound, InboundMode, Kernel, KernelConfig, KernelError, PlainRules, PodCapture,
    SourceRules, Unknown, VerdictTable,
};
use pillion_ebpf_common::{Address, Flow, FlowKey, HandoffKey, SocketRecord};
use socket2::SockRef;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};

/// The app's ports.
pub const PORTS: [u16; 2] = [80, 81];
pub const PODS: usize = 3;
const OUTSIDER: u8 = 99;
/// Room for connections, in the tables that a run fills: for more than are open at a time, each with both of its ends.
const MAP_SIZE: u32 = 64;

/// How a client's socket and its destination are written.
#[derive(Clone, Copy, Debug)]
pub enum Family {
    Ipv4,
    Ipv6,
    Mapped,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    ByReset,
    ClientFirst,
    ServerFirst,
}

pub struct World<'a> {
    bed: &'a Bed,
    node: &'a Node,
    pub kernel: Running,
    places: Vec<Place>,
    outsider: Place,
    /// A worker's handle of each agent so far.
    tables: Vec<VerdictTable>,
    pub connections: Vec<Connection>,
}

/// The agent's kernel side. None only while one agent follows another.
pub struct Running(Option<Kernel>);

impl Deref for Running {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        self.0.as_ref().expect("an agent runs")
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Kernel {
        self.0.as_mut().expect("an agent runs")
    }
}

/// A pod and what runs in it.
struct Place {
    pod: Pod,
    apps: Vec<(u16, Listener)>,
    worker: Option<Worker>,
}

pub struct Connection {
    pub client: Party,
    pub server: Party,
    pub client_netns: u64,
    pub is_attested: bool,
    client_end: TcpStream,
    /// None: its pod is gone, and nobody answers.
    server_end: Option<TcpStream>,
    asked: SocketAddr,
}

impl<'a> World<'a> {
    pub fn new(bed: &'a Bed, node: &'a Node) -> Self {
        let mut kernel = Running(Some(open(bed).unwrap()));
        kernel.set_node_addresses(&[NODE4.into(), NODE6.into()].into()).unwrap();
        let tables = vec![kernel.verdicts().unwrap()];
        let places = (0..PODS).map(|place| Place::new(node, host(place))).collect();
        let outsider = Place::new(node, OUTSIDER);
        Self { bed, node, kernel, places, outsider, tables, connections: vec![] }
    }

    pub fn cookie(&self, place: usize) -> u64 {
        self.places[place].pod.cookie
    }

    /// Guards a pod, and captures it; owns its path where it is said to be there.
    pub fn capture(&mut self, place: usize, how: &How, has_path: bool) {
        let pod = &self.places[place].pod;
        let is_closed = how.default == InboundMode::Refuse || how.rules.is_some();
        let unknown = if is_closed { Unknown::Refuse } else { Unknown::Pass };
        self.kernel.guard(pod.cookie, pod.netns(), unknown).unwrap();
        if has_path {
            self.kernel.own_path(pod.cookie, pod.netns(), pod.device().unwrap()).unwrap();
        }
        self.kernel.capture(pod.cookie, &capture(pod, how)).unwrap();
    }

    pub fn give_up_path(&mut self, place: usize, how: &How) {
        let pod = &self.places[place].pod;
        self.kernel.give_up_path(pod.cookie, &capture(pod, how)).unwrap();
    }

    pub fn set_worker(&mut self, place: usize, there: bool) {
        let place = &mut self.places[place];
        place.worker = None;
        place.worker = there.then(|| place.pod.worker(&self.kernel));
    }

    /// Says what was mended.
    pub fn audit(&mut self, standings: &[Standing]) -> Vec<&'static str> {
        let captured = self.places.iter().zip(standings).filter_map(|(place, standing)| match standing {
            Standing::Captured(how) => Some((place.pod.cookie, capture(&place.pod, how))),
            _ => None,
        });
        let wanted: HashMap<u64, PodCapture> = captured.collect();
        let repairs = self.kernel.audit(&wanted).unwrap();
        // This agent knows of all that there are: what is left is of pods that are gone, or released.
        let strangers = self.kernel.strangers(|cookie| wanted.contains_key(&cookie)).unwrap();
        strangers.iter().for_each(|cookie| self.kernel.forget(*cookie).unwrap());
        repairs.into_iter().map(|repair| repair.what).chain(strangers.iter().map(|_| "stale_entry")).collect()
    }

    /// Another agent takes over.
    pub fn restart(&mut self) {
        // One at a time has the node's pins.
        self.kernel.0 = None;
        self.kernel.0 = Some(open(self.bed).unwrap());
        self.tables.push(self.kernel.verdicts().unwrap());
    }

    pub fn second_agent_is_refused(&self) {
        let refused = open(self.bed).err().expect("an agent runs");
        assert!(matches!(refused, KernelError::Held { .. }), "{refused}");
    }

    /// Takes all the room that there is in a table.
    pub fn fill(&self, table: Table) -> Vec<u16> {
        let mut filled = vec![];
        for number in 0..=MAP_SIZE as u16 {
            let written = match table {
                Table::Flows => self.flows().insert(ballast_flow(number), Flow::default(), 0),
                Table::Handoff => self.handoffs().insert(ballast_handoff(number), SocketRecord::default(), 0),
            };
            match written {
                Ok(()) => filled.push(number),
                Err(_) => return filled,
            }
        }
        panic!("{table:?} is not full with {} entries", filled.len());
    }

    /// Gives that room back.
    pub fn empty(&self, table: Table, filled: Vec<u16>) {
        for number in filled {
            match table {
                Table::Flows => self.flows().remove(&ballast_flow(number)).unwrap(),
                Table::Handoff => self.handoffs().remove(&ballast_handoff(number)).unwrap(),
            }
        }
    }

    fn flows(&self) -> BpfHashMap<MapData, FlowKey, Flow> {
        Map::HashMap(MapData::from_pin(self.bed.pin("FLOWS")).unwrap()).try_into().unwrap()
    }

    fn handoffs(&self) -> BpfHashMap<MapData, HandoffKey, SocketRecord> {
        Map::HashMap(MapData::from_pin(self.bed.pin("HANDOFF")).unwrap()).try_into().unwrap()
    }

    /// A worker decides under a generation of its agent's.
    pub fn allow(&mut self, generation: Generation, client: usize, server: usize, port: u16) {
        // What a pod says to itself needs no permit, and there is none.
        if client == server {
            return;
        }
        let [client, server] = [client, server].map(|place| &self.places[place].pod);
        self.tables[generation.agent].allow(&permit(generation.policy, client, server, port));
    }

    /// Puts a generation of the present agent's in force.
    pub fn enforce(&mut self, generation: u64, holds: impl Fn(u64, u64, u16) -> bool) {
        let places = &self.places;
        let pod = |cookie: u64| places.iter().map(|place| &place.pod).find(|pod| pod.cookie == cookie);
        let permit = |source, destination, port| {
            let (client, server) = pod(source).zip(pod(destination))?;
            holds(source, destination, port).then(|| permit(generation, client, server, port))
        };
        self.kernel.enforce(generation, permit).unwrap();
    }

    /// The pod dies, and another one comes to have its addresses.
    pub fn replace(&mut self, place: usize) -> u64 {
        let old = self.places.remove(place);
        let is_lost = |open: &&mut Connection| open.server == Party::Pod(place);
        for connection in self.connections.iter_mut().filter(is_lost) {
            // Sends at once what is still to be acknowledged: the new pod is not to get it.
            SockRef::from(&connection.client_end).set_tcp_quickack(true).unwrap();
        }
        old.pod.delete();
        for connection in self.connections.iter_mut().filter(is_lost) {
            connection.server_end.take().into_iter().for_each(reset);
        }
        self.places.insert(place, Place::new(self.node, host(place)));
        self.cookie(place)
    }

    /// Connects, and says what became of it; what has been made is kept.
    pub fn connect(&mut self, client: Party, server: Party, port: u16, family: Family) -> Outcome {
        let to = self.address(server, port, family);
        let (connected, client_netns) = match client {
            Party::Node => (TcpStream::connect_timeout(&to, PATIENCE), 0),
            _ => (self.place(client).pod.connect(to), self.place(client).pod.cookie),
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => return failed(&error, client, to),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to, "the app sees where it wanted to go");
        let worker = self.place_of(client).and_then(|place| place.worker.as_ref()?.accept());
        let (server_end, is_workers) = match worker {
            // A worker resets what says nowhere where it wanted to go.
            Some((accepted, None)) => {
                [stream, accepted].into_iter().for_each(reset);
                return Outcome::Refused;
            }
            Some((accepted, destination)) => {
                assert_eq!(destination, Some(canonical(to)));
                (accepted, true)
            }
            None => {
                let (_, app) = &self.place(server).apps.iter().find(|(listens, _)| *listens == port).unwrap();
                let accepted = app.accept().unwrap_or_else(|| panic!("nothing arrived at {to}"));
                (accepted, false)
            }
        };
        let from = canonical(stream.local_addr().unwrap());
        assert_eq!(canonical(server_end.peer_addr().unwrap()), from, "it is that very connection");
        server_end.set_read_timeout(Some(PATIENCE)).unwrap();
        let is_attested = self.kernel.flows().get(from, canonical(to)).unwrap().is_some();
        self.connections.push(Connection {
            client,
            server: if is_workers { client } else { server },
            client_netns,
            is_attested,
            client_end: stream,
            server_end: Some(server_end),
            asked: canonical(to),
        });
        match (is_workers, is_attested) {
            (true, false) => Outcome::Worker,
            (false, true) => Outcome::Attested,
            (false, false) => Outcome::Plain { counted: false },
            (true, true) => panic!("{to} went to the worker, and is attested"),
        }
    }

    /// Nothing has arrived that nobody has accepted.
    pub fn check_quiet(&self) {
        for place in self.places.iter().chain([&self.outsider]) {
            let arrived = place.apps.iter().find(|(_, app)| app.accept_now().is_some());
            assert!(arrived.is_none(), "a stray connection arrived at {}", place.pod.ipv4);
            let captured = place.worker.as_ref().and_then(Worker::accept);
            assert!(captured.is_none(), "a stray connection was captured in {}", place.pod.ipv4);
        }
    }

    /// All open connections carry bytes, both ways.
    pub fn check_open(&mut self) {
        for connection in &mut self.connections {
            let said = connection.speak();
            assert!(said.is_ok(), "{:?} to {}: {said:?}", connection.client, connection.asked);
        }
    }

    /// The kernel vouches for the attested connections that are open, and for no others.
    pub fn check_flows(&self) {
        let attested = self.connections.iter().filter(|connection| connection.is_attested);
        let expected: BTreeSet<_> = attested.map(Connection::flow).collect();
        wait_for(&expected, || {
            let flow = |flow: AttestedFlow| (flow.client, flow.server, flow.client_netns);
            self.kernel.flows().all().unwrap().into_iter().map(flow).collect()
        });
    }

    /// Nothing is left of connections that are over, not even what vouches for none any more.
    pub fn check_no_flows(&self) {
        wait_for(&0, || self.flows().keys().count());
    }

    /// What each pod has counted: plain connections that passed, that were refused, and that were denied.
    pub fn check_counts(&self, expected: &[[u64; 3]]) {
        wait_for(&expected.to_vec(), || {
            let counts = self.places.iter().map(|place| self.kernel.counts(place.pod.cookie).unwrap());
            counts.map(|counts| [counts.passed, counts.refused, counts.denied]).collect()
        });
    }

    fn place(&self, party: Party) -> &Place {
        self.place_of(party).expect("a pod or the outsider")
    }

    fn place_of(&self, party: Party) -> Option<&Place> {
        match party {
            Party::Pod(place) => Some(&self.places[place]),
            Party::Outsider => Some(&self.outsider),
            Party::Node => None,
        }
    }

    fn address(&self, party: Party, port: u16, family: Family) -> SocketAddr {
        let pod = &self.place(party).pod;
        let ip: IpAddr = match family {
            Family::Ipv4 => pod.ipv4.into(),
            Family::Ipv6 => pod.ipv6.into(),
            Family::Mapped => pod.ipv4.to_ipv6_mapped().into(),
        };
        SocketAddr::new(ip, port)
    }
}

impl Place {
    fn new(node: &Node, host: u8) -> Self {
        let pod = node.pod(host);
        let apps = PORTS.iter().map(|port| (*port, pod.listen(*port))).collect();
        Self { pod, apps, worker: None }
    }
}

impl Connection {
    fn flow(&self) -> (SocketAddr, SocketAddr, u64) {
        (canonical(self.client_end.local_addr().unwrap()), self.asked, self.client_netns)
    }

    fn speak(&mut self) -> io::Result<()> {
        let Some(server_end) = &mut self.server_end else { return Ok(()) };
        let mut heard = [0];
        self.client_end.write_all(b"?")?;
        server_end.read_exact(&mut heard)?;
        server_end.write_all(b"!")?;
        self.client_end.read_exact(&mut heard)
    }

    /// Whether the server's pod is gone, and its sockets with it.
    pub fn is_lost(&self) -> bool {
        self.server_end.is_none()
    }

    pub fn port(&self) -> u16 {
        self.asked.port()
    }

    /// One that is lost ends by reset.
    pub fn close(mut self, end: End) {
        let Some(mut server_end) = self.server_end else { return reset(self.client_end) };
        let mut nothing = [0];
        match end {
            End::ByReset => {
                reset(self.client_end);
                reset(server_end);
            }
            End::ClientFirst => {
                self.client_end.shutdown(Shutdown::Write).unwrap();
                assert_eq!(server_end.read(&mut nothing).unwrap(), 0);
                drop(server_end);
                assert_eq!(self.client_end.read(&mut nothing).unwrap(), 0);
            }
            End::ServerFirst => {
                server_end.shutdown(Shutdown::Write).unwrap();
                assert_eq!(self.client_end.read(&mut nothing).unwrap(), 0);
                drop(self.client_end);
                assert_eq!(server_end.read(&mut nothing).unwrap(), 0);
            }
        }
    }
}

fn open(bed: &Bed) -> Result<Kernel, KernelError> {
    let map_sizes = vec![("FLOWS", MAP_SIZE), ("HANDOFF", MAP_SIZE)];
    Kernel::open(&KernelConfig { map_sizes, ..bed.config() })
}

/// Of a namespace that there is not.
fn ballast_flow(number: u16) -> FlowKey {
    FlowKey { low: Address { ip: [u32::MAX; 4], port: number.into() }, ..FlowKey::default() }
}

fn ballast_handoff(number: u16) -> HandoffKey {
    HandoffKey { netns: u64::MAX, source_port: number.into(), ..HandoffKey::default() }
}

fn host(place: usize) -> u8 {
    place as u8 + 2
}

fn capture(pod: &Pod, how: &How) -> PodCapture {
    PodCapture {
        ipv4: Some(pod.ipv4),
        ipv6: Some(pod.ipv6),
        excluded_ports: how.excluded.clone(),
        excluded_cidrs: vec![],
        inbound: Inbound {
            default: how.default,
            ports: how.ports.clone(),
            probed: how.probed.clone(),
            excluded: how.open.clone(),
            rules: PlainRules {
                default: how.rules.as_ref().map(sources),
                ports: how.port_rules.iter().map(|(port, allowed)| (*port, sources(allowed))).collect(),
            },
        },
        direct: how.direct,
        fails_open: how.fails_open,
    }
}

fn sources(allowed: &Allowed) -> SourceRules {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| (network.parse().unwrap(), allowed.all));
    let but =
        allowed.but.iter().flat_map(|party| addresses(*party)).map(|ip| (IpNet::from(ip), !allowed.all));
    everywhere.into_iter().chain(but).collect()
}

fn addresses(party: Party) -> [IpAddr; 2] {
    let (ipv4, ipv6) = match party {
        Party::Pod(place) => node::addresses(host(place)),
        Party::Outsider => node::addresses(OUTSIDER),
        Party::Node => (NODE4, NODE6),
    };
    [ipv4.into(), ipv6.into()]
}

fn failed(error: &io::Error, client: Party, to: SocketAddr) -> Outcome {
    match error.raw_os_error() {
        Some(libc::EPERM) => Outcome::Forbidden,
        Some(libc::ECONNREFUSED) => Outcome::Refused,
        _ => panic!("{client:?} cannot connect to {to}: {error}"),
    }
}
