//! Apps in the languages that people write them in, each with its runtime's own ideas of sockets: what they see
//! with the mesh is what they see without it.

use std::path::PathBuf;
use std::time::Duration;

use pillion_tests::{Pair, Pod, apps, requirements};

// proves: CAP-4
#[test]
fn python_sees_true_addresses() {
    const SCRIPT: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 10)
s.sendall(b'GET /addresses HTTP/1.0\\r\\n\\r\\n')
print(s.getsockname()[:2], s.getpeername()[:2], s.makefile().read().split('\\n')[-2])
";
    let pair = Pair::new("python").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let mapped = format!("::ffff:{}", pair.server.ip4());
    for host in [pair.server.ip4().to_string(), pair.server.ip6().to_string(), mapped] {
        let said = apps::python(&pair.client, SCRIPT, [&host]).run().unwrap();
        let mapped = host.starts_with("::ffff:");
        let own = match host.parse().unwrap() {
            std::net::IpAddr::V4(_) => pair.client.ip4().to_string(),
            _ if mapped => format!("::ffff:{}", pair.client.ip4()),
            std::net::IpAddr::V6(_) => pair.client.ip6().to_string(),
        };
        let port =
            said.split(['(', ',', ')', ' ']).filter_map(|word| word.parse::<u16>().ok()).next().unwrap();
        let plain = |ip: &str| ip.trim_start_matches("::ffff:").to_owned();
        let seen = format!("{}:{port} {}:80", plain(&own), plain(&host));
        assert_eq!(said.trim(), format!("('{own}', {port}) ('{host}', 80) {seen}"));
    }
}

// proves: CAP-4
#[test]
fn go_works() {
    const PROGRAM: &str = r#"
package main

import ("fmt"; "io"; "net"; "net/http"; "os")

func main() {
    response, err := http.Get("http://" + net.JoinHostPort(os.Args[1], "80") + "/1m")
    if err != nil { fmt.Println(err); os.Exit(1) }
    size, err := io.Copy(io.Discard, response.Body)
    fmt.Println(size, err)
    connection, err := net.Dial("tcp", net.JoinHostPort(os.Args[1], "80"))
    if err != nil { fmt.Println(err); os.Exit(1) }
    fmt.Println(connection.RemoteAddr(), connection.LocalAddr().(*net.TCPAddr).IP)
}
"#;
    requirements::ensure(&["golang-go"]).unwrap();
    let pair = Pair::new("go").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let source = write(&pair, "main.go", PROGRAM);
    let program = source.with_extension("bin");
    let build =
        pair.client.command("go").args(["build", "-o"]).arg(&program).arg(&source).env("GOFLAGS", "-mod=mod");
    // Go's own library is compiled, too, which takes a busy machine a minute and more.
    let build = build.env("GOCACHE", pair.bed.dir().join("go-cache")).env("CGO_ENABLED", "0");
    build.timeout(Duration::from_secs(300)).run().unwrap();
    works(&pair, |client, host| client.command(program.to_str().unwrap()).arg(host).run().unwrap());
}

// proves: CAP-4
#[test]
fn java_works() {
    const PROGRAM: &str = r#"
import java.net.*;
import java.net.http.*;

public class Client {
    public static void main(String[] args) throws Exception {
        String host = args[0].contains(":") ? "[" + args[0] + "]" : args[0];
        var request = HttpRequest.newBuilder(URI.create("http://" + host + "/1m")).build();
        var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofByteArray());
        System.out.println(response.body().length + " <nil>");
        try (var socket = new Socket(args[0], 80)) {
            var remote = (InetSocketAddress) socket.getRemoteSocketAddress();
            System.out.println(host + ":" + remote.getPort() + " " + socket.getLocalAddress().getHostAddress());
        }
    }
}
"#;
    requirements::ensure(&["default-jdk-headless"]).unwrap();
    let pair = Pair::new("java").unwrap();
    apps::nginx(&pair.server, 80).unwrap();
    let source = write(&pair, "Client.java", PROGRAM);
    works(&pair, |client, host| client.command("java").arg(&source).arg(host).run().unwrap());
}

/// Runs a client against both families: it fetches a file and says whom it is connected with, from where.
fn works(pair: &Pair, run: impl Fn(&Pod, &str) -> String) {
    for (own, peer) in [
        (pair.client.ip4().to_string(), pair.server.ip4().to_string()),
        (pair.client.ip6().to_string(), pair.server.ip6().to_string()),
    ] {
        let peer_port = if peer.contains(':') { format!("[{peer}]:80") } else { format!("{peer}:80") };
        let said = run(&pair.client, &peer).lines().map(short_ip6).collect::<Vec<_>>().join("\n");
        assert_eq!(said, format!("{} <nil>\n{peer_port} {own}", 1 << 20));
    }
}

/// Java writes IPv6 addresses in full: the line's last word as others write it.
fn short_ip6(line: &str) -> String {
    match line.rsplit_once(' ').map(|(rest, last)| (rest, last.parse::<std::net::Ipv6Addr>())) {
        Some((rest, Ok(ip))) => format!("{rest} {ip}"),
        _ => line.to_owned(),
    }
}

fn write(pair: &Pair, name: &str, text: &str) -> PathBuf {
    let path = pair.bed.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path
}
