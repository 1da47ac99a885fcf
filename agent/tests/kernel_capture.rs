//! What the hooks do to a pod's connections.

mod common;

use common::{Bed, ELSEWHERE4, ELSEWHERE6, LINK_LOCAL, POD4, POD6, Pod, Worker, in_pod};
use pillion_agent::kernel::{Kernel, PodCapture, Tag};
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};

/// Nobody is there: only a captured connect() gets through.
const NOWHERE4: &str = "10.99.0.9:4444";
const NOWHERE6: &str = "[fd99::9]:4444";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn mapped(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_ipv6_mapped().into(), port)
}

/// Connects to a listener of its own and says whether the connection went there, and not to the worker.
fn goes_plain(to: SocketAddr, worker: &Worker) -> bool {
    let listener = TcpListener::bind(to).unwrap();
    let client = TcpStream::connect(to).unwrap();
    assert_eq!(client.peer_addr().unwrap(), to);
    assert!(worker.accept().is_none(), "{to} was captured");
    listener.set_nonblocking(true).unwrap();
    listener.accept().is_ok()
}

fn captured_pod(test: impl FnOnce(&mut Kernel, &Pod, &Worker) + Send) {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        test(&mut kernel, pod, &worker);
    });
}

// proves: CAP-4
#[test]
fn an_ipv4_connection_is_captured_and_the_app_sees_true_addresses() {
    captured_pod(|_, _, worker| {
        let client = TcpStream::connect(NOWHERE4).unwrap();
        assert_eq!(worker.destination(), Some(address(NOWHERE4)));
        assert_eq!(client.peer_addr().unwrap(), address(NOWHERE4));
        assert_eq!(client.local_addr().unwrap().ip(), IpAddr::from(POD4));
    });
}

// proves: CAP-4
#[test]
fn an_ipv6_connection_is_captured_and_the_app_sees_true_addresses() {
    captured_pod(|_, _, worker| {
        let client = TcpStream::connect(NOWHERE6).unwrap();
        assert_eq!(worker.destination(), Some(address(NOWHERE6)));
        assert_eq!(client.peer_addr().unwrap(), address(NOWHERE6));
        assert_eq!(client.local_addr().unwrap().ip(), IpAddr::from(POD6));
    });
}

// proves: CAP-4
#[test]
fn an_ipv4_connection_of_an_ipv6_socket_is_captured_and_the_app_sees_true_addresses() {
    captured_pod(|_, _, worker| {
        let to = mapped(Ipv4Addr::new(10, 99, 0, 9), 4444);
        let client = TcpStream::connect(to).unwrap();
        assert_eq!(worker.destination(), Some(address(NOWHERE4)));
        assert_eq!(client.peer_addr().unwrap(), to);
        assert_eq!(client.local_addr().unwrap().ip(), IpAddr::from(POD4.to_ipv6_mapped()));
    });
}

// proves: CAP-4, TCP-3
#[test]
fn a_client_that_has_a_port_and_no_address_sees_its_pods_address_and_loopback_where_it_connects_there() {
    let bound = |to: SocketAddr| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        socket.bind(&address(any).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        socket.connect(&to.into()).unwrap();
        let local = socket.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.port(), port);
        local.ip()
    };
    captured_pod(|_, _, worker| {
        let nowhere = mapped(Ipv4Addr::new(10, 99, 0, 9), 4444);
        for (to, own) in [
            (address(NOWHERE4), IpAddr::from(POD4)),
            (address(NOWHERE6), POD6.into()),
            (nowhere, POD4.to_ipv6_mapped().into()),
        ] {
            assert_eq!(bound(to), own, "to {to}");
            assert!(worker.destination().is_some());
        }
        for loopback in ["127.0.0.1:4445", "[::1]:4445"].map(address) {
            let _listener = TcpListener::bind(loopback).unwrap();
            assert_eq!(bound(loopback), loopback.ip());
        }
        assert!(worker.accept().is_none());
    });
}

// proves: CAP-4
#[test]
fn the_destination_is_known_also_when_the_app_has_gone_already() {
    captured_pod(|_, _, worker| {
        for port in 1..=1000 {
            let to = SocketAddr::new(Ipv4Addr::new(10, 99, 0, 9).into(), port);
            let client = socket2::SockRef::from(&TcpStream::connect(to).unwrap()).try_clone().unwrap();
            client.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(client);
            assert_eq!(worker.destination(), Some(to));
        }
    });
}

