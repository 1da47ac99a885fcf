//! What the hooks cost connect(): printed, not judged (a shared machine is no scale).
//!
//! `cargo test --release -p pillion-agent --test kernel_cost -- --ignored --nocapture`

mod common;

use common::{Bed, ELSEWHERE4, in_pod};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 5_000;
const ROUNDS: usize = 5;

// proves: CAP-3 (the cost for a process outside the mesh)
#[test]
#[ignore = "a measurement"]
fn the_cost_of_connect() {
    let bed = Bed::new();
    in_pod(|pod| {
        let refused = SocketAddr::from((ELSEWHERE4, 81));
        let to = SocketAddr::from((ELSEWHERE4, 80));
        let server = TcpListener::bind(to).unwrap();
        let without = measure(to, &server);
        let without_syn = measure_refused(refused);
        let mut kernel = bed.open();
        let uncaptured = measure(to, &server);
        let uncaptured_syn = measure_refused(refused);
        let worker = TcpListener::bind("127.0.0.1:15001").unwrap();
        kernel.capture(pod.cookie, &pod.capture()).unwrap();
        let captured = measure(to, &worker);
        drop(worker);
        let captured_syn = measure_refused(refused);
        println!("connect(), ns:      without hooks  not captured  captured");
        println!("established         {without:13} {uncaptured:13} {captured:9}");
        println!("refused by peer     {without_syn:13} {uncaptured_syn:13} {captured_syn:9}");
    });
}

/// The median round's nanoseconds per connect() to a listener.
fn measure(to: SocketAddr, server: &TcpListener) -> u128 {
    rounds(|| {
        let mut spent = Duration::ZERO;
        for _ in 0..CONNECTIONS {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // Both ends go at once, without TIME_WAIT: ports would run out.
            client.set_linger(Some(Duration::ZERO)).unwrap();
            let to = to.into();
            let start = Instant::now();
            client.connect(&to).unwrap();
            spent += start.elapsed();
            drop(server.accept().unwrap());
        }
        spent
    })
}

/// The same where nobody listens: less of the time is the kernel's own.
fn measure_refused(to: SocketAddr) -> u128 {
    rounds(|| {
        let mut spent = Duration::ZERO;
        for _ in 0..CONNECTIONS {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let to = to.into();
            let start = Instant::now();
            client.connect(&to).unwrap_err();
            spent += start.elapsed();
        }
        spent
    })
}

fn rounds(round: impl Fn() -> Duration) -> u128 {
    let mut spent: Vec<_> = (0..ROUNDS).map(|_| round().as_nanos() / CONNECTIONS as u128).collect();
    spent.sort_unstable();
    spent[ROUNDS / 2]
}
