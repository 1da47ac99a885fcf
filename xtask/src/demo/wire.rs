//! ID-1: what passes between the nodes.

use anyhow::{Context, Result, ensure};
use pillion_tests::pcap::{Packets, SYN, Tcp};
use pillion_tests::{Agent, Pod};

use super::check::{Check, Saw};
use super::clients::fetch;
use super::server_hello::ServerHello;
use super::stage::Stage;

pub const CHECK: Check =
    Check { id: "ID-1", what: "the wire between the nodes carries TLS 1.3 and no plaintext", look };

/// Istio's port for HBONE.
const HBONE: u16 = 15008;

/// A request with a text that nothing else says, recorded twice: a recording that would miss it in plain proves
/// nothing.
fn look(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    let needle = format!("needle-in-{}", stage.bed.id());
    let answer = b"HTTP/1.1 200 OK";
    let path = format!("/hello?{needle}");
    let record =
        || recorded(&stage.north, || fetch(alice, web.ip4().into(), &path)).map(|(_, packets)| packets);

    stage.leave(&[alice, web])?;
    let plain = record()?;
    ensure!(
        plain.contain(needle.as_bytes()) && plain.contain(answer),
        "the control recording misses the needle"
    );
    stage.join(&[alice, web])?;
    let mesh = record()?;
    ensure!(!mesh.contain(needle.as_bytes()), "{needle} passed the wire in plain");
    ensure!(!mesh.contain(answer), "nginx's answer passed the wire in plain");

    let flows = mesh.flows();
    let (mut records, mut hello) = (0, None);
    for flow in &flows {
        ensure!(
            [flow.from, flow.to].iter().any(|end| end.port() == HBONE),
            "{} → {} is not HBONE",
            flow.from,
            flow.to
        );
        let count = flow.tls_records();
        records += count.with_context(|| format!("{} → {} is not TLS", flow.from, flow.to))?;
        hello = hello.or_else(|| ServerHello::parse(&flow.bytes));
    }
    let hello = hello.context("no handshake was recorded")?;
    ensure!(hello.version == 0x0304, "the version is {:#06x}, not TLS 1.3", hello.version);
    Ok(vec![
        format!("before the label: {} packets, {needle:?} and nginx's answer are in them", plain.0.len()),
        format!(
            "after it: {} packets, {records} TLS records to or from port {HBONE}, neither text in them",
            mesh.0.len()
        ),
        format!("the server chose {hello}"),
    ])
}

/// Records the wire of the agent's node while `work` is done.
pub fn recorded<T>(agent: &Agent, work: impl FnOnce() -> Result<T>) -> Result<(T, Packets)> {
    let recording = agent.node().record_wire("tcp or udp")?;
    let result = work()?;
    Ok((result, recording.stop()?))
}

/// How a pod's connection crossed the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum Way {
    /// Its SYN to the server's own port was seen.
    Plain,
    /// Nothing of it was seen but HBONE between the two pods.
    Mesh,
}

/// Which way a connection from `client` to `server` took. HBONE connections of earlier ones may be closing still,
/// so a SYN in plain is an answer, and HBONE is one where there is none.
pub fn way(packets: &Packets, client: &Pod, server: &Pod, port: u16) -> Result<Way> {
    let sent = || {
        let from_to = |tcp: &&Tcp| {
            client.addresses().contains(&tcp.from.ip()) && server.addresses().contains(&tcp.to.ip())
        };
        packets.tcp().filter(from_to)
    };
    if sent().any(|tcp| tcp.to.port() == port && tcp.flags & SYN != 0) {
        return Ok(Way::Plain);
    }
    let mesh = sent().any(|tcp| tcp.to.port() == HBONE);
    ensure!(mesh, "nothing from {} to {} was on the wire", client.name(), server.name());
    Ok(Way::Mesh)
}
