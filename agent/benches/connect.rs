//! What the hooks cost connect(): printed, not judged (a shared machine is no scale).
//!
//! `cargo bench -p pillion-agent --bench connect` (as root)

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Bed, ELSEWHERE4, NODE, in_pod};
use pillion_agent::kernel::Kernel;
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 5_000;
const ROUNDS: usize = 15;

fn main() {
    let bed = Bed::new();
    in_pod(|pod| {
        let [nobody, server] = [81, 80].map(|port| SocketAddr::from((ELSEWHERE4, port)));
        let listener = TcpListener::bind(server).unwrap();
        let mut best = [[u128::MAX; 3]; 2];
        // In turns: what else the machine does hits all of them.
        for _ in 0..ROUNDS {
            let mut round = [[0; 3]; 2];
            round[0][0] = established(server, &listener);
            round[1][0] = refused(nobody);
            let mut kernel = bed.open();
            round[0][1] = established(server, &listener);
            round[1][1] = refused(nobody);
            kernel.capture(pod.cookie, &pod.capture()).unwrap();
            round[1][2] = refused(nobody);
            let worker = TcpListener::bind("127.0.0.1:15001").unwrap();
            round[0][2] = established(server, &worker);
            drop(kernel);
            Kernel::uninstall(&bed.bpffs, NODE).unwrap();
            for (best, round) in best.iter_mut().flatten().zip(round.iter().flatten()) {
                *best = (*best).min(*round);
            }
        }
        println!("ns per connect(): [without hooks, not captured, captured]");
        println!("established (both ends on this machine): {:?}", best[0]);
        println!("refused by the peer: {:?}", best[1]);
    });
}

/// Nanoseconds per connect() to a listener.
fn established(to: SocketAddr, listener: &TcpListener) -> u128 {
    connect_often(|client| {
        let start = Instant::now();
        client.connect(&to.into()).unwrap();
        let spent = start.elapsed();
        drop(listener.accept().unwrap());
        spent
    })
}

/// The same where nobody listens: less of the time is the kernel's own.
fn refused(to: SocketAddr) -> u128 {
    connect_often(|client| {
        let start = Instant::now();
        client.connect(&to.into()).unwrap_err();
        start.elapsed()
    })
}

fn connect_often(connect: impl Fn(&Socket) -> Duration) -> u128 {
    let spent: Duration = (0..CONNECTIONS)
        .map(|_| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            // Without TIME_WAIT: ports would run out.
            client.set_linger(Some(Duration::ZERO)).unwrap();
            connect(&client)
        })
        .sum();
    spent.as_nanos() / CONNECTIONS as u128
}
