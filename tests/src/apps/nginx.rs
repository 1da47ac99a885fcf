//! nginx: the web server that most pods with HTTP know.

use std::fs;

use anyhow::{Context, Result};

use crate::pod::Pod;
use crate::process::Process;

/// Files that it serves: name and size in bytes.
pub const FILES: [(&str, usize); 5] =
    [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20), ("16m", 16 << 20), ("256m", 256 << 20)];

/// Starts nginx on the port, IPv4 and IPv6. It serves `/hello` ("hello"), `/addresses` (what it saw: "client's
/// address:port own address:port"), `/drop` (closes without an answer), and files of [`FILES`]' sizes (`/1k`).
pub fn nginx(pod: &Pod, port: u16) -> Result<Process> {
    start(pod, port, "")
}

/// As [`nginx`], for clients that speak HTTP/2 from the first byte ("prior knowledge", RFC 9113, 3.3), and no others.
pub fn nginx_http2(pod: &Pod, port: u16) -> Result<Process> {
    start(pod, port, "http2")
}

fn start(pod: &Pod, port: u16, protocol: &str) -> Result<Process> {
    let dir = pod.make_dir(&format!("nginx-{port}"))?;
    let www = pod.make_dir(&format!("nginx-{port}/www"))?;
    for (name, size) in FILES {
        // Sparse: the big ones cost no disk.
        let file = fs::File::create(www.join(name)).and_then(|file| file.set_len(size as u64));
        file.with_context(|| format!("cannot make the file {name} for nginx"))?;
    }
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};", dir = dir.display()))
        .join(" ");
    let config = format!(
        "user root; worker_processes 1; daemon off; pid {dir}/pid; error_log stderr;
         events {{ worker_connections 20000; }}
         http {{
           access_log off; keepalive_requests 1000000000; default_type text/plain; {temporary}
           server {{
             listen 0.0.0.0:{port} {protocol} backlog=8192;
             listen [::]:{port} {protocol} ipv6only=on backlog=8192; root {www};
             location /hello {{ return 200 \"hello\\n\"; }}
             location /addresses {{ return 200 \"$remote_addr:$remote_port $server_addr:$server_port\\n\"; }}
             location /drop {{ return 444; }}
           }}
         }}",
        dir = dir.display(),
        www = www.display(),
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    let command = pod.command("nginx").arg("-p").arg(&dir).args(["-e", "stderr", "-c"]).arg(&file);
    let nginx = command.log(&format!("nginx-{port}")).start()?;
    nginx.wait_listening(port)?;
    Ok(nginx)
}
