//! Tables that are full, facts that are missing, and ends that nobody has told of: what depends on them is refused or is
//! put right, and never becomes plain.

mod bound;
#[path = "../common/mod.rs"]
mod common;
mod deferred;
mod scene;
mod shares;

use common::node::{NODE4, PATIENCE, Pod, on_node};
use common::{Bed, Worker, ip};
use pillion_agent::kernel::{Inbound, InboundMode, Kernel, PodCapture, Tag, Unknown, Usage};
use pillion_ebpf_common::{Flow, FlowKey, HandoffKey, SocketRecord, quota};
use scene::{PORT, is_refused, map, pair, pair_with};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Instant;

// proves: SEC-3
#[test]
fn an_app_never_sees_loopback_as_its_peer_because_a_table_is_full() {
    let bed = Bed::new();
    pair_with(&bed, &[("HANDOFF", 1)], |pair| {
        let to_app = || pair.server.visit(|| to_app(&pair.server_worker, pair.address4(), pair.presented()));
        let (first, seen) = (to_app().unwrap(), pair.app.accept().unwrap());
        assert_eq!(seen.peer_addr().unwrap().ip().to_canonical(), pair.presented().ip());
        let mut table = map::<HandoffKey, SocketRecord>(&bed, "HANDOFF");
        table.insert(HandoffKey { netns: 1, ..HandoffKey::default() }, SocketRecord::default(), 0).unwrap();

        assert!(is_refused(&to_app()), "there is no room to present the peer");
        assert!(pair.app.accept_now().is_none());
        let over6 = || pair.server.visit(|| to_app6(&pair.server_worker, &pair.server, pair.presented()));
        assert!(is_refused(&over6()), "over IPv6 neither");
        assert_eq!(pair.kernel.failed_inserts().unwrap()["HANDOFF"], 2);

        // What an app sends to its worker finds no room either, and does not leave.
        let outside = SocketAddr::from(([198, 51, 100, 1], 80));
        let captured = pair.client.connect(outside);
        assert!(captured.is_err() || pair.client_worker().destination().is_none());
        table.remove(&HandoffKey { netns: 1, ..HandoffKey::default() }).unwrap();
        to_app().unwrap();
        assert!(pair.app.accept().is_some(), "with room it goes on");
        drop(first);
    });
}

// proves: SEC-3
#[test]
fn loopback_is_believed_only_where_a_hook_has_seen_the_socket() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        // An app that binds itself to loopback is the pod's own, under every mode.
        for default in [InboundMode::Count, InboundMode::Refuse] {
            pair.capture_server(Inbound { default, ..Inbound::default() });
            let own = pair.server.visit(|| from("127.0.0.5".parse().unwrap(), pair.address4()));
            assert!(own.is_ok(), "{default:?}: {own:?}");
            let seen = pair.app.accept().unwrap().peer_addr().unwrap();
            assert_eq!(seen.ip().to_canonical(), IpAddr::from([127, 0, 0, 5]), "{default:?}");
            for to in pair.addresses() {
                assert!(pair.server.connect(to).is_ok(), "{default:?}: the pod's own {to}");
                pair.app.accept().unwrap();
            }
            // The agent's socket that presents nothing has nothing to do with an app.
            let from = Ipv4Addr::new(127, 0, 0, 3);
            let agents = pair.server.visit(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                pair.server_worker.sockets.tag(&socket, Tag::Agent).unwrap();
                socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
                socket.connect_timeout(&pair.address4().into(), PATIENCE)
            });
            assert!(is_refused(&agents), "{default:?}: {agents:?}");
        }
        assert_eq!(pair.entries("HANDOFF"), 0);
        pair.wait_for_no_flows();
    });
}

