//! A connection whose SYN leaves long after connect(): TCP_FASTOPEN_CONNECT sends it with the first bytes. What holds then
//! decides, and what connect() was told does not.

use crate::common::Bed;
use crate::common::node::{PATIENCE, Pod};
use crate::scene::{PORT, Pair, map, pair};
use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
use pillion_agent::kernel::{Inbound, InboundMode, PodCapture};
use socket2::{Domain, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// Connects without sending anything yet. The pod asks for no cookie of the server's.
fn deferred(pod: &Pod, to: SocketAddr) -> TcpStream {
    pod.visit(|| {
        const CLIENT_WITHOUT_COOKIE: &str = "5";
        std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", CLIENT_WITHOUT_COOKIE).unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        setsockopt(&socket, TcpFastOpenConnect, &true).unwrap();
        socket.connect(&to.into()).unwrap();
        TcpStream::from(socket)
    })
}

/// Whether the connection is made by its first bytes.
fn sends(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE / 5)).unwrap();
    // Where it is made, there is no answer.
    stream.write_all(b"x").is_ok()
        && stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

fn not_direct(pair: &mut Pair) {
    let client = PodCapture { direct: false, ..pair.client.capture() };
    pair.capture_client(&client);
    pair.kernel.give_up_path(pair.client.cookie, &client).unwrap();
    let server = PodCapture { direct: false, ..pair.server.capture() };
    pair.kernel.capture(pair.server.cookie, &server).unwrap();
    pair.kernel.give_up_path(pair.server.cookie, &server).unwrap();
}

// proves: SEC-3
#[test]
fn a_deferred_connection_that_is_not_direct_any_more_sends_nothing() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        for (sent, to) in (1..).zip(pair.addresses()) {
            pair.capture_client(&pair.client.capture());
            pair.kernel
                .own_path(pair.client.cookie, pair.client.netns(), pair.client.device().unwrap())
                .unwrap();
            pair.capture_client(&pair.client.capture());
            pair.kernel
                .own_path(pair.server.cookie, pair.server.netns(), pair.server.device().unwrap())
                .unwrap();
            pair.capture_server(Inbound::default());
            let direct = deferred(&pair.client, to);
            assert!(sends(&direct), "{to}: a direct one is made");
            pair.app.accept().unwrap();
            drop(direct);
            pair.wait_for_no_flows();

            let late = deferred(&pair.client, to);
            not_direct(pair);
            assert!(!sends(&late), "{to}");
            assert!(pair.app.accept_now().is_none(), "{to}");
            assert_eq!(
                pair.kernel.counts(pair.server.cookie).unwrap().passed,
                0,
                "{to}: the server has seen none"
            );
            assert_eq!(pair.kernel.counts(pair.client.cookie).unwrap().unattested, sent, "{to}");
        }
    });
}

// proves: SEC-3
#[test]
fn a_deferred_connection_of_a_pod_that_is_refused_or_captured_meanwhile_sends_nothing() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        const UNDECIDED: u16 = PORT + 1;
        let [of_mesh, outside] = [&pair.server, &pair.third].map(|pod| (pod.listen(UNDECIDED), pod.ipv4));
        for (app, ip) in [of_mesh, outside] {
            let to = SocketAddr::new(ip.into(), UNDECIDED);
            let excluded = PodCapture { excluded_ports: [UNDECIDED].into(), ..pair.client.capture() };
            pair.capture_client(&excluded);
            let meant = deferred(&pair.client, to);
            assert!(sends(&meant), "{to}: plain on purpose");
            app.accept().unwrap();
            let not_meant = deferred(&pair.client, to);
            pair.capture_client(&pair.client.capture());
            assert!(!sends(&not_meant), "{to}: not excluded any more");

            pair.capture_client(&excluded);
            let refused = deferred(&pair.client, to);
            pair.kernel.refuse(pair.client.cookie).unwrap();
            assert!(!sends(&refused), "{to}: the pod is refused");
            assert!(app.accept_now().is_none(), "{to}");
        }

        let [on_its_way, before] = [(); 2].map(|()| deferred(&pair.third, pair.address4()));
        pair.kernel
            .capture(pair.third.cookie, &PodCapture { direct: false, ..pair.third.capture() })
            .unwrap();
        // What has passed the hook just before goes on. How long ago that may be is told from when the pod became a member.
        let mut since = map::<u64, u64>(&bed, "SINCE");
        for (time, stream, is_sent) in [(u64::MAX / 2, on_its_way, true), (0, before, false)] {
            since.insert(pair.third.cookie, time, 0).unwrap();
            assert_eq!(sends(&stream), is_sent, "begun before the pod was captured");
            assert_eq!(pair.app.accept_now().is_some(), is_sent);
        }
    });
}

/// As if the hook had let a connection go in the clear once.
// proves: SEC-3
#[test]
fn a_deferred_connection_goes_plain_where_the_pod_still_asks_for_it() {
    let bed = Bed::new();
    pair(&bed, |pair| {
        pair.client_worker = None;
        pair.capture_client(&PodCapture { fails_open: true, direct: false, ..pair.client.capture() });
        let open = deferred(&pair.client, pair.address4());
        assert!(sends(&open), "without a worker, and open");
        pair.app.accept().unwrap();
        pair.capture_server(Inbound { default: InboundMode::Refuse, ..Inbound::default() });
        let strict = deferred(&pair.client, pair.address4());
        assert!(!sends(&strict), "a STRICT server refuses it");
        assert!(pair.app.accept_now().is_none());
    });
}
