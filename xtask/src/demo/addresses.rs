//! CAP-4: the addresses as each app sees them.

use std::net::IpAddr;

use anyhow::ensure;

use super::check::{Check, Saw};
use super::clients::python;
use super::stage::Stage;

pub const CHECK: Check = Check { id: "CAP-4", what: "both apps see each other's true addresses", look };

/// Prints what it connected to, what it is, and what nginx says of the same connection.
const CLIENT: &str = "import socket,sys\n\
    show = lambda a: f'[{a[0]}]:{a[1]}' if ':' in a[0] else f'{a[0]}:{a[1]}'\n\
    s = socket.create_connection((sys.argv[1], 80), 10)\n\
    s.sendall(b'GET /addresses HTTP/1.0\\r\\n\\r\\n')\n\
    said = b''.join(iter(lambda: s.recv(65536), b'')).decode().split()\n\
    print(show(s.getpeername()), show(s.getsockname()), *said[-2:])";

fn look(stage: &Stage) -> Saw {
    let (alice, web) = (&stage.alice, &stage.web);
    stage.join(&[alice, web])?;
    let mut lines = Vec::new();
    for (server, client) in
        [(IpAddr::V4(web.ip4()), alice.ip4().into()), (web.ip6().into(), IpAddr::V6(alice.ip6()))]
    {
        let [peer, own, remote, local] = python(alice, CLIENT, &[server.to_string()])?;
        // nginx writes IPv6 addresses without brackets here.
        let plain = |text: &str| text.replace(['[', ']'], "");
        lines.push(format!("alice: getpeername {peer}, getsockname {own}"));
        lines.push(format!("nginx: $remote_addr:$remote_port {remote}, $server_addr:$server_port {local}"));
        let agreed = plain(&peer) == plain(&local) && plain(&own) == plain(&remote);
        ensure!(agreed, "they do not agree: {}", lines.join("; "));
        let true_ones =
            plain(&peer) == format!("{server}:80") && plain(&own).starts_with(&format!("{client}:"));
        ensure!(true_ones, "not the pods' own: {}", lines.join("; "));
    }
    Ok(lines)
}