// proves: CAP-4
#[test]
fn a_server_sees_the_peer_that_the_worker_presents() {
    captured_pod(|_, _, worker| {
        let cases = [
            (SocketAddr::from((POD4, 8080)), address("10.77.3.3:333"), address("10.77.3.3:333")),
            (SocketAddr::from((POD6, 8081)), address("[fd77::3]:333"), address("[fd77::3]:333")),
            // an IPv4 connection to an app that listens on [::]
            (
                SocketAddr::from((POD4, 8082)),
                address("10.77.3.3:334"),
                mapped(Ipv4Addr::new(10, 77, 3, 3), 334),
            ),
        ];
        for (to, present, seen) in cases {
            let listen = if seen.is_ipv6() { SocketAddr::new(address("[::]:0").ip(), to.port()) } else { to };
            let app = TcpListener::bind(listen).unwrap();
            let socket = tagged_socket(worker, to, Some(present));
            socket.connect(&to.into()).unwrap();
            let (accepted, peer) = app.accept().unwrap();
            assert_eq!((peer, accepted.peer_addr().unwrap()), (seen, seen));
            // The worker itself is not deceived.
            assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(to));
        }
    });
}

// proves: CAP-3
#[test]
fn the_workers_own_connections_are_not_captured() {
    captured_pod(|_, _, worker| {
        let to = SocketAddr::from((ELSEWHERE4, 80));
        let listener = TcpListener::bind(to).unwrap();
        tagged_socket(worker, to, None).connect(&to.into()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert!(worker.accept().is_none());
        assert_eq!(accepted.peer_addr().unwrap(), peer, "nothing to present: the true peer is shown");
    });
}

fn tagged_socket(worker: &Worker, to: SocketAddr, present: Option<SocketAddr>) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
    worker.sockets.tag(&socket, present.map_or(Tag::Agent, Tag::ToApp)).unwrap();
    socket
}

// proves: CAP-3
#[test]
fn what_does_not_leave_the_pod_is_left_alone() {
    captured_pod(|_, _, worker| {
        for to in ["127.0.0.1:81", "127.9.9.9:82", "[::1]:83", "[::ffff:127.0.0.1]:84"] {
            assert!(goes_plain(address(to), worker), "{to}");
        }
        for to in [SocketAddr::from((POD4, 85)), SocketAddr::from((POD6, 86)), mapped(POD4, 87)] {
            assert!(goes_plain(to, worker), "{to}");
        }
        let eth0 = nix::net::if_::if_nametoindex("eth0").unwrap();
        assert!(goes_plain(SocketAddrV6::new(LINK_LOCAL, 88, 0, eth0).into(), worker));
        // 0.0.0.0 and :: mean the pod itself
        let listener = TcpListener::bind("[::]:89").unwrap();
        for to in ["0.0.0.0:89", "[::]:89", "[::ffff:0.0.0.0]:89"] {
            TcpStream::connect(to).unwrap();
            listener.accept().unwrap();
            assert!(worker.accept().is_none(), "{to}");
        }
    });
}

// proves: CAP-3
#[test]
fn excluded_ports_and_networks_are_left_alone_until_they_are_not_excluded() {
    captured_pod(|kernel, pod, worker| {
        let everywhere = [
            SocketAddr::from((ELSEWHERE4, 5432)),
            SocketAddr::from((ELSEWHERE6, 5432)),
            mapped(ELSEWHERE4, 5432),
        ];
        let is_captured = |to: SocketAddr| {
            TcpStream::connect(to).unwrap();
            worker.destination().is_some()
        };
        let cidrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();

        let ports = PodCapture { excluded_ports: [5432].into(), ..pod.capture() };
        kernel.capture(pod.cookie, &ports).unwrap();
        for to in everywhere {
            assert!(goes_plain(to, worker));
            assert!(is_captured(SocketAddr::new(to.ip(), 5433)));
        }
        let networks = PodCapture { excluded_cidrs: cidrs(&["10.78.7.7/16", "fd78::/32"]), ..pod.capture() };
        kernel.capture(pod.cookie, &networks).unwrap();
        for to in everywhere {
            assert!(goes_plain(to, worker));
        }
        assert!(is_captured(address("10.79.0.1:5432")) && is_captured(address("[fd79::1]:5432")));

        let only_ipv6 = PodCapture { excluded_cidrs: cidrs(&["::/0"]), ..pod.capture() };
        kernel.capture(pod.cookie, &only_ipv6).unwrap();
        assert!(goes_plain(everywhere[1], worker));
        assert!(is_captured(everywhere[0]) && is_captured(everywhere[2]), "::/0 does not mean IPv4");
        let everything_ipv4 = PodCapture { excluded_cidrs: cidrs(&["0.0.0.0/0"]), ..pod.capture() };
        kernel.capture(pod.cookie, &everything_ipv4).unwrap();
        assert!(goes_plain(everywhere[0], worker) && is_captured(everywhere[1]));

        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        for to in everywhere {
            assert!(is_captured(to));
        }
    });
}

// proves: CAP-3
#[test]
fn udp_is_left_alone() {
    captured_pod(|_, _, worker| {
        let to = SocketAddr::from((ELSEWHERE4, 53));
        let server = UdpSocket::bind(to).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.connect(to).unwrap();
        client.send(b"x").unwrap();
        assert_eq!(server.recv(&mut [0; 8]).unwrap(), 1);
        assert_eq!(client.peer_addr().unwrap(), to);
        assert!(worker.accept().is_none());
    });
}

