//! Kinds of sockets that apps use, each captured as if there were no mesh.

mod common;

use common::{Bed, ELSEWHERE4, POD4, Worker, in_pod};
use pillion_agent::kernel::Tag;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpListener};

fn nowhere() -> SocketAddr {
    "10.99.0.9:4444".parse().unwrap()
}

fn stream_socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

fn captured_pod(test: impl FnOnce(&Worker) + Send) {
    let bed = Bed::new();
    in_pod(|pod| {
        let mut kernel = bed.open();
        let worker = pod.captured(&mut kernel);
        test(&worker);
    });
}

fn sees_true_addresses(socket: &Socket) {
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(nowhere()));
    assert_eq!(socket.local_addr().unwrap().as_socket().map(|local| local.ip()), Some(IpAddr::from(POD4)));
}

// proves: CAP-4
#[test]
fn a_socket_bound_to_a_device() {
    captured_pod(|worker| {
        let socket = stream_socket();
        socket.bind_device(Some(b"eth0")).unwrap();
        socket.connect(&nowhere().into()).unwrap();
        assert_eq!(worker.destination(), Some(nowhere()));
        sees_true_addresses(&socket);
    });
}

// proves: CAP-4
#[test]
fn a_socket_bound_to_an_address_and_a_port_keeps_them() {
    captured_pod(|worker| {
        let socket = stream_socket();
        let local: SocketAddr = "10.78.0.1:5555".parse().unwrap();
        assert_eq!(local.ip(), IpAddr::from(ELSEWHERE4));
        socket.bind(&local.into()).unwrap();
        socket.connect(&nowhere().into()).unwrap();
        assert_eq!(worker.destination(), Some(nowhere()));
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(local));
    });
}

// proves: CAP-4
#[test]
fn a_non_blocking_connect() {
    captured_pod(|worker| {
        let socket = stream_socket();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&nowhere().into()) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS)),
        }
        // On lo the handshake is done when connect() returns.
        assert_eq!(worker.destination(), Some(nowhere()));
        sees_true_addresses(&socket);
    });
}

// proves: CAP-4
#[test]
fn tcp_fast_open() {
    captured_pod(|worker| {
        for _ in 0..3 {
            let socket = stream_socket();
            socket.send_to_with_flags(b"hello", &nowhere().into(), libc::MSG_FASTOPEN).unwrap();
            let (mut stream, destination) = worker.accept().unwrap();
            assert_eq!(destination, Some(nowhere()));
            sees_true_addresses(&socket);
            let mut bytes = [0; 5];
            std::io::Read::read_exact(&mut stream, &mut bytes).unwrap();
            assert_eq!(&bytes, b"hello");
        }
    });
}

// proves: CAP-3
#[test]
fn a_socket_that_connects_again() {
    captured_pod(|worker| {
        let socket = stream_socket();
        socket.connect(&nowhere().into()).unwrap();
        assert_eq!(worker.destination(), Some(nowhere()));

        disconnect(&socket);
        let other: SocketAddr = "10.99.0.8:8888".parse().unwrap();
        socket.connect(&other.into()).unwrap();
        assert_eq!(worker.destination(), Some(other));
        assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(other));

        disconnect(&socket);
        let local: SocketAddr = "127.0.0.1:8888".parse().unwrap();
        let listener = TcpListener::bind(local).unwrap();
        socket.connect(&local.into()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(local));
        assert_eq!(accepted.peer_addr().unwrap(), peer);
        assert_eq!(worker.sockets.original_destination(&accepted), None);
    });
}

/// connect() to AF_UNSPEC.
fn disconnect(socket: &Socket) {
    let unspecified = socket2::SockAddrStorage::zeroed();
    // SAFETY: zeroes are an address of family AF_UNSPEC, of the size told.
    let address = unsafe { socket2::SockAddr::new(unspecified, 16) };
    socket.connect(&address).unwrap();
}

// proves: CAP-3
#[test]
fn an_mptcp_client() {
    captured_pod(|worker| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        socket.connect(&nowhere().into()).unwrap();
        let (mut stream, destination) = worker.accept().unwrap();
        assert_eq!(destination, Some(nowhere()));
        std::io::Write::write_all(&mut stream, b"hello").unwrap();
        let mut bytes = [0; 5];
        std::io::Read::read_exact(&mut &socket, &mut bytes).unwrap();
        sees_true_addresses(&socket);
    });
}

// proves: CAP-4
#[test]
fn an_mptcp_listener() {
    captured_pod(|worker| {
        let app = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        let to = SocketAddr::from((POD4, 8080));
        app.bind(&to.into()).unwrap();
        app.listen(8).unwrap();
        let present: SocketAddr = "10.77.3.3:333".parse().unwrap();
        let socket = stream_socket();
        worker.sockets.tag(&socket, Tag::ToApp(present)).unwrap();
        socket.connect(&to.into()).unwrap();
        let (accepted, peer) = app.accept().unwrap();
        assert_eq!(peer.as_socket(), Some(present));
        assert_eq!(accepted.peer_addr().unwrap().as_socket(), Some(present));
    });
}
