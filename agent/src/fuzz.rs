//! What fuzzers call: one function for each place where bytes from outside come in. Nothing else does.
//!
//! A target takes any bytes. It returns, or it panics where something was found: a panic of what it calls, a promise that is not
//! kept, or a reader that stands still although all has been said.

use crate::admin::fuzz as admin;
use crate::ca::serve::{check_form, read_request};
use crate::cri::read_status;
use crate::decide::plaintext;
use crate::hbone::{Server, format_forwarded, parse_forwarded};
use crate::identity::{CertificateAuthority as _, EmbeddedCa, LeafKey, SigningRequest, WorkloadCertificate};
use crate::manifest::{ROOT_NAMESPACE, Settings, Sourced, build, parse};
use crate::mesh::{Mesh, SpiffeId, TrustDomains};
use crate::nri::Session;
use crate::tls::{accept, client_config, server_config};
use http::StatusCode;
use rustls::{ClientConfig, ClientConnection, ServerConfig};
use rustls_pki_types::ServerName;
use serde_json::json;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, copy, duplex, sink, split};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::timeout;

pub type Target = fn(&[u8]);

/// Each by the name of its corpus (`fuzz/corpus/`).
pub const TARGETS: [(&str, Target); 12] = [
    ("tls_handshake", tls_handshake),
    ("tls_stream", tls_stream),
    ("hbone_server", hbone_server),
    ("forwarded", forwarded),
    ("nri_session", nri_session),
    ("cri_status", cri_status),
    ("ca_request", ca_request),
    ("ca_token", ca_token),
    ("manifest", manifest),
    ("annotations", annotations),
    ("policy", policy),
    ("admin_request", admin_request),
];

/// Whoever has heard all that there is to hear ends within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client of HTTP/2 says first (RFC 9113 §3.4), and SETTINGS without a setting.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A stranger at port 15008.
fn tls_handshake(bytes: &[u8]) {
    run(async {
        let (near, far) = duplex(1 << 16);
        let served = async {
            if let Ok(mut tls) = accept(CONFIGS.server.clone(), far).await {
                let _ = copy(&mut tls, &mut sink()).await;
            }
        };
        tokio::join!(served, say(near, bytes));
    });
}

/// A proven peer that sends anything but records in order.
fn tls_stream(bytes: &[u8]) {
    run(async {
        let (mut near, far) = duplex(1 << 16);
        let served = async {
            let Ok(mut tls) = accept(CONFIGS.server.clone(), far).await else { return };
            let _ = copy(&mut tls, &mut sink()).await;
        };
        let peer = async {
            handshake(&mut near).await;
            say(near, bytes).await;
        };
        tokio::join!(served, peer);
    });
}

/// A proven peer's frames.
fn hbone_server(bytes: &[u8]) {
    run(async {
        let (near, far) = duplex(1 << 16);
        let served = async {
            let Ok(mut server) = Server::handshake(far, "peer").await else { return };
            let mut is_accepted = false;
            while let Some(Ok(request)) = server.next().await {
                is_accepted = !is_accepted;
                if !is_accepted {
                    request.refuse(StatusCode::UNAUTHORIZED);
                } else if let Ok(mut stream) = request.accept() {
                    tokio::task::spawn_local(async move {
                        while let Ok(Some(bytes)) = stream.incoming.next().await {
                            let _ = stream.incoming.release(bytes.len());
                        }
                    });
                }
            }
        };
        let said = [PREFACE, bytes].concat();
        tokio::join!(served, say(near, &said));
    });
}

fn forwarded(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(address) = parse_forwarded(text) {
        assert_eq!(parse_forwarded(&format_forwarded(address)), Some(address), "{text:?}");
    }
}

/// The container runtime's side of NRI. The bytes come in two pieces: the first one says how long the first piece is.
fn nri_session(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut session = Session::agent();
    let (one, other) = rest.split_at(usize::from(*first).min(rest.len()));
    for piece in [one, other] {
        if session.receive(piece).is_err() {
            return;
        }
        session.outgoing();
    }
}

/// What a container runtime says of a sandbox by CRI.
fn cri_status(bytes: &[u8]) {
    let _ = read_status(bytes);
}

/// Whoever asks the authority for a certificate, and has been let in.
fn ca_request(bytes: &[u8]) {
    let Ok((_, csr)) = read_request(bytes.to_vec().into()) else { return };
    let request = SigningRequest { identity: identity("web"), csr: csr.into(), lifetime: PATIENCE };
    let _ = RUNTIME.block_on(CONFIGS.authority.sign(request));
}

fn ca_token(bytes: &[u8]) {
    let _ = check_form(&String::from_utf8_lossy(bytes), "istio-ca");
}

/// A file of a manifest directory.
fn manifest(bytes: &[u8]) {
    made_of(parse("fuzz.yaml", bytes));
}

