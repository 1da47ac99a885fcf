//! A peer that takes few streams on a connection.

use super::Stage;
use pillion_tests::apps;
use pillion_tests::metrics::Metrics;
use std::time::Duration;

/// An HBONE server that allows one stream on each connection, and answers every request with 200 (certificate, key).
const SERVER: &str = r"
import socket, ssl, struct, sys, threading
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def read(s, count):
    got = b''
    while len(got) < count:
        piece = s.recv(count - len(got))
        if not piece: raise EOFError
        got += piece
    return got
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:3]); context.set_alpn_protocols(['h2'])
listener = socket.create_server(('0.0.0.0', 15008), backlog=1024)
def serve(s):
    try:
        s = context.wrap_socket(s, server_side=True)
        read(s, 24)
        print('connection', flush=True)
        s.sendall(frame(4, 0, 0, struct.pack('>HI', 3, 1)))
        while True:
            header = read(s, 9)
            payload = read(s, int.from_bytes(header[:3], 'big'))
            if header[3] == 1: s.sendall(frame(1, 4, int.from_bytes(header[5:], 'big'), b'\x88'))
            elif header[3] == 4 and not header[4] & 1: s.sendall(frame(4, 1, 0))
            elif header[3] == 6 and not header[4] & 1: s.sendall(frame(6, 1, 0, payload))
    except (EOFError, OSError): pass
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// 60 connections at once, that stay.
const CLIENT: &str = "
import socket, sys
held = []
for _ in range(60):
    s = socket.create_connection((sys.argv[1], 80)); s.sendall(b'x'); held.append(s)
print('held', flush=True)
sys.stdin.read()
";

/// Connections to the peer, by [`SERVER`]'s choice of one stream each.
const AT_ONCE: usize = 16;

// proves: ISO-1
#[test]
fn a_peer_that_takes_one_stream_at_a_time_gets_few_connections() {
    let stage = Stage::new("few-streams", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let server = apps::python(&stage.foreign, SERVER, [&own.certificate, &own.key]).start().unwrap();
    server.wait_listening(15008).unwrap();
    let client = apps::python(&stage.pod, CLIENT, [stage.foreign.ip4().to_string()]).start().unwrap();
    client.wait_log("held", Duration::from_secs(10)).unwrap();
    // Those that are over wait for as long as a connection may take, and fail.
    let refused = (60 - AT_ONCE) as f64;
    let counted = |metrics: &Metrics| {
        metrics.sum("pillion_budget_refused_total", &[("budget", "connections")]) >= refused
    };
    stage.agent.wait_metrics("that the others are refused", counted).unwrap();
    let line = stage.agent.wait_access("a refused one", |line| line["response_flags"] == "UO").unwrap();
    assert!(line["error"].as_str().unwrap().contains("takes few streams"), "{line}");
    assert_eq!(server.log().matches("connection").count(), AT_ONCE);
    client.close_input();
}
