//! Apps that do not read what they are sent, and those beside them in the same pair of pods.

use pillion_tests::{Agent, AgentOptions, Pair, Pod, apps, wait};
use std::time::Duration;

/// Reads 4 MiB of each connection on port 7 and then nothing; answers every byte on port 8.
const SERVER: &str = "
import asyncio, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
async def sleep(reader, writer):
    left = 4 << 20
    while left > 0 and (data := await reader.read(left)): left -= len(data)
    await asyncio.sleep(3600)
async def answer(reader, writer):
    while data := await reader.read(100): writer.write(data)
    writer.close()
async def main():
    servers = [await asyncio.start_server(on, '0.0.0.0', port, backlog=4096) for port, on in [(7, sleep), (8, answer)]]
    await asyncio.gather(*(server.serve_forever() for server in servers))
asyncio.run(main())
";

/// 100 connections that send pieces of argv[2] bytes for as long as the test lives; beside them one that is open from the
/// start, and one new one for each ping. Prints the longest wait after argv[3] seconds.
const CLIENT: &str = "
import asyncio, sys, time
async def connect(port): return await asyncio.open_connection(sys.argv[1], port)
async def flood(writer, piece):
    while True:
        writer.write(piece)
        await (writer.drain() if len(piece) > 1 else asyncio.sleep(0))
async def ping(reader, writer):
    began = time.monotonic()
    writer.write(b'x'); await asyncio.wait_for(reader.readexactly(1), 20)
    return time.monotonic() - began
async def main():
    piece, until = b'x' * int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
    kept = await connect(8)
    await ping(*kept)
    for _ in range(100):
        asyncio.create_task(flood((await connect(7))[1], piece))
    longest = 0
    while time.monotonic() < until:
        longest = max(longest, await ping(*kept))
        began = time.monotonic()
        new = await asyncio.wait_for(connect(8), 20); await ping(*new); new[1].close()
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.1)
    print(longest)
asyncio.run(main())
";

/// Seconds. Where a sleeper holds its neighbours up, it does so for as long as it sleeps; what is shorter is a busy machine's.
const NOBODY_STANDS_STILL: f64 = 10.0;

/// Asserts that no neighbour stood still; gives how much both agents have grown, in MiB.
fn grown_beside_stalled(pair: &Pair, piece: usize) -> u64 {
    let rss = || pair.near.rss().unwrap() + pair.far.rss().unwrap();
    let server = apps::python(&pair.server, SERVER, [""; 0]).log("stalled").start().unwrap();
    server.wait_listening(8).unwrap();
    let before = rss();
    let args = [pair.server.ip4().to_string(), piece.to_string(), "20".to_owned()];
    let said = apps::python(&pair.client, CLIENT, args).timeout(Duration::from_secs(120)).run().unwrap();
    let grown = rss().saturating_sub(before) >> 20;
    let longest: f64 = said.trim().parse().unwrap();
    assert!(longest < NOBODY_STANDS_STILL, "a neighbour waited {longest:.1} s");
    grown
}

// proves: ISO-1, ISO-3
#[test]
fn a_hundred_readers_that_sleep_hold_up_nobody_else_of_the_pair() {
    let pair = Pair::new("stalled").unwrap();
    let grown = grown_beside_stalled(&pair, 65_536);
    assert!(grown < 500, "the agents have grown by {grown} MiB");
    // What is new goes to another connection while one is busy; there are never many.
    let worker = pair.near.worker(&pair.client).unwrap().unwrap();
    let connections = worker["pool"][0]["connections"].as_u64().unwrap();
    assert!((2..=4).contains(&connections), "{connections} connections to the peer: {worker}");
}

// proves: ISO-1, ISO-3
#[test]
fn single_bytes_that_nobody_reads_end_no_connection() {
    let pair = Pair::new("single-bytes").unwrap();
    let grown = grown_beside_stalled(&pair, 1);
    assert!(grown < 300, "the agents have grown by {grown} MiB");
}

/// On port 7, takes connections, floods them, and never reads.
const PLAIN_SERVER: &str = "
import resource, selectors, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
listener.bind(('0.0.0.0', 7)); listener.listen(4096)
kept = selectors.DefaultSelector(); kept.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in kept.select():
        if key.fileobj is listener:
            s = listener.accept()[0]; s.setblocking(False); kept.register(s, selectors.EVENT_WRITE)
        else:
            try: key.fileobj.send(b'x' * 65536)
            except BlockingIOError: pass
";

/// 150 connections that are flooded and never read from; says so once none has taken a byte for a second.
const PLAIN_CLIENT: &str = "
import resource, selectors, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
kept = selectors.DefaultSelector()
for _ in range(150):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096); s.connect((sys.argv[1], 7))
    s.setblocking(False); kept.register(s, selectors.EVENT_WRITE)
while ready := kept.select(1):
    for key, _ in ready:
        try: key.fileobj.send(b'x' * 65536)
        except BlockingIOError: pass
print('full', flush=True)
sys.stdin.read()
";

// proves: ISO-1, ISO-3
#[test]
fn plain_connections_whose_ends_do_not_read_hold_nothing_in_the_agent() {
    let pair = Pair::new("plain-stalled").unwrap();
    let outsider = pair.far.node().pod("outsider").create().unwrap();
    pair.near.wait_known(&outsider).unwrap();
    let server = apps::python(&outsider, PLAIN_SERVER, [""; 0]).log("server").start().unwrap();
    server.wait_listening(7).unwrap();
    let before = pair.near.rss().unwrap();
    let client = apps::python(&pair.client, PLAIN_CLIENT, [outsider.ip4().to_string()]);
    let client = client.log("client").start().unwrap();
    client.wait_log("full", Duration::from_secs(60)).unwrap();
    let open =
        |metrics: &pillion_tests::metrics::Metrics| metrics.sum("pillion_open_connections", &[]) >= 150.0;
    pair.near.wait_metrics("all are open", open).unwrap();
    let grown = pair.near.rss().unwrap().saturating_sub(before) >> 10;
    assert!(grown < 150 * 32, "each connection holds {} KiB", grown / 150);
}

