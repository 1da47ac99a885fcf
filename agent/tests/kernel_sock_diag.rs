//! A pod's sockets are listed and ended by the kernel itself.

mod common;

use common::{POD4, POD6, in_pod};
use pillion_agent::kernel::{OpenSocket, SockDiag, Stage};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

/// A listener and both ends of a connection to it.
fn connection(to: IpAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind((to, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

fn find(diag: &mut SockDiag, local: SocketAddr, remote: SocketAddr) -> Option<OpenSocket> {
    let sockets = diag.sockets(true).unwrap();
    sockets.into_iter().find(|socket| (socket.local, socket.remote) == (local, remote))
}

fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
    (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
}

// proves: POL-2
#[test]
fn an_open_connection_is_cut_on_both_ends() {
    in_pod(|_| {
        let mut diag = SockDiag::open().unwrap();
        for to in [IpAddr::from(POD4), IpAddr::from(POD6)] {
            let (_listener, mut client, mut server) = connection(to);
            let (local, remote) = ends(&server);
            let socket = find(&mut diag, local, remote).unwrap();
            assert_eq!(socket.stage, Stage::Open);
            assert!(diag.destroy(&socket).unwrap());
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
            let error = client.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            assert!(find(&mut diag, local, remote).is_none());
            // There is nothing to cut any more.
            assert!(!diag.destroy(&socket).unwrap());
        }
    });
}

// proves: POL-2
#[test]
fn a_later_connection_between_the_same_addresses_is_left_alone() {
    in_pod(|_| {
        let mut diag = SockDiag::open().unwrap();
        let (listener, client, server) = connection(POD4.into());
        let (local, remote) = ends(&server);
        let earlier = find(&mut diag, local, remote).unwrap();
        for end in [&client, &server] {
            // No TIME-WAIT: the addresses are free at once.
            socket2::SockRef::from(end).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        drop((client, server));

        let again = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        again.set_reuse_address(true).unwrap();
        again.bind(&remote.into()).unwrap();
        again.connect(&local.into()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(ends(&server), (local, remote));
        assert!(!diag.destroy(&earlier).unwrap());
        TcpStream::from(again).write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn an_ipv4_connection_to_an_ipv6_listener_has_ipv4_addresses_and_can_be_cut() {
    in_pod(|_| {
        let mut diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect((POD4, port)).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let (local, remote) = (client.peer_addr().unwrap(), client.local_addr().unwrap());
        let socket = find(&mut diag, local, remote).unwrap();
        assert!(diag.destroy(&socket).unwrap());
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn sockets_are_listed_with_their_stage() {
    in_pod(|_| {
        let mut diag = SockDiag::open().unwrap();
        let (listener, client, _server) = connection(POD4.into());
        let stage = |(local, remote)| find(&mut SockDiag::open().unwrap(), local, remote).map(|s| s.stage);
        let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
        assert_eq!(stage((listener.local_addr().unwrap(), nobody)), Some(Stage::Listening));
        assert_eq!(stage(ends(&client)), Some(Stage::Open));

        // Nobody is there, and nobody says so.
        common::ip("route add 10.98.0.0/24 dev eth0");
        let silent: SocketAddr = "10.98.0.9:80".parse().unwrap();
        let opening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        opening.set_nonblocking(true).unwrap();
        opening.connect(&silent.into()).unwrap_err();
        let sockets = diag.sockets(false).unwrap();
        let opening = sockets.iter().find(|socket| socket.remote == silent).unwrap();
        assert_eq!((opening.stage, opening.bytes), (Stage::Opening, None));
    });
}

#[test]
fn bytes_are_those_that_the_apps_have_sent() {
    in_pod(|_| {
        let mut diag = SockDiag::open().unwrap();
        let (_listener, mut client, mut server) = connection(POD4.into());
        let mut bytes = |stream: &TcpStream| {
            let (local, remote) = ends(stream);
            let bytes = find(&mut diag, local, remote).unwrap().bytes.unwrap();
            (bytes.sent, bytes.received)
        };
        // The client's SYN is a byte.
        assert_eq!((bytes(&client), bytes(&server)), ((1, 0), (0, 0)));
        client.write_all(&[0; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        server.write_all(&[0; 3]).unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
        assert_eq!((bytes(&client), bytes(&server)), ((1001, 3), (3, 1000)));
        // A FIN is none.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        assert_eq!((bytes(&client), bytes(&server)), ((1001, 3), (3, 1000)));
    });
}

#[test]
fn thousands_of_sockets_are_listed() {
    in_pod(|_| {
        const MANY: usize = 2000;
        let listener = TcpListener::bind((POD4, 0)).unwrap();
        socket2::SockRef::from(&listener).listen(MANY as i32).unwrap();
        let server = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..MANY).map(|_| TcpStream::connect(server).unwrap()).collect();
        let sockets = SockDiag::open().unwrap().sockets(true).unwrap();
        let listed = sockets.iter().filter(|socket| socket.remote == server).count();
        assert_eq!(listed, clients.len());
    });
}
