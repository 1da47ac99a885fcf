//! Apps that do not read what they are sent, and those beside them in the same pair of pods.

use pillion_tests::{Pair, apps};
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
