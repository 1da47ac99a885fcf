//! Apps that bind their sockets to a device. Without privileges an app can bind a socket, and nothing can unbind it for the app.

use crate::common::Bed;
use crate::scene::pair;
use socket2::{Domain, Socket, Type};
use std::env;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Where the app connects to, in the environment of a process that is the app.
const APP: &str = "PILLION_TEST_BOUND_APP_CONNECTS_TO";

/// The app, in a process of its own; without an address to connect to it is none.
#[test]
fn app() {
    let Ok(to) = env::var(APP) else { return };
    let to: SocketAddr = to.parse().unwrap();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind_device(Some(b"eth0")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let connected = socket.connect(&to.into()).unwrap_err();
    assert_eq!(connected.raw_os_error(), Some(libc::EPERM), "{to}: {connected}");
}

// proves: SEC-3
#[test]
fn a_socket_that_an_app_without_privileges_has_bound_to_a_device_is_refused() {
    const NOBODY: u32 = 65_534;
    let bed = Bed::new();
    pair(&bed, |pair| {
        let outside = [SocketAddr::from(([198, 51, 100, 1], 80)), "[fd99::1]:80".parse().unwrap()];
        // To be captured, or to go directly: neither stays in the pod, or can be held back.
        for to in outside.into_iter().chain(pair.addresses()) {
            let mut app = Command::new(env::current_exe().unwrap());
            app.args(["--exact", "bound::app"]).env(APP, to.to_string()).uid(NOBODY).gid(NOBODY);
            let output = pair.client.visit(|| app.output()).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        assert!(pair.client_worker().accept().is_none() && pair.app.accept_now().is_none());

        // With them, the hook takes the socket off its device.
        for to in outside {
            let bound = pair.client.visit(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.bind_device(Some(b"eth0")).unwrap();
                socket.connect_timeout(&to.into(), crate::common::node::PATIENCE).map(|()| socket)
            });
            assert!(bound.is_ok(), "{to}: {bound:?}");
            assert_eq!(pair.client_worker().destination(), Some(to));
        }
    });
}
