//! TCP as the apps know it: what each end would see without a mesh, it sees with it.

use std::net::IpAddr;
use std::time::Duration;

use pillion_tests::{Pair, apps};

/// A Python server and client on a captured pair, over each family. Both get an address and port 9 as arguments;
/// `serve(s)` has the accepted socket, `talk(s)` the connected one; what each prints is given back.
fn over_both_families(pair: &Pair, serve: &str, talk: &str) -> Vec<(String, String)> {
    const FRAME: &str = "
import errno, hashlib, select, socket, struct, sys, time
def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()
def name(call):
    try: return call()
    except OSError as error: return errno.errorcode.get(error.errno, type(error).__name__)
def all_of(s):
    parts = []
    while data := s.recv(65536): parts.append(data)
    return b''.join(parts)
";
    let server = format!(
        "{FRAME}
{serve}
l = socket.create_server(('::', 9), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    s = l.accept()[0]; s.settimeout(90); serve(s); s.close(); print('done')
"
    );
    let client = format!(
        "{FRAME}
{talk}
s = socket.create_connection((sys.argv[1], 9), 90); talk(s); s.close()
"
    );
    let server = apps::python(&pair.server, &server, [""; 0]).log("tcp").start().unwrap();
    server.wait_listening(9).unwrap();
    let mut said = Vec::new();
    for ip in pair.server.addresses() {
        let client =
            apps::python(&pair.client, &client, [ip.to_string()]).timeout(Duration::from_secs(150)).run();
        let ends = said.len() + 1;
        let all = server.wait_for("the server's end", Duration::from_secs(90), || {
            let log = server.log();
            Ok((log.matches("done\n").count() == ends).then_some(log))
        });
        let last = all.unwrap().split("done\n").nth(ends - 1).unwrap().to_owned();
        said.push((client.unwrap(), last));
    }
    said
}

fn expect(name: &str, serve: &str, talk: &str, client: &str, server: &str) {
    let pair = Pair::new(name).unwrap();
    for said in over_both_families(&pair, serve, talk) {
        assert_eq!((said.0.as_str(), said.1.as_str()), (client, server));
    }
}

// proves: TCP-2
#[test]
fn the_client_may_close_its_direction_first() {
    let serve = "def serve(s): data = all_of(s); print(len(data)); s.sendall(b'y' * 300000)";
    let talk = "def talk(s): s.sendall(b'x' * 500000); s.shutdown(socket.SHUT_WR); print(len(all_of(s)))";
    expect("half-client", serve, talk, "300000\n", "500000\n");
}

// proves: TCP-2
#[test]
fn the_server_may_close_its_direction_first() {
    let serve = "def serve(s): s.sendall(b'y' * 300000); s.shutdown(socket.SHUT_WR); print(len(all_of(s)))";
    let talk = "def talk(s): print(len(all_of(s))); s.sendall(b'x' * 500000)";
    expect("half-server", serve, talk, "300000\n", "500000\n");
}

// proves: TCP-2
#[test]
fn a_reset_by_the_client_reaches_the_server() {
    let serve = "def serve(s): s.sendall(b'go'); print(name(lambda: len(all_of(s))))";
    let talk = "def talk(s): print(s.recv(2)); reset(s)";
    expect("reset-client", serve, talk, "b'go'\n", "ECONNRESET\n");
}

// proves: TCP-2
#[test]
fn a_reset_by_the_server_reaches_the_client() {
    let serve = "def serve(s): print(s.recv(2)); reset(s)";
    let talk = "def talk(s): s.sendall(b'go'); print(name(lambda: len(all_of(s))))";
    expect("reset-server", serve, talk, "ECONNRESET\n", "b'go'\n");
}

// proves: TCP-1
#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    let serve = "def serve(s): s.sendall(b'220 ready'); print(s.recv(9))";
    let talk = "
def talk(s):
    begun = time.monotonic(); print(s.recv(9), time.monotonic() - begun < 1); s.sendall(b'hello')
";
    expect("first", serve, talk, "b'220 ready' True\n", "b'hello'\n");
}

// proves: TCP-2
#[test]
fn a_reader_that_sleeps_holds_the_writer_and_loses_nothing() {
    // 1 GiB would be the mesh's to keep if it did not hold the writer: it may take a few windows, no more.
    let serve = "
def serve(s):
    time.sleep(60)
    digest, size = hashlib.sha256(), 0
    while data := s.recv(1 << 20): digest.update(data); size += len(data)
    print(size, digest.hexdigest())
";
    let talk = "
def talk(s):
    s.setblocking(False)
    block, digest, size, deadline = bytes(range(256)) * 4096, hashlib.sha256(), 0, time.monotonic() + 50
    while time.monotonic() < deadline and size < 1 << 30:
        if not select.select([], [s], [], 5)[1]: continue
        n = s.send(block); digest.update(block[:n]); size += n
    print(size < 128 << 20)
    s.setblocking(True); s.sendall(b'end'); digest.update(b'end')
    print(size + 3, digest.hexdigest())
";
    let pair = Pair::new("sleeper").unwrap();
    let before = pair.near.rss().unwrap() + pair.far.rss().unwrap();
    for (client, server) in over_both_families(&pair, serve, talk) {
        let (held, sum) = client.split_once('\n').unwrap();
        assert_eq!((held, sum), ("True", server.as_str()));
    }
    let grown = (pair.near.rss().unwrap() + pair.far.rss().unwrap()).saturating_sub(before);
    assert!(grown < 200 << 20, "the agents grew by {} MiB", grown >> 20);
}

