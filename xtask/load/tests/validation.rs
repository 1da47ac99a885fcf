//! The generator against servers whose behaviour is known. Times are judged from below only: a busy machine may be
//! late, never early.

mod servers;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use pillion_load::Report;
use servers::{
    Server, http2, that_answers, that_answers_once, that_echoes_zeros, that_resets, that_says_it_got_nothing,
};

const STALL_MS: f64 = 50.0;

fn client(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion-load"));
    command.args(args);
    command
}

/// Runs a client for a second without a warm-up.
fn run(subcommand: &str, port: u16, args: &[&str]) -> Report {
    let to = format!("127.0.0.1:{port}");
    let fixed = [subcommand, "--to", &to, "--seconds", "1", "--warm-up", "0"];
    let output = client(&fixed).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stall() -> Server {
    Server::start(&["--stall", &format!("0:{STALL_MS}")])
}

#[test]
fn an_open_loop_shows_the_time_that_the_server_takes() {
    let server = stall();
    let report = run("http", server.port, &["--connections", "8", "--rate", "40"]);
    let latency = report.latency.unwrap();
    assert!(latency.p50 >= STALL_MS * 1e3 && latency.p99 >= latency.p50, "{latency:?}");
    assert_eq!(report.requests + report.errors, 40, "every request that was due is accounted for");
}

#[test]
fn an_open_loop_shows_the_queue_before_a_server_that_is_too_slow() {
    let server = stall();
    // Twenty a second are answered, for one second and two of grace: the k-th at 50 k ms, and it was due at
    // 10 (k - 1) ms. What is left waits from its time to the end of the third second.
    let report = run("http", server.port, &["--rate", "100"]);
    assert!(report.requests <= 60, "{report:?}");
    assert_eq!(report.requests + report.errors, 100, "every request that was due is accounted for");
    let latency = report.latency.unwrap();
    assert!(latency.p50 >= 1_500e3 && latency.p99 >= 2_200e3, "{latency:?}");
}

#[test]
fn a_closed_loop_shows_the_time_that_the_server_takes() {
    let server = stall();
    let report = run("http", server.port, &["--connections", "4"]);
    assert!((1..=80).contains(&report.requests) && report.errors == 0, "{report:?}");
    assert!(report.latency.unwrap().cdf[0].0 >= STALL_MS * 1e3);
}

#[test]
fn round_trips_at_a_rate_are_all_accounted_for() {
    let server = Server::start(&["--echo", "0"]);
    for size in ["64", "1024", "16384"] {
        let report = run("ping-pong", server.port, &["--size", size, "--rate", "100"]);
        assert_eq!(report.requests + report.errors, 100);
        assert_eq!(report.bytes, report.requests * size.parse::<u64>().unwrap());
    }
}

#[test]
fn round_trips_bring_the_same_bytes_back() {
    let server = Server::start(&["--echo", "0"]);
    let report = run("ping-pong", server.port, &["--size", "300000"]);
    assert!(report.requests > 0 && report.errors == 0, "{report:?}");
    let liar = that_echoes_zeros();
    let report = run("ping-pong", liar, &[]);
    assert!(report.requests == 0 && report.first_error.unwrap().contains("other bytes"));
}

#[test]
fn bulk_counts_what_the_sink_counted() {
    let server = Server::start(&["--sink", "0"]);
    // The client compares the sink's count with its own.
    let report = run("bulk", server.port, &["--streams", "3"]);
    assert!(
        report.errors == 0 && report.bytes > 0 && report.bytes <= report.with_warm_up.bytes,
        "{report:?}"
    );
    assert_eq!(report.with_warm_up.bytes % (128 << 10), 0, "whole writes are sent");
    assert!(report.seconds > 0.0 && report.seconds <= 1.0, "{report:?}");
}

#[test]
fn bulk_down_counts_what_was_read() {
    let server = Server::start(&["--source", "0"]);
    let report = run("bulk", server.port, &["--streams", "2", "--direction", "down"]);
    assert!(report.errors == 0 && report.bytes > 0 && report.seconds <= 1.0, "{report:?}");
}

#[test]
fn a_sink_that_lost_bytes_is_an_error() {
    let report = run("bulk", that_says_it_got_nothing(), &[]);
    assert_eq!((report.errors, report.bytes), (1, 0));
    assert!(report.first_error.unwrap().ends_with("bytes were sent, and the sink got 0"));
}

#[test]
fn failures_are_errors_and_not_requests() {
    let (refuses, resets) = (that_answers("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), that_resets());
    let endless = that_answers("HTTP/1.1 200 OK\r\n\r\n");
    for (port, said) in
        [(refuses, "status 500"), (resets, "before it answered"), (endless, "no Content-Length")]
    {
        for rate in [&[][..], &["--rate", "50"]] {
            let report = run("http", port, rate);
            let error = report.first_error.unwrap();
            assert!(report.errors > 0 && report.requests == 0 && report.latency.is_none());
            assert!(error.contains(said), "{error}");
        }
    }
}

#[test]
fn a_request_is_sent_again_where_the_server_has_closed_a_connection_that_was_in_use() {
    let port = that_answers_once();
    let report = run("http", port, &[]);
    assert!(report.errors > 0 && report.requests > 0, "{report:?}");
    let report = run("http", port, &["--resend"]);
    assert!(report.errors == 0 && report.requests > 0, "{report:?}");
    // A new connection that is closed is an error.
    let report = run("http", that_resets(), &["--resend"]);
    assert!(report.errors > 0 && report.requests == 0, "{report:?}");
}

#[test]
fn http2_and_connections_for_one_request_work() {
    let report = run("http", http2(), &["--http2", "--connections", "3"]);
    assert!(
        report.errors == 0 && report.requests > 0 && report.bytes == report.requests * 1024,
        "{report:?}"
    );
    let closes = that_answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    let report = run("http", closes, &["--close", "--connections", "2"]);
    assert!(report.errors == 0 && report.requests > 0 && report.bytes == report.requests * 2, "{report:?}");
}

#[test]
fn held_connections_are_open_until_standard_input_ends() {
    let server = Server::start(&["--echo", "0"]);
    let to = format!("127.0.0.1:{0},[::1]:{0}", server.port);
    let mut hold = client(&["hold", "--to", &to, "--connections", "200"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(hold.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let mut stdin = hold.stdin.take().unwrap();
    stdin.write_all(b"still\n").unwrap();
    assert!(hold.try_wait().unwrap().is_none());
    drop(stdin);
    let report: Report = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((report.requests, report.errors), (200, 0));
    assert!(hold.wait().unwrap().success());
}

#[test]
fn connections_that_end_while_they_are_held_are_errors() {
    let server = Server::start(&["--echo", "0"]);
    let to = format!("127.0.0.1:{}", server.port);
    let mut hold = client(&["hold", "--to", &to, "--connections", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(hold.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    // Its end closes its sockets before it can be waited for.
    drop(server);
    drop(hold.stdin.take());
    let report: Report = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((report.requests, report.errors), (3, 3));
    hold.wait().unwrap();
}

#[test]
fn a_server_that_is_not_there_is_an_error_in_a_sentence() {
    // Bound and not listening: nobody else gets the port.
    let nobody = socket_without_listener();
    let to = format!("127.0.0.1:{}", nobody.1);
    for subcommand in [
        &["http", "--seconds", "1"][..],
        &["ping-pong", "--seconds", "1"],
        &["bulk", "--seconds", "1"],
        &["connect", "--seconds", "1"],
        &["hold", "--connections", "1"],
    ] {
        let output = client(subcommand).args(["--to", &to]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(output.stdout.is_empty() && error.lines().count() == 1 && error.contains(&to), "{error}");
    }
}

#[test]
fn connect_is_measured_against_a_listener_of_its_own() {
    let output = client(&["connect", "--seconds", "0.05", "--warm-up", "0"]).output().unwrap();
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.requests > 0 && report.latency.unwrap().p50 > 0.0);
}

fn socket_without_listener() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}