/// A pod with these labels, annotations and probes: lines of a name and a value.
fn annotations(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let annotations: serde_json::Map<_, _> =
        pairs.map(|(name, value)| (format!("pillion.dev/{name}"), value.into())).collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "annotations": annotations, "labels": {"pillion.dev/capture": "enabled"}},
        "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": "10.0.0.1"}]},
    });
    made_of(parse("fuzz.json", pod.to_string().as_bytes()));
}

/// What a tenant writes into an AuthorizationPolicy, and into a PeerAuthentication, beside a pod that both select.
fn policy(bytes: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    let object = |kind: &str| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": kind,
            "metadata": {"name": "fuzz", "namespace": "shop"}, "spec": spec,
        })
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web", "pillion.dev/capture": "enabled"}},
        "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": "10.0.0.1"}]},
    });
    for kind in ["AuthorizationPolicy", "PeerAuthentication"] {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod, object(kind)]});
        made_of(parse("fuzz.json", list.to_string().as_bytes()));
    }
}

/// Whoever reaches the ports of the agent's endpoints.
fn admin_request(bytes: &[u8]) {
    run(async {
        let (near, far) = duplex(1 << 16);
        tokio::join!(admin::answer(far), say(near, bytes));
    });
}

fn made_of<E>(objects: Result<Vec<Sourced>, E>) {
    let Ok(objects) = objects else { return };
    let settings = Settings {
        node: "n1".into(),
        trust_domains: TrustDomains::default(),
        root_namespace: ROOT_NAMESPACE.into(),
        last_good: None,
    };
    if let Ok(mesh) = build(&objects, &settings, &Mesh::default()) {
        mesh.workloads.values().for_each(|pod| drop(plaintext(pod)));
    }
}

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| RUNTIME.block_on(Configs::make()));

struct Configs {
    authority: EmbeddedCa,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Configs {
    async fn make() -> Self {
        let dir = std::env::temp_dir().join(format!("pillion-fuzz-{}", std::process::id()));
        let domain = "cluster.local".parse().expect("a trust domain");
        let authority = EmbeddedCa::open(&dir, &domain).expect("a root is made");
        let (web, db) = (certificate(&authority, "web").await, certificate(&authority, "db").await);
        std::fs::remove_dir_all(&dir).expect("it was made above");
        let (trust, domains) = (authority.trust(), TrustDomains::new(domain, []));
        let client = client_config(&web, trust.borrow().clone(), &domains, &db.identity);
        let server = server_config(&db, trust, &domains).expect("a certificate that fits");
        Self { authority, client: client.expect("a certificate that fits"), server }
    }
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new(&"cluster.local".parse().expect("a trust domain"), "shop", account)
}

async fn certificate(authority: &EmbeddedCa, account: &str) -> WorkloadCertificate {
    let key = LeafKey::generate().expect("a key");
    let identity = identity(account);
    let csr = key.signing_request(&identity).expect("a request");
    let request = SigningRequest { identity, csr, lifetime: Duration::from_secs(24 * 3600) };
    key.certificate(authority.sign(request).await.expect("a signature")).expect("of this key")
}

/// A client's handshake, to its end. What it says afterwards is the caller's.
async fn handshake(wire: &mut DuplexStream) {
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut client = ClientConnection::new(CONFIGS.client.clone(), name).expect("a client");
    let mut buffer = [0; 4096];
    loop {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).expect("memory");
        }
        wire.write_all(&said).await.expect("the server listens");
        if !client.is_handshaking() {
            return;
        }
        let heard = wire.read(&mut buffer).await.expect("the server answers");
        client.read_tls(&mut &buffer[..heard]).expect("memory");
        client.process_new_packets().expect("a server in order");
    }
}

/// Says all of it and ends; hears and forgets what is answered.
async fn say(wire: DuplexStream, bytes: &[u8]) {
    let (mut answers, mut out) = split(wire);
    let said = async {
        // Whoever has heard enough listens no more.
        let _ = out.write_all(bytes).await;
        let _ = out.shutdown().await;
    };
    let mut nowhere = sink();
    let (_, ()) = tokio::join!(copy(&mut answers, &mut nowhere), said);
}

fn run(work: impl Future<Output = ()>) {
    LazyLock::force(&CONFIGS);
    let ended = LocalSet::new().block_on(&RUNTIME, async { timeout(PATIENCE, work).await });
    assert!(ended.is_ok(), "it stands still though all has been said");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_target_bears_what_is_in_its_corpus() {
        let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let corpora: BTreeSet<_> =
            fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(
            corpora,
            TARGETS.iter().map(|(name, _)| name.into()).collect(),
            "each target has a corpus"
        );
        for (name, target) in TARGETS {
            for input in fs::read_dir(all.join(name)).unwrap() {
                target(&fs::read(input.unwrap().path()).unwrap());
            }
        }
    }
}
