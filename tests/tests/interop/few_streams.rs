//! A peer that takes few streams on a connection.

use super::Stage;
use pillion_tests::apps;
use std::time::Duration;

/// An HBONE server that allows one stream on each connection, and says a byte on each (certificate, key).
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
            stream = int.from_bytes(header[5:], 'big')
            if header[3] == 1: s.sendall(frame(1, 4, stream, b'\x88') + frame(0, 0, stream, b'y'))
            elif header[3] == 4 and not header[4] & 1: s.sendall(frame(4, 1, 0))
            elif header[3] == 6 and not header[4] & 1: s.sendall(frame(6, 1, 0, payload))
    except (EOFError, OSError): pass
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// One connection after the other that stay, argv[2] of them, then argv[3] at once.
const CLIENT: &str = "
import socket, sys
held = []
def connect():
    s = socket.create_connection((sys.argv[1], 80)); s.sendall(b'x'); held.append(s)
    return s
for _ in range(int(sys.argv[2])): assert connect().recv(1) == b'y'
for _ in range(int(sys.argv[3])): connect()
print('held', flush=True)
sys.stdin.read()
";

/// A peer may have so many connections, however few streams it takes on each.
const CONNECTIONS: usize = 16;

const OVER: usize = 20;

// proves: ISO-1
#[test]
fn a_peer_that_takes_one_stream_at_a_time_gets_few_connections() {
    let stage = Stage::new("few-streams", true).unwrap();
    let own = stage.authority.issue("foreign").unwrap();
    let server =
        apps::python(&stage.foreign, SERVER, [""; 0]).arg(&own.certificate).arg(&own.key).start().unwrap();
    server.wait_listening(15008).unwrap();
    let args = [stage.foreign.ip4().to_string(), CONNECTIONS.to_string(), OVER.to_string()];
    let client = apps::python(&stage.pod, CLIENT, args).start().unwrap();
    client.wait_log("held", Duration::from_secs(10)).unwrap();
    // Those that are over wait for as long as a connection may take, and fail.
    let counted = || {
        let metrics = stage.agent.metrics()?;
        let count = metrics.sum("pillion_budget_refused_total", &[("budget", "connections")]);
        Ok((count >= OVER as f64).then_some(()))
    };
    stage.agent.process().wait_for("the others to be refused", Duration::from_secs(30), counted).unwrap();
    let line = stage.agent.wait_access("a refused one", |line| line["response_flags"] == "UO").unwrap();
    assert!(line["error"].as_str().unwrap().contains("takes few streams"), "{line}");
    assert_eq!(server.log().matches("connection").count(), CONNECTIONS);
    client.close_input();
}