/// On port 7, takes connections, floods them, and never reads; the kernel's buffers are as large as it likes.
const FLOODING_SERVER: &str = "
import resource, selectors, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('0.0.0.0', 7)); listener.listen(4096)
kept = selectors.DefaultSelector(); kept.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in kept.select():
        if key.fileobj is listener:
            s = listener.accept()[0]; s.setblocking(False); kept.register(s, selectors.EVENT_WRITE)
        else:
            try: key.fileobj.send(b'x' * 65536)
            except BlockingIOError: pass
            except OSError: kept.unregister(key.fileobj); key.fileobj.close()
";

/// As many connections as argv[2] says, which are flooded and never read from; says how many of them were reset once none has
/// taken a byte for two seconds.
const FLOODING_CLIENT: &str = "
import resource, selectors, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
kept, reset = selectors.DefaultSelector(), 0
for _ in range(int(sys.argv[2])):
    s = socket.socket(); s.connect((sys.argv[1], 7))
    s.setblocking(False); kept.register(s, selectors.EVENT_WRITE)
while ready := kept.select(2):
    for key, _ in ready:
        try: key.fileobj.send(b'x' * 65536)
        except BlockingIOError: pass
        except OSError: reset += 1; kept.unregister(key.fileobj); key.fileobj.close()
print('full', reset, flush=True)
sys.stdin.read()
";

/// What the kernel holds for the agent's sockets in a pod, in bytes: received and not read, written and not acknowledged (ss(8),
/// `skmem`).
fn held_by_kernel(agent: &Agent, pod: &Pod) -> usize {
    let sockets = pod.command("ss").args(["-tnmpOH"]).run().unwrap();
    let own = format!("pid={},", agent.pid());
    let held = |line: &str| {
        let (_, memory) = line.split_once("skmem:(")?;
        let of = |name: &str| {
            memory.split([',', ')']).find_map(|field| field.strip_prefix(name)?.parse::<usize>().ok())
        };
        Some(of("r")? + of("w")?)
    };
    sockets.lines().filter(|line| line.contains(&own)).filter_map(held).sum()
}

const MIB: usize = 1 << 20;

/// Of an agent that may use 512 MiB: three sixteenths.
const POD_BUDGET: usize = 96 * MIB;

/// Floods so many connections from a pod to `server` whose ends do not read, and asserts that what the kernel holds for the
/// agents' sockets is within the pod's budget, and that a neighbour's connection goes on.
fn assert_sockets_within_budget(pair: &Pair, server: &Pod, connections: usize, at: &[(&Agent, &Pod)]) {
    let neighbour = pair.near.node().pod("neighbour").captured().create().unwrap();
    pair.near.wait_serving(&neighbour).unwrap();
    pair.far.wait_known(&neighbour).unwrap();
    apps::echo(&pair.server, 8).unwrap();
    let talk = apps::converse(&neighbour, pair.server.ip4().into(), 8, "neighbour").unwrap();
    talk.say("before").unwrap();
    let floods = apps::python(server, FLOODING_SERVER, [""; 0]).log("flooding-server").start().unwrap();
    floods.wait_listening(7).unwrap();
    let client =
        apps::python(&pair.client, FLOODING_CLIENT, [server.ip4().to_string(), connections.to_string()]);
    let client = client.log("flooding-client").start().unwrap();
    client.wait_log("full", Duration::from_secs(90)).unwrap();
    for (agent, pod) in at {
        let mut held = 0;
        let is_within = || {
            held = held_by_kernel(agent, pod);
            Ok((held <= POD_BUDGET).then_some(()))
        };
        let within =
            wait::until("the sockets hold no more than the budget", Duration::from_secs(10), is_within);
        eprintln!("the kernel holds {} MiB for the agent in {}", held / MIB, pod.name());
        within.unwrap();
    }
    talk.say("after").unwrap();
    talk.close().unwrap();
}

// proves: ISO-1, ISO-3
#[test]
fn what_the_kernel_holds_for_plain_connections_that_nobody_reads_is_within_the_pods_budget() {
    let pair = Pair::with("plain-sockets", &AgentOptions::default().access_log().node_memory(512)).unwrap();
    let outsider = pair.far.node().pod("outsider").create().unwrap();
    pair.near.wait_known(&outsider).unwrap();
    assert_sockets_within_budget(&pair, &outsider, 600, &[(&pair.near, &pair.client)]);
    // Those that had to go say why.
    let is_over = |line: &serde_json::Value| line["response_flags"] == "UO";
    pair.near.wait_access("a connection that had to go", is_over).unwrap();
}

// proves: ISO-1, ISO-3
#[test]
fn what_the_kernel_holds_for_streams_that_nobody_reads_is_within_the_pods_budget() {
    let pair = Pair::with("stream-sockets", &AgentOptions::default().access_log().node_memory(512)).unwrap();
    let server = pair.server.clone();
    assert_sockets_within_budget(
        &pair,
        &server,
        1500,
        &[(&pair.near, &pair.client), (&pair.far, &pair.server)],
    );
}
