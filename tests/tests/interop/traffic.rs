//! What TCP promises to apps, tried over whatever lies between a client and a server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pillion_tests::{Agent, Pod, Process, apps};

/// Where the server of these trials listens.
pub const PORT: u16 = 7000;

/// Bytes of a bulk transfer, each way.
const BULK: usize = 64 << 20;

/// Longer than any of these takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process may keep for a reader that sleeps: windows and buffers, and not what the sender has to send.
const KEPT_FOR_A_SLEEPER: u64 = 16 << 20;

/// Starts the server in the pod, both families.
pub fn server(pod: &Pod) -> Result<Process> {
    let server = apps::python(pod, SERVER, [PORT.to_string()]).log("traffic").start()?;
    server.wait_listening(PORT)?;
    Ok(server)
}

/// What a program sees of a connection on which it sends and then reads: "reset", "end" or "data".
pub fn attempt(client: &Pod, to: SocketAddr) -> Result<String> {
    let script = "
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
    s.sendall(b'secret')
    print('data' if s.recv(1) else 'end')
except ConnectionResetError:
    print('reset')
";
    let said = apps::python(client, script, [to.ip().to_string(), to.port().to_string()]).run()?;
    Ok(said.trim().to_owned())
}

/// Bulk both ways at once, checksummed; the client's FIN reaches the server, which answers with its own.
pub fn bulk(client: &Pod, to: SocketAddr) -> Result<()> {
    expect(client, to, "bulk", BULK, "same")
}

/// Fifty connections that are open at the same time, each with a megabyte each way.
pub fn many(client: &Pod, to: SocketAddr) -> Result<()> {
    expect(client, to, "many", 50, "same 50")
}

/// The server ends its direction first; what the client sends after that arrives.
pub fn server_finishes_first(client: &Pod, to: SocketAddr, server: &Process) -> Result<()> {
    let before = count(server, "after finish 1048576");
    expect(client, to, "finish", 1 << 20, "bye")?;
    wait_count(server, "after finish 1048576", before + 1)
}

/// The client resets.
pub fn client_resets(client: &Pod, to: SocketAddr) -> Result<()> {
    expect(client, to, "reset", 0, "done")
}

/// Waits until the server has seen that many resets: no end of data, as it would be at the end of a whole message.
pub fn server_saw_resets(server: &Process, count: usize) -> Result<()> {
    wait_count(server, "watch saw a reset", count)
}

/// The server resets; the client sees a reset and no end of data.
pub fn server_resets(client: &Pod, to: SocketAddr) -> Result<()> {
    expect(client, to, "abort", 0, "reset")
}

/// The server sends that many bytes and closes, while the client still could send: all of it arrives, and then
/// the end.
pub fn server_closes(client: &Pod, to: SocketAddr, bytes: usize) -> Result<()> {
    expect(client, to, "farewell", bytes, "same")
}

/// A client that does not read stops the server, costs the agent little, and gets everything when it wakes up.
pub fn sleeper(client: &Pod, to: SocketAddr, server: &Process, agent: &Agent) -> Result<()> {
    let before = count(server, "pour stalled");
    let rss = agent.rss()?;
    let process = start(client, to, "pour", BULK)?;
    wait_count(server, "pour stalled", before + 1)?;
    let kept = agent.rss()?.saturating_sub(rss);
    ensure!(kept < KEPT_FOR_A_SLEEPER, "the agent keeps {kept} bytes for a client that sleeps");
    process.write_line("wake up")?;
    process.wait(PATIENCE)?;
    ensure!(process.log().ends_with("same\n"), "the sleeper got something else: {}", process.log());
    Ok(())
}

fn expect(client: &Pod, to: SocketAddr, what: &str, size: usize, answer: &str) -> Result<()> {
    let args = [to.ip().to_string(), to.port().to_string(), what.to_owned(), size.to_string()];
    let said = apps::python(client, CLIENT, args).timeout(PATIENCE).run();
    let said = said.with_context(|| format!("{what} from {} to {to}", client.name()))?;
    ensure!(said.trim() == answer, "{what} to {to}: the client said {said:?}, not {answer:?}");
    Ok(())
}

fn start(client: &Pod, to: SocketAddr, what: &str, size: usize) -> Result<Process> {
    let args = [to.ip().to_string(), to.port().to_string(), what.to_owned(), size.to_string()];
    apps::python(client, CLIENT, args).log(&format!("{what}-{}", to.is_ipv6())).start()
}

fn count(server: &Process, line: &str) -> usize {
    server.log().matches(line).count()
}

fn wait_count(server: &Process, line: &str, wanted: usize) -> Result<()> {
    let counted = || Ok((count(server, line) >= wanted).then_some(()));
    server.wait_for(&format!("{line:?} for the {wanted}th time"), PATIENCE, counted)
}

/// Its first line says what a connection is for.
const SERVER: &str = r"
import socket, struct, sys, threading

def echo(s, f):
    while data := f.read1(65536):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)

def finish(s, f):
    s.sendall(b'bye')
    s.shutdown(socket.SHUT_WR)
    print('after finish', len(f.read()))

def abort(s, f):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))

def farewell(s, f):
    s.sendall(bytes(int(f.readline())))

def watch(s, f):
    s.sendall(b'watching\n')
    try:
        f.read()
        print('watch saw an end')
    except ConnectionResetError:
        print('watch saw a reset')

def pour(s, f):
    block, left = bytes(65536), int(f.readline())
    s.settimeout(1)
    while left:
        try:
            left -= s.send(block[:left])
        except TimeoutError:
            print('pour stalled with', left, 'left')
            s.settimeout(None)
    f.read()

def serve(s):
    with s, s.makefile('rb') as f:
        try:
            globals()[f.readline().decode().strip()](s, f)
        except OSError as error:
            print(error)

listener = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
";

const CLIENT: &str = r"
import hashlib, random, socket, struct, sys, threading
host, port, what, size = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

def connect(what):
    s = socket.create_connection((host, port), timeout=50)
    s.sendall(what.encode() + b'\n')
    return s, s.makefile('rb')

def bulk(s, f, size):
    block, sent, got = random.randbytes(1 << 20), hashlib.sha256(), hashlib.sha256()
    def send():
        for _ in range(size >> 20):
            s.sendall(block)
            sent.update(block)
        s.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    while data := f.read1(65536):
        got.update(data)
    sender.join()
    return 'same' if sent.digest() == got.digest() else 'other'

if what == 'bulk':
    print(bulk(*connect('echo'), size))
elif what == 'many':
    open_ones = [connect('echo') for _ in range(size)]
    for s, f in open_ones:
        s.sendall(b'?')
    assert all(f.read(1) == b'?' for s, f in open_ones)
    answers = []
    threads = [threading.Thread(target=lambda s, f: answers.append(bulk(s, f, 1 << 20)), args=one) for one in open_ones]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print('same', answers.count('same'))
elif what == 'finish':
    s, f = connect('finish')
    print(f.read().decode())
    s.sendall(bytes(size))
    s.shutdown(socket.SHUT_WR)
elif what == 'reset':
    s, f = connect('watch')
    assert f.readline() == b'watching\n'
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    f.close()
    s.close()
    print('done')
elif what == 'abort':
    s, f = connect('abort')
    try:
        print('end' if not f.read() else 'data')
    except ConnectionResetError:
        print('reset')
elif what == 'farewell':
    s, f = connect('farewell\n' + str(size))
    print('same' if f.read() == bytes(size) else 'other')
elif what == 'pour':
    s, f = connect('pour\n' + str(size))
    sys.stdin.readline()
    print('same' if f.read(size) == bytes(size) else 'other')
";
