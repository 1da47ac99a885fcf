//! The images that nodes begin with: the sandbox of every pod, and small applications of Debian's packages.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use pillion_oci::{Architecture, Image, Layer, Named};

use super::programs::{Programs, Root};

/// The image of pods' sandboxes.
pub const SANDBOX: &str = "pillion.test/pause:1";
/// A shell with the usual programs.
pub const BUSYBOX: &str = "pillion.test/busybox:1";
/// Serves `/hello` and `/addresses` on port 80.
pub const NGINX: &str = "pillion.test/nginx:1";
/// Serves on port 6379.
pub const REDIS: &str = "pillion.test/redis:1";

/// Programs of busybox's that are called by their own name.
const APPLETS: &str = "sh cat cp date echo env false grep head hostname httpd id ip ls mkdir mount mv nc netstat nslookup \
     ping printf ps rm sed seq sleep tail test time timeout touch tr true wc wget";

const PASSWD: &[u8] = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nnogroup:x:65534:\n";

const NGINX_CONFIG: &[u8] =
    b"user root; worker_processes 1; daemon off; pid /tmp/nginx.pid; error_log stderr;
events { worker_connections 4096; }
http {
  access_log off; default_type text/plain; keepalive_requests 1000000;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server {
    listen 0.0.0.0:80; listen [::]:80; root /www;
    location /hello { return 200 \"hello\\n\"; }
    location /addresses { return 200 \"$remote_addr:$remote_port $server_addr:$server_port\\n\"; }
  }
}
";

/// Writes them all into one archive.
pub(super) fn write(programs: &Programs, file: &Path) -> Result<()> {
    let mut pause = Layer::default();
    pause.program("/pause", &programs.path("pause")?)?;
    let (pause, busybox) = (pause.finish()?, busybox(&programs.debian)?);
    let (nginx, redis) = (nginx(&programs.debian)?, redis(&programs.debian)?);
    let image = |name: &str, entrypoint, layers| Named {
        name: name.to_owned(),
        images: vec![Image { architecture: Architecture::here(), entrypoint, layers }],
        annotations: BTreeMap::new(),
    };
    let nginx_runs = vec!["/usr/sbin/nginx", "-e", "stderr", "-c", "/etc/nginx/nginx.conf"];
    let redis_runs = vec!["/usr/bin/redis-server", "--protected-mode", "no", "--save", ""];
    pillion_oci::write(
        &[
            image(SANDBOX, vec!["/pause"], vec![&pause]),
            image(BUSYBOX, vec!["/bin/sh"], vec![&busybox]),
            image(NGINX, nginx_runs, vec![&busybox, &nginx]),
            image(REDIS, redis_runs, vec![&busybox, &redis]),
        ],
        file,
    )
    .map(drop)
}

/// Below all that people look into by `kubectl exec`.
pub(super) fn busybox(debian: &Root) -> Result<Vec<u8>> {
    let program = ["bin/busybox", "usr/bin/busybox"].into_iter().find_map(|path| debian.find(path).ok());
    let mut layer = Layer::default();
    layer.program("/bin/busybox", &program.context("busybox-static has no busybox")?)?;
    APPLETS.split(' ').try_for_each(|applet| layer.link(&format!("/bin/{applet}"), "busybox"))?;
    layer.file("/etc/passwd", 0o644, PASSWD)?;
    layer.file("/etc/group", 0o644, GROUP)?;
    layer.directory("/tmp", 0o1777)?;
    layer.finish()
}

fn nginx(debian: &Root) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    debian_program(&mut layer, debian, "/usr/sbin/nginx")?;
    layer.file("/etc/nginx/nginx.conf", 0o644, NGINX_CONFIG)?;
    layer.file("/www/index.html", 0o644, b"hello\n")?;
    layer.finish()
}

fn redis(debian: &Root) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    debian_program(&mut layer, debian, "/usr/bin/redis-server")?;
    debian_program(&mut layer, debian, "/usr/bin/redis-cli")?;
    layer.finish()
}

/// A program of Debian's, at its own place, with the libraries that it needs.
fn debian_program(layer: &mut Layer, debian: &Root, path: &str) -> Result<()> {
    layer.program(path, &debian.find(path)?)?;
    for (place, library) in debian.libraries(path)? {
        layer.program(&place.to_string_lossy(), &library)?;
    }
    Ok(())
}
