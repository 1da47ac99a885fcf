//! What those may cost an agent who have not proven who they are.

use pillion_tests::{AgentOptions, Bed, apps, requirements, wait};
use std::fs;
use std::time::Duration;

/// Opens argv[2] connections to the worker, and sends on each the beginning of a ClientHello that never ends: 62 KiB of it, or
/// 24 KiB, in turn. Says so in the midst of it, and once it has done it for all. Keeps those that are left.
const STRANGER: &str = r"
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
body = b'\x01\x00\xfd\xe8' + b'\x00' * 63996
hello = b''.join(b'\x16\x03\x01' + len(part).to_bytes(2, 'big') + part for part in (body[i:i+16000] for i in range(0, len(body), 16000)))
kept = []
async def one(many, size):
    async with many:
        try:
            reader, writer = await asyncio.open_connection(sys.argv[1], 15008)
            writer.write(hello[:size]); await asyncio.wait_for(writer.drain(), 5); kept.append(writer)
        except (OSError, asyncio.TimeoutError): kept.append(None)
        if len(kept) == 2000: print('amid', flush=True)
async def main():
    many = asyncio.Semaphore(500)
    await asyncio.gather(*(one(many, [24000, len(hello)][i % 2]) for i in range(int(sys.argv[2]))))
    print('sent', flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
";

/// Connections that the stranger opens.
const STRANGERS: &str = "12000";

/// The worker's handshakes with those who prove who they are, meanwhile.
const PEERS: usize = 4;

/// What all unfinished handshakes of an agent that has 1 GiB may hold at the most, with what the allocator rounds up.
const GROWTH: u64 = 64 << 20;

/// A number of bytes from `/proc/…/status`.
fn status(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

// proves: ISO-1, ISO-3
#[test]
fn strangers_whose_handshakes_never_end_cost_little_memory_and_no_peer_its_own() {
    requirements::ensure(requirements::APPS).unwrap();
    let bed = Bed::new("handshakes").unwrap();
    let (n1, n2) = (bed.node("n1").unwrap(), bed.node("n2").unwrap());
    let peers: Vec<_> =
        (0..PEERS).map(|number| n1.pod(&format!("peer{number}")).captured().create().unwrap()).collect();
    let server = n2.pod("server").captured().create().unwrap();
    let stranger = n1.pod("stranger").create().unwrap();
    let near = n1.start_agent(&AgentOptions::default()).unwrap();
    let far = n2.start_agent(&AgentOptions::default()).unwrap();
    for peer in &peers {
        near.wait_serving(peer).unwrap();
        far.wait_known(peer).unwrap();
    }
    far.wait_serving(&server).unwrap();
    near.wait_known(&server).unwrap();
    apps::echo(&server, 7).unwrap();
    let address = server.ip4();
    // What a first handshake takes once for all belongs to what there was before.
    let warm = n1.pod("warm").captured().create().unwrap();
    near.wait_serving(&warm).unwrap();
    far.wait_known(&warm).unwrap();
    let talk = apps::converse(&warm, address.into(), 7, "warm").unwrap();
    talk.say("hello").unwrap();
    // Pages of the program itself come as they are used, and stay: they are not counted.
    let anonymous = || status(far.pid(), "RssAnon:");
    let (before, rss) = (anonymous(), far.rss().unwrap());
    let attack = apps::python(&stranger, STRANGER, [address.to_string(), STRANGERS.to_owned()]);
    let attack = attack.log("attack").start().unwrap();
    attack.wait_log("amid", Duration::from_secs(60)).unwrap();
    // Each peer's first connection is a handshake.
    for peer in &peers {
        let talk = apps::converse(peer, address.into(), 7, "amid").unwrap();
        talk.say("hello").unwrap();
        talk.close().unwrap();
    }
    attack.wait_log("sent", Duration::from_secs(120)).unwrap();
    let grown = status(far.pid(), "VmHWM:").saturating_sub(rss);
    assert!(grown < GROWTH, "the agent has grown by {} MiB", grown >> 20);
    let refused = far.metrics().unwrap().sum("pillion_budget_refused_total", &[("budget", "handshakes")]);
    assert!(refused > 4000.0, "{refused} were pushed out");
    attack.kill().unwrap();
    let is_back = || Ok((anonymous() <= before + rss / 20).then_some(()));
    wait::until("the memory is given back", Duration::from_secs(60), is_back).unwrap();
    println!(
        "{} KiB before, {} KiB more at the most; anonymous: {} KiB before, {} KiB after",
        rss >> 10,
        grown >> 10,
        before >> 10,
        anonymous() >> 10
    );
}
