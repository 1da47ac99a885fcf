//! CAP-1, CAP-3, CAP-5: in by label, out by label, and nothing else changes.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use pillion_tests::{Agent, Pod};

use super::check::{Check, Saw};
use super::clients::{Session, fetch, python};
use super::stage::Stage;
use super::wire::{Way, recorded, way};

pub const LABEL: Check =
    Check { id: "CAP-1", what: "a label captures a running pod, its absence releases it", look: label };

pub const UNTOUCHED: Check =
    Check { id: "CAP-3", what: "what is not to be captured is not touched", look: untouched };

pub const REFUSED: Check =
    Check { id: "CAP-5", what: "what is refused is refused or reset, at once", look: refused };

fn label(stage: &Stage) -> Saw {
    let (bob, store) = (&stage.bob, &stage.store);
    let next = || {
        let ping = || bob.command("redis-cli").args(["-h", &store.ip4().to_string(), "PING"]).run();
        let (answer, packets) = recorded(&stage.south, ping)?;
        ensure!(answer == "PONG\n", "Redis said {answer:?}");
        way(&packets, bob, store, 6379)
    };
    stage.leave(&[bob])?;
    stage.join(&[store])?;
    let older = Session::open(bob, store.ip4().into(), "session-plain")?;
    let first = older.connection()?;
    expect("before the label", next()?, Way::Plain)?;

    stage.join(&[bob])?;
    expect("with the label", next()?, Way::Mesh)?;
    let newer = Session::open(bob, store.ip4().into(), "session-mesh")?;
    let second = newer.connection()?;
    ensure!(older.connection()? == first, "the connection from before the label was lost");

    stage.leave(&[bob])?;
    expect("without the label again", next()?, Way::Plain)?;
    ensure!(older.connection()? == first, "the connection from before the label was lost");
    ensure!(newer.connection()? == second, "the connection from under the label was lost");
    older.close()?;
    newer.close()?;
    Ok(vec![
        "bob → store:6379 on the wire: plain, label, HBONE, label off, plain; nothing restarted".to_owned(),
        format!("Redis connections {first} (opened in plain) and {second} (in the mesh) answered to the end"),
    ])
}

fn expect(when: &str, found: Way, wanted: Way) -> Result<()> {
    ensure!(found == wanted, "{when} the next connection went by way of {found:?}");
    Ok(())
}

fn untouched(stage: &Stage) -> Saw {
    let (alice, bob, web, store) = (&stage.alice, &stage.bob, &stage.web, &stage.store);
    stage.leave(&[bob])?;
    stage.join(&[alice, web, store])?;
    // A pod without the label, to one in the mesh.
    let redis = || bob.command("redis-cli").args(["-h", &store.ip4().to_string(), "CLIENT", "INFO"]).run();
    let (info, packets) = recorded(&stage.south, redis)?;
    ensure!(way(&packets, bob, store, 6379)? == Way::Plain, "bob's connection was captured");
    ensure!(info.contains(&format!("addr={}:", bob.ip4())), "Redis saw {info}");
    ensure!(!is_in_kernel(&stage.south, bob)?, "the kernel holds an entry for bob");
    // A pod with the label, to itself.
    let before = opened_by(&stage.south, web)?;
    for host in [IpAddr::from([127, 0, 0, 1]), web.ip4().into(), web.ip6().into()] {
        fetch(web, host, "/hello")?;
    }
    let loops = opened_by(&stage.south, web)? - before;
    ensure!(loops == 0.0, "{loops} connections of web to itself were captured");
    // And what is not TCP.
    let datagram = "import socket,sys\n\
                    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], 15001))\n\
                    s.send(b'a datagram of alice'); print(s.getpeername()[0])";
    let (_, packets) = recorded(&stage.north, || python::<1>(alice, datagram, &[web.ip4().to_string()]))?;
    ensure!(packets.contain(b"a datagram of alice"), "alice's datagram did not pass the wire");
    Ok(vec![
        "bob (no label): plain on the wire, Redis saw his own address, no entry in the kernel".to_owned(),
        "web (label): 127.0.0.1 and its own IPv4 and IPv6 address answered, none captured".to_owned(),
        "alice (label): a UDP datagram passed the wire as it was".to_owned(),
    ])
}

fn is_in_kernel(agent: &Agent, pod: &Pod) -> Result<bool> {
    let dump = agent.config_dump()?;
    let workers = dump["workers"].as_array().into_iter().flatten();
    let mut cookies = workers.filter(|w| w["pod"] == pod.name()).map(|w| &w["netns_cookie"]);
    Ok(cookies.any(|cookie| dump["kernel"]["pods"].as_array().is_some_and(|pods| pods.contains(cookie))))
}

/// Connections that the pod's worker took from its apps.
fn opened_by(agent: &Agent, pod: &Pod) -> Result<f64> {
    let labels = [("reporter", "source"), ("pod", pod.name())];
    Ok(agent.metrics()?.sum("istio_tcp_connections_opened_total", &labels))
}

fn refused(stage: &Stage) -> Saw {
    const NOBODY: &str = "81";
    const CLIENT: &str = "import socket,sys,time\n\
        begun = time.monotonic(); stage = 'connect'\n\
        try:\n \
         s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 15); stage = 'read'; s.recv(1)\n\
        except ConnectionRefusedError: print('refused', end=' ')\n\
        except ConnectionResetError: print('reset', end=' ')\n\
        else: print('accepted', end=' ')\n\
        print(round((time.monotonic() - begun) * 1000, 1))";
    stage.leave(&[&stage.bob])?;
    stage.join(&[&stage.alice, &stage.web])?;
    let mut lines = Vec::new();
    for client in [&stage.bob, &stage.alice] {
        let place = if client.name() == "bob" { "not captured" } else { "captured" };
        let mut seen = Vec::new();
        for host in [stage.web.ip4().to_string(), stage.web.ip6().to_string()] {
            let [how, milliseconds] = python(client, CLIENT, &[host, NOBODY.to_owned()])?;
            ensure!(how != "accepted", "a port that nobody listens on accepted {}", client.name());
            // The agent's connect timeout, which is Istio's.
            ensure!(milliseconds.parse::<f64>()? < 10_000.0, "{how} only after {milliseconds} ms");
            seen.push(format!("{how} after {milliseconds} ms"));
        }
        lines.push(format!(
            "{:6} ({place}) → web:{NOBODY}: IPv4 {}, IPv6 {}",
            client.name(),
            seen[0],
            seen[1]
        ));
    }
    Ok(lines)
}
