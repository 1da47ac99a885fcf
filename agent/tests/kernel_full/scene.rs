//! Two captured pods, the first of which may connect to the second directly, and the maps that they are kept in.

use crate::common::Bed;
use crate::common::Worker;
use crate::common::node::{Listener, PATIENCE, Pod, on_node, wait_for};
use crate::common::permit::permit;
use aya::maps::{HashMap as BpfHashMap, Map, MapData};
use pillion_agent::kernel::{Inbound, Kernel, KernelConfig, PodCapture, Usage, from_address};
use pillion_ebpf_common::{Flow, FlowKey, NodeFlow};
use std::io;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};

pub const PORT: u16 = 80;

pub struct Pair<'a> {
    bed: &'a Bed,
    pub kernel: Kernel,
    pub client: Pod,
    pub server: Pod,
    /// Outside the mesh.
    pub third: Pod,
    /// The server's.
    pub app: Listener,
    pub client_worker: Option<Worker>,
    pub server_worker: Worker,
}

pub fn pair(bed: &Bed, test: impl FnOnce(&mut Pair) + Send) {
    pair_with(bed, &[], test);
}

/// With maps of other sizes.
pub fn pair_with(bed: &Bed, sizes: &[(&'static str, u32)], test: impl FnOnce(&mut Pair) + Send) {
    on_node(|node| {
        let config = KernelConfig { map_sizes: sizes.to_vec(), ..bed.config() };
        let mut kernel = Kernel::open(&config).unwrap();
        let [client, server, third] = [2, 3, 9].map(|host| node.pod(host));
        for pod in [&client, &server] {
            pod.captured(&mut kernel, &pod.capture());
        }
        kernel.enforce(0, |_, _, _| None).unwrap();
        kernel.verdicts().unwrap().allow(&permit(0, &client, &server, PORT));
        let app = server.listen(PORT);
        let (client_worker, server_worker) = (Some(client.worker(&kernel)), server.worker(&kernel));
        test(&mut Pair { bed, kernel, client, server, third, app, client_worker, server_worker });
    });
}

impl Pair<'_> {
    pub fn address4(&self) -> SocketAddr {
        SocketAddr::new(self.server.ipv4.into(), PORT)
    }

    pub fn addresses(&self) -> [SocketAddr; 2] {
        [self.server.ipv4.into(), self.server.ipv6.into()].map(|ip: IpAddr| SocketAddr::new(ip, PORT))
    }

    /// The peer that the server's worker presents to its app.
    pub fn presented(&self) -> SocketAddr {
        SocketAddr::from(([10, 77, 3, 3], 333))
    }

    pub fn client_worker(&self) -> &Worker {
        self.client_worker.as_ref().expect("the client has a worker")
    }

    pub fn capture_client(&mut self, capture: &PodCapture) {
        self.kernel.capture(self.client.cookie, capture).unwrap();
    }

    pub fn capture_server(&mut self, inbound: Inbound) {
        let capture = PodCapture { inbound, ..self.server.capture() };
        self.kernel.capture(self.server.cookie, &capture).unwrap();
    }

    /// A direct connection: both ends.
    pub fn connect(&self) -> [TcpStream; 2] {
        let client = self.client.connect(self.address4()).unwrap();
        let server = self.app.accept().expect("the connection arrives at the server");
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        self.flow(client.local_addr().unwrap(), self.address4());
        [client, server]
    }

    /// The entry of an attested connection.
    pub fn flow(&self, client: SocketAddr, server: SocketAddr) -> (FlowKey, Flow) {
        let flows = map::<FlowKey, Flow>(self.bed, "FLOWS");
        let mut entries = flows.iter().map(Result::unwrap);
        let is_it = |(key, _): &(FlowKey, Flow)| {
            let ends = [from_address(&key.low), from_address(&key.high)];
            ends.contains(&client) && ends.contains(&server)
        };
        entries.find(is_it).expect("the kernel attests it")
    }

    /// Waits until the kernel has told the programs that the server's end is over.
    pub fn wait_for_servers_end(&self, client: SocketAddr, server: SocketAddr) {
        wait_for(&0, || self.flow(client, server).1.server_open);
    }

    pub fn reaches_in_plain(&self, why: &str) {
        let connected = self.client.connect(self.address4());
        assert!(connected.is_ok(), "{why}: {connected:?}");
        assert!(self.app.accept().is_some(), "{why}");
    }

    /// How many entries a map has.
    pub fn entries(&self, name: &str) -> usize {
        match name {
            "FLOWS" => map::<FlowKey, Flow>(self.bed, name).keys().count(),
            "HANDOFF" => {
                map::<pillion_ebpf_common::HandoffKey, pillion_ebpf_common::SocketRecord>(self.bed, name)
                    .keys()
                    .count()
            }
            _ => map::<NodeFlow, u64>(self.bed, name).keys().count(),
        }
    }

    /// The last segments of a connection may still be on their way.
    pub fn wait_for_no_flows(&self) {
        wait_for(&0, || self.entries("FLOWS"));
    }

    pub fn wait_for_no_node_flows(&self) {
        wait_for(&0, || self.entries("NODE_FLOWS"));
    }

    /// Waits until the server has refused as many plain connections.
    pub fn wait_for_refused(&self, count: u64) {
        wait_for(&count, || self.kernel.counts(self.server.cookie).unwrap().refused);
    }

    pub fn wait_for_usage(&self, expected: Usage) {
        let used = |pod: &Pod| self.kernel.usage(pod.cookie).unwrap().unwrap();
        wait_for(&[expected, expected], || [used(&self.client), used(&self.server)]);
    }
}

pub fn is_refused<T>(connected: &io::Result<T>) -> bool {
    matches!(connected, Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

/// A pinned map, opened as any other process with root could.
pub fn map<K: aya::Pod, V: aya::Pod>(bed: &Bed, name: &str) -> BpfHashMap<MapData, K, V> {
    let map = MapData::from_pin(bed.pin(name)).unwrap();
    Map::HashMap(map).try_into().unwrap()
}