// proves: SEC-3
#[test]
fn loopback_does_not_come_from_outside_where_the_pod_routes_it() {
    let bed = Bed::new();
    on_node(|node| {
        let mut kernel = bed.open();
        let [server, neighbour] = [2, 3].map(|host| node.pod(host));
        let capture = PodCapture {
            inbound: Inbound { default: InboundMode::Refuse, ..Inbound::default() },
            direct: false,
            ..server.capture()
        };
        kernel.guard(server.cookie, server.netns(), Unknown::Refuse).unwrap();
        kernel.capture(server.cookie, &capture).unwrap();
        let app = server.listen(PORT);
        for pod in [&server, &neighbour] {
            pod.visit(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
        }
        neighbour.visit(|| {
            ip("addr del 127.0.0.1/8 dev lo");
            ip(&format!("route add 127.0.0.1/32 via {} dev eth0 src {}", server.ipv4, neighbour.ipv4));
        });
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let reached = neighbour.connect(loopback);
        assert!(is_refused(&reached), "{reached:?}");
        for to in [loopback, SocketAddr::from(([127, 0, 0, 7], PORT)), (Ipv6Addr::LOCALHOST, PORT).into()] {
            assert!(server.connect(to).is_ok(), "the pod's own {to}");
            app.accept().unwrap();
        }
    });
}

// proves: SEC-3
#[test]
fn a_direct_connection_that_finds_no_room_is_refused_at_once_and_sends_nothing() {
    let bed = Bed::new();
    pair_with(&bed, &[("FLOWS", 1)], |pair| {
        map::<FlowKey, Flow>(&bed, "FLOWS").insert(FlowKey::default(), Flow::default(), 0).unwrap();
        for (refused, to) in (1..).zip(pair.addresses()) {
            let begun = Instant::now();
            assert!(is_refused(&pair.client.connect(to)), "{to}");
            assert!(begun.elapsed() < PATIENCE / 5, "refused at once, not by silence");
            assert_eq!(pair.kernel.counts(pair.client.cookie).unwrap().unattested, refused);
        }
        assert!(pair.app.accept_now().is_none());
        assert_eq!(pair.kernel.counts(pair.server.cookie).unwrap().passed, 0, "the server has seen none");
        assert_eq!(pair.kernel.failed_inserts().unwrap()["FLOWS"], 2);
        for to in pair.addresses() {
            assert!(is_refused(&pair.server.connect(to)), "a pod's connection with itself, too: {to}");
        }

        // What is plain on purpose stays so.
        let excluded = PodCapture { excluded_ports: [PORT].into(), ..pair.client.capture() };
        pair.capture_client(&excluded);
        pair.reaches_in_plain("a port that the client keeps out of the mesh");
        pair.capture_client(&PodCapture { fails_open: true, ..pair.client.capture() });
        pair.reaches_in_plain("a client that asks for plain");
        pair.capture_client(&pair.client.capture());
        pair.capture_server(Inbound { excluded: [PORT].into(), ..Inbound::default() });
        pair.reaches_in_plain("a port that the server keeps out of the mesh");
        pair.capture_server(Inbound::default());

        map::<FlowKey, Flow>(&bed, "FLOWS").remove(&FlowKey::default()).unwrap();
        assert!(pair.client.connect(pair.address4()).is_ok(), "with room it goes on");
    });
}

/// A packet that no socket has sent, as after a verdict that went between connect() and the SYN.
// proves: SEC-3
#[test]
fn a_syn_that_no_hook_has_attested_does_not_leave_for_a_direct_pod() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        // The agent's own socket is not attested, and its worker speaks to a direct pod's worker only.
        for to in pair.addresses() {
            let unattested = pair.client.visit(|| tagged(pair.client_worker(), Tag::Agent, to));
            assert!(is_refused(&unattested), "{to}: {unattested:?}");
        }
        assert_eq!(pair.kernel.counts(pair.client.cookie).unwrap().unattested, 2);
        let hbone = pair.server.visit(|| std::net::TcpListener::bind("[::]:15008").unwrap());
        pair.server_worker.sockets.take_peers(&hbone).unwrap();
        let peer = SocketAddr::new(pair.server.ipv4.into(), 15008);
        pair.client.visit(|| tagged(pair.client_worker(), Tag::Agent, peer)).unwrap();
        hbone.accept().expect("the workers' own port");
    });
}