// proves: TCP-2
#[test]
fn five_thousand_connections_at_once_all_work() {
    const CLIENT: &str = "
import asyncio, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
async def one(n, up):
    r, w = await asyncio.open_connection(sys.argv[1], 7)
    w.write(b'%d\\n' % n); await w.drain()
    assert await r.readline() == b'%d\\n' % n
    up.count += 1
    if up.count == 5000: up.set()
    await up.wait()
    w.write(b'again\\n'); assert await r.readline() == b'again\\n'
    w.close(); return 1
async def main():
    up = asyncio.Event(); up.count = 0
    print(sum(await asyncio.gather(*(one(n, up) for n in range(5000)))))
asyncio.run(main())
";
    let pair = Pair::new("5000").unwrap();
    apps::echo(&pair.server, 7).unwrap();
    let (fds_near, fds_far) = (pair.near.fds().unwrap(), pair.far.fds().unwrap());
    let client = apps::python(&pair.client, CLIENT, [pair.server.ip4().to_string()]);
    assert_eq!(client.timeout(Duration::from_secs(120)).run().unwrap(), "5000\n");
    // What stays is the pool's: connections between the two workers, which the next streams will use.
    let near = pair.near.wait_config("no open connection", none_open).unwrap();
    let far = pair.far.wait_config("no open connection", none_open).unwrap();
    let pooled = near["workers"][0]["pool"][0]["connections"].as_u64().unwrap() as usize;
    assert!(pooled <= 100, "{pooled} connections for 5,000 streams");
    for (agent, before, dump) in [(&pair.near, fds_near, near), (&pair.far, fds_far, far)] {
        let now = agent.fds().unwrap();
        assert!(
            now <= before + pooled + 10,
            "{now} descriptors, before it were {before}; {pooled} pooled\n{dump:#}"
        );
    }
}

fn none_open(dump: &serde_json::Value) -> bool {
    dump["workers"][0]["open_connections"] == 0
}

// proves: TCP-1
#[test]
fn ssh_redis_and_postgres_work() {
    let pair = Pair::new("protocols").unwrap();
    let Pair { client, server, .. } = &pair;
    let (ssh, postgres) = (apps::dropbear(server, 22).unwrap(), apps::postgres(server, 5432).unwrap());
    apps::redis(server, 6379).unwrap();
    for ip in [IpAddr::from(server.ip4()), server.ip6().into()] {
        let host = ip.to_string();
        assert_eq!(ssh.ssh(client, ip, "cat").input("through ssh").run().unwrap(), "through ssh");
        let redis = |args: &[&str]| client.command("redis-cli").args(["-h", &host]).args(args).run().unwrap();
        assert_eq!(redis(&["SET", "key", "value"]), "OK\n");
        assert_eq!(redis(&["GET", "key"]), "value\n");
        assert_eq!(postgres.psql(client, &host).args(["-c", "SELECT 6 * 7"]).run().unwrap(), "42\n");
    }
}

// proves: TCP-2
#[test]
fn a_gigabyte_by_copy_arrives_whole() {
    // 10 million rows of 100 bytes, made and checksummed on either side without holding them.
    const ROWS: &str = "
import hashlib, os, sys
digest, out = hashlib.md5(), sys.stdout.buffer
for n in range(10_000_000):
    row = b'%08d %s\\n' % (n, b'x' * 90); digest.update(row); out.write(row)
out.flush(); print(digest.hexdigest(), file=sys.stderr)
";
    let pair = Pair::new("copy").unwrap();
    let Pair { client, server, .. } = &pair;
    let postgres = apps::postgres(server, 5432).unwrap();
    let host = server.ip4().to_string();
    postgres.psql(client, &host).args(["-c", "CREATE UNLOGGED TABLE t (row text)"]).run().unwrap();
    let script = "set -e; /usr/bin/python3 -c \"$1\" 2>sum-in | \"$2\" -qAt -U postgres -h \"$3\" -d postgres \
                  -c 'COPY t FROM STDIN'; \
                  \"$2\" -qAt -U postgres -h \"$3\" -d postgres -c 'COPY t TO STDOUT' | md5sum | cut -d' ' -f1; cat sum-in";
    let sums = client
        .command("bash")
        .args(["-o", "pipefail", "-c", script, "sh", ROWS])
        .arg(postgres.program("psql"));
    let sums = sums.arg(&host).current_dir(pair.bed.dir()).timeout(Duration::from_secs(300)).run().unwrap();
    let (copied, made) = sums.trim().split_once('\n').unwrap();
    assert_eq!(copied, made);
}