// proves: CAP-3
#[test]
fn a_pod_outside_the_mesh_is_left_alone() {
    let bed = Bed::new();
    in_pod(|_| {
        let kernel = bed.open();
        let worker = Worker::listen(&kernel);
        assert!(goes_plain(SocketAddr::from((ELSEWHERE4, 80)), &worker));
        assert!(goes_plain(SocketAddr::from((ELSEWHERE6, 80)), &worker));
    });
}

// proves: CAP-1
#[test]
fn a_released_pod_goes_plain_and_its_open_connections_stay() {
    captured_pod(|kernel, pod, worker| {
        let client = TcpStream::connect(NOWHERE4).unwrap();
        let (accepted, _) = worker.accept().unwrap();
        kernel.release(pod.cookie).unwrap();
        assert!(kernel.captured().unwrap().is_empty());
        assert!(goes_plain(SocketAddr::from((ELSEWHERE4, 80)), worker));

        std::io::Write::write_all(&mut &client, b"still").unwrap();
        let mut bytes = [0; 5];
        std::io::Read::read_exact(&mut &accepted, &mut bytes).unwrap();
        assert_eq!(client.peer_addr().unwrap(), address(NOWHERE4));
    });
}

// proves: LIF-1
#[test]
fn a_refused_pod_and_one_whose_entry_is_lost_are_refused_with_eperm() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        let refused = |to: &str| TcpStream::connect(to).unwrap_err().raw_os_error() == Some(libc::EPERM);

        let mut pods = common_maps::pods(&bed);
        pods.remove(&pod.cookie).unwrap();
        assert!(refused(NOWHERE4) && refused(NOWHERE6) && refused("[::ffff:10.99.0.9]:4444"));

        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        TcpStream::connect(NOWHERE4).unwrap();
        assert!(worker.destination().is_some());

        kernel.refuse(pod.cookie).unwrap();
        assert!(refused(NOWHERE4) && refused(NOWHERE6));
        assert!(goes_plain(address("127.0.0.1:80"), &worker), "the pod's own business goes on");
    });
}

// proves: CAP-5, LIF-1
#[test]
fn without_a_worker_connections_are_refused_or_plain_as_the_pod_asks() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let listener = TcpListener::bind((ELSEWHERE4, 80)).unwrap();
        listener.set_nonblocking(true).unwrap();
        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        let error = TcpStream::connect((ELSEWHERE4, 80)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        assert!(listener.accept().is_err());

        kernel.capture(pod.cookie, &PodCapture { fails_open: true, ..pod.capture() }).unwrap();
        TcpStream::connect((ELSEWHERE4, 80)).unwrap();
        assert!(listener.accept().is_ok());
        let worker = Worker::listen(&kernel);
        TcpStream::connect((ELSEWHERE4, 80)).unwrap();
        assert_eq!(worker.destination(), Some((ELSEWHERE4, 80).into()));
    });
}

#[test]
fn connections_leave_nothing_behind_in_the_kernel() {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        TcpStream::connect(NOWHERE4).unwrap_err();
        let worker = Worker::listen(&kernel);
        for _ in 0..10 {
            TcpStream::connect(NOWHERE4).unwrap();
            TcpStream::connect(NOWHERE6).unwrap();
            worker.destination().unwrap();
            worker.destination().unwrap();
        }
        let to = SocketAddr::from((POD4, 9999));
        tagged_socket(&worker, to, Some(address(NOWHERE4))).connect(&to.into()).unwrap_err();
        assert_eq!(common_maps::handoffs(&bed), 0);
    });
}

#[test]
fn the_outbound_port_knows_no_destination_for_who_connects_to_it_directly() {
    captured_pod(|_, _, worker| {
        TcpStream::connect("127.0.0.1:15001").unwrap();
        let (_stream, destination) = worker.accept().unwrap();
        assert_eq!(destination, None);
    });
}

/// Opens the pinned maps as any other process with root could.
mod common_maps {
    use crate::common::Bed;
    use aya::maps::{HashMap, Map, MapData};
    use pillion_ebpf_common::{HandoffKey, PodEntry, SocketRecord};

    pub fn pods(bed: &Bed) -> HashMap<MapData, u64, PodEntry> {
        Map::HashMap(MapData::from_pin(bed.pin("PODS")).unwrap()).try_into().unwrap()
    }

    pub fn handoffs(bed: &Bed) -> usize {
        let map = Map::HashMap(MapData::from_pin(bed.pin("HANDOFF")).unwrap());
        let map: HashMap<_, HandoffKey, SocketRecord> = map.try_into().unwrap();
        map.keys().count()
    }
}