// proves: SEC-3, ID-3
#[test]
fn a_pod_whose_ports_find_no_room_takes_no_plaintext() {
    let bed = Bed::new();
    pair_with(&bed, &[("INBOUND_PORTS", 1)], |pair| {
        assert!(pair.third.connect(pair.address4()).is_ok(), "PERMISSIVE takes plaintext");
        pair.app.accept().unwrap();
        let exceptions = [(PORT + 1, InboundMode::Count), (PORT + 2, InboundMode::Count)];
        let inbound =
            Inbound { default: InboundMode::Refuse, ports: exceptions.into(), ..Inbound::default() };
        let strict = PodCapture { inbound, ..pair.server.capture() };
        assert!(pair.kernel.capture(pair.server.cookie, &strict).is_err(), "there is room for one port");
        assert!(is_refused(&pair.third.connect(pair.address4())), "STRICT holds all the same");
        assert!(pair.client.connect(pair.address4()).is_ok(), "what the kernel vouches for goes on");
        assert!(pair.kernel.failed_inserts().unwrap()["INBOUND_PORTS"] >= 1);
    });
}

/// The hook asks for the worker's listener, and not for a connection that the listener has accepted.
// proves: SEC-3
#[test]
fn a_connection_from_any_port_leaves_the_worker_found() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let outside: SocketAddr = ([192, 0, 2, 1], 80).into();
        let from = |port: u16| {
            pair.client.visit(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
                socket.connect_timeout(&outside.into(), PATIENCE).map(|()| socket)
            })
        };
        let mut accepted = Vec::new();
        for port in [1, 2] {
            accepted.push((from(port).expect("it is captured"), pair.client_worker().accept()));
        }
        assert!(pair.client.connect(outside).is_ok(), "and so is the next one");
    });
}

// proves: SEC-3
#[test]
fn a_pod_that_uses_its_share_of_a_table_stops_itself_and_no_neighbour() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let mut usage = map::<u64, Usage>(&bed, "USAGE");
        let full = Usage { handoff: quota::HANDOFF, flows: quota::FLOWS, node_flows: 0 };
        usage.insert(pair.client.cookie, full, 0).unwrap();
        assert!(is_refused(&pair.client.connect(pair.address4())), "no direct connection");
        assert!(pair.server.connect(pair.address4()).is_ok(), "a neighbour's connections go on");
        pair.app.accept().unwrap();
        usage.insert(pair.client.cookie, Usage { flows: quota::FLOWS - 1, ..Usage::default() }, 0).unwrap();
        let last = pair.client.connect(pair.address4()).unwrap();
        assert!(is_refused(&pair.client.connect(pair.address4())), "that was the last place");
        drop((last, pair.app.accept()));
        assert!(pair.kernel.failed_inserts().unwrap()["FLOWS"] >= 2);

        // A pod without an entry has no share.
        usage.remove(&pair.server.cookie).unwrap();
        assert!(is_refused(&pair.server.connect(pair.address4())));
        let to_app = pair.server.visit(|| to_app(&pair.server_worker, pair.address4(), pair.presented()));
        assert!(is_refused(&to_app));
        pair.capture_server(Inbound::default());
        assert!(pair.server.connect(pair.address4()).is_ok(), "the agent puts the entry back");
    });
}

#[test]
fn what_a_pod_uses_of_the_tables_is_given_back_to_the_last_entry() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        for round in 0..20 {
            let mut ends = vec![];
            for to in pair.addresses() {
                ends.push((pair.client.connect(to).unwrap(), pair.app.accept().unwrap()));
                ends.push((pair.server.connect(to).unwrap(), pair.app.accept().unwrap()));
            }
            let worker = &pair.server_worker;
            let to_app = pair.server.visit(|| to_app(worker, pair.address4(), pair.presented())).unwrap();
            ends.push((to_app, pair.app.accept().unwrap()));
            let used = |pod: &Pod| pair.kernel.usage(pod.cookie).unwrap().unwrap();
            assert_eq!(used(&pair.client), Usage { flows: 2, ..Usage::default() });
            assert_eq!(used(&pair.server), Usage { flows: 2, ..Usage::default() });
            for (client, server) in ends {
                // Both ends first, in turn; at last both at once.
                match round % 3 {
                    0 => drop((client, server)),
                    1 => drop((server, client)),
                    _ => std::thread::scope(|scope| {
                        scope.spawn(|| common::node::reset(client));
                        common::node::reset(server);
                    }),
                }
            }
            pair.wait_for_no_flows();
            pair.wait_for_usage(Usage::default());
        }
    });
}

// proves: SEC-3
#[test]
fn a_listener_that_is_not_the_workers_is_never_given_a_connection() {
    let bed = Bed::new();
    pair_with(&bed, &[], |pair| {
        let outside = SocketAddr::from(([198, 51, 100, 1], 80));
        let outside6: SocketAddr = "[fd99::1]:80".parse().unwrap();
        for to in [outside, outside6] {
            pair.client.connect(to).unwrap();
            assert_eq!(pair.client_worker().destination(), Some(to));
        }
        pair.client_worker = None;
        let thieves = pair.client.visit(|| ["127.0.0.1:15001", "[::]:15001"].map(listen_v6only));
        for to in [outside, outside6, pair.address4()] {
            let error = pair.client.connect(to).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{to}: {error}");
        }
        drop(thieves);
    });
}

/// The worker listens on loopback, so that the port is free at the pod's own address.
// proves: SEC-3, ID-3
#[test]
fn nobody_outside_gets_to_a_process_that_listens_beside_the_worker() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        pair.capture_server(Inbound { default: InboundMode::Refuse, ..Inbound::default() });
        let beside = SocketAddr::new(pair.server.ipv4.into(), 15001);
        let thief = pair.server.visit(|| std::net::TcpListener::bind(beside).unwrap());
        assert!(is_refused(&pair.third.connect(beside)));
        assert!(
            is_refused(&pair.third.connect(SocketAddr::new(pair.server.ipv6.into(), 15001))),
            "nor to the worker"
        );
        drop(thief);
    });
}

/// No worker runs, so that any process may have its port.
// proves: SEC-3, ID-3
#[test]
fn what_is_for_the_worker_goes_to_its_listener_and_to_no_other() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let to =
            [pair.server.ipv4.into(), pair.server.ipv6.into()].map(|ip: IpAddr| SocketAddr::new(ip, 15008));
        // Connections of the listener before may still be there.
        let listen = || {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 15008)).into()).unwrap();
            socket.listen(8).unwrap();
            std::net::TcpListener::from(socket)
        };
        for default in [InboundMode::Count, InboundMode::Refuse] {
            pair.capture_server(Inbound { default, ..Inbound::default() });
            let thief = pair.server.visit(listen);
            for to in to {
                assert!(is_refused(&pair.third.connect(to)), "{default:?} {to}");
            }
            drop(thief);
            let worker = pair.server.visit(listen);
            pair.server_worker.sockets.take_peers(&worker).unwrap();
            for to in to {
                let peer = pair.third.connect(to).unwrap();
                assert_eq!(worker.accept().unwrap().1.port(), peer.local_addr().unwrap().port());
            }
            // It ends, and so does what the guard knows of it.
            drop(worker);
            let thief = pair.server.visit(listen);
            assert!(is_refused(&pair.third.connect(to[0])), "{default:?}");
            drop(thief);
        }
    });
}

// proves: SEC-3
#[test]
fn a_connection_that_another_pod_accepts_under_the_servers_addresses_is_not_the_servers() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let [client, server] = pair.connect();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        // The server's end is over, so that there could be another one; the client's end stays, and with it the entry.
        drop(server);
        pair.wait_for_servers_end(from, to);
        let before = pair.flow(from, to);
        // The third pod makes the same connection within itself, under both addresses.
        pair.third.visit(|| {
            ip(&format!("addr add {}/32 dev lo", pair.client.ipv4));
            ip(&format!("addr add {}/32 dev lo", pair.server.ipv4));
            let listener = std::net::TcpListener::bind(to).unwrap();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            let accepted = listener.accept().unwrap();
            assert_eq!(pair.flow(from, to), before, "the entry is the two pods'");
            drop(accepted);
        });
        assert_eq!(pair.flow(from, to), before);
        drop(client);
        pair.wait_for_no_flows();
    });
}

#[test]
fn ends_without_sockets_are_collected_and_the_last_one_takes_the_entry_along() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let [client, server] = pair.connect();
        let cookies = [pair.client.cookie, pair.server.cookie];
        let flows = pair.kernel.flows();
        let ends = flows.ends(|netns| cookies.contains(&netns)).unwrap();
        assert_eq!(ends.len(), 2, "{ends:?}");
        drop((client, server));
        pair.wait_for_no_flows();
        for end in &ends {
            assert!(!flows.end(end).unwrap(), "the kernel has told of it");
        }

        // Another connection of the same addresses is another one.
        let [client, _server] = pair.connect();
        for end in &ends {
            assert!(!flows.end(end).unwrap());
        }
        let ends = flows.ends(|netns| cookies.contains(&netns)).unwrap();
        assert!(flows.end(&ends[0]).unwrap() && !flows.end(&ends[0]).unwrap(), "an end ends once");
        assert_eq!(pair.entries("FLOWS"), 1, "it still leads the other end's packets");
        assert!(flows.end(&ends[1]).unwrap());
        assert_eq!(pair.entries("FLOWS"), 0);
        pair.wait_for_usage(Usage::default());
        drop(client);
    });
}

fn collect(kernel: &mut Kernel) {
    let (leftovers, _) = kernel.collector().unwrap().look(|_| false).unwrap();
    kernel.take_out(&leftovers).unwrap();
}

#[test]
fn what_dead_pods_have_left_is_collected() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let mut flows = map::<FlowKey, Flow>(&bed, "FLOWS");
        let mut handoffs = map::<HandoffKey, SocketRecord>(&bed, "HANDOFF");
        let dead = Flow { client: 1, server: 2, open: 2, server_open: 1, ..Flow::default() };
        let key = |port| FlowKey {
            high: pillion_ebpf_common::Address { port, ..Default::default() },
            ..FlowKey::default()
        };
        flows.insert(key(1), dead, 0).unwrap();
        // The server lives, and may have something to send.
        flows.insert(key(2), Flow { server: pair.server.cookie, ..dead }, 0).unwrap();
        handoffs
            .insert(HandoffKey { netns: 1, ..HandoffKey::default() }, SocketRecord::default(), 0)
            .unwrap();
        collect(&mut pair.kernel);
        assert_eq!(pair.entries("HANDOFF"), 0);
        assert_eq!(flows.keys().map(Result::unwrap).collect::<Vec<_>>(), [key(2)]);
        pair.kernel.forget(pair.server.cookie).unwrap();
        collect(&mut pair.kernel);
        assert_eq!(pair.entries("FLOWS"), 0);
    });
}

// proves: POL-3
#[test]
fn a_probe_is_what_a_socket_of_the_nodes_own_opens_and_the_nodes_address_is_not_enough() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        let inbound = Inbound { default: InboundMode::Refuse, probed: [PORT].into(), ..Inbound::default() };
        pair.capture_server(inbound);
        for to in pair.addresses() {
            let node = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
            assert!(pair.kernel.node_flows().has(node.local_addr().unwrap(), to).unwrap());
            pair.app.accept().unwrap();
        }
        // As masqueraded or forged traffic: it has the node's address, and no socket of the node's has opened it.
        pair.third.visit(|| {
            ip(&format!("addr add {NODE4}/32 dev lo"));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((NODE4, 0)).into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            // The answer goes to the node.
            let begun = socket.connect(&pair.address4().into()).unwrap_err();
            assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
            pair.wait_for_refused(1);
        });
        assert!(pair.app.accept_now().is_none());
        pair.wait_for_no_node_flows();
    });
}

/// Connects as a worker does to its app, over IPv4 from loopback.
fn to_app(worker: &Worker, to: SocketAddr, presented: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    worker.sockets.tag(&socket, Tag::ToApp(presented))?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 3], 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

fn to_app6(worker: &Worker, pod: &Pod, presented: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    worker.sockets.tag(&socket, Tag::ToApp(presented))?;
    socket.connect_timeout(&SocketAddr::new(pod.ipv6.into(), PORT).into(), PATIENCE)?;
    Ok(socket.into())
}

fn tagged(worker: &Worker, tag: Tag, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    worker.sockets.tag(&socket, tag)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

fn from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

fn listen_v6only(address: &str) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(8).unwrap();
    socket
}
