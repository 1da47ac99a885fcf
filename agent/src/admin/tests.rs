use super::*;
use crate::telemetry::Logging;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[derive(Default)]
struct Node {
    ready: AtomicBool,
}

impl Introspect for Node {
    fn config_dump(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"node": "a"}) })
    }

    fn audit(&self) -> BoxFuture<'_, Value> {
        Box::pin(async { json!({"repairs": []}) })
    }

    fn authz(&self, question: AuthzQuestion) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            match question.source.as_str() {
                "shop/web" => Ok(json!({"port": question.port, "to": question.destination})),
                other => Err(format!("there is no pod {other}")),
            }
        })
    }
}

impl Vitals for Node {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "pillion_captured_pods 2\n".to_owned() })
    }
}

impl Probes for Node {
    fn ready(&self) -> Result<String, String> {
        match self.ready.load(Ordering::Relaxed) {
            true => Ok("ready".into()),
            false => Err("waiting for manifests, pod shop/cart".into()),
        }
    }
}

fn start(addresses: Addresses) -> (Servers, Arc<Node>) {
    let node = Arc::new(Node::default());
    let (logging, _) = Logging::to_nobody("info");
    (Servers::start(addresses, node.clone(), logging), node)
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn local() -> Addresses {
    Addresses { admin: any(), metrics: any() }
}

/// An address that nobody listens on now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind(any()).unwrap().local_addr().unwrap()
}

/// A health server's socket, and itself.
fn health(name: &str, process: Arc<dyn Probes>) -> (std::path::PathBuf, HealthServer) {
    let socket = std::env::temp_dir().join(format!("pillion-health-{name}-{}", std::process::id()));
    (socket.clone(), HealthServer::start(Some(&socket), process).unwrap())
}

/// Health on an address, by the same server that its thread runs.
fn serve_health(process: Arc<dyn Probes>) -> (SocketAddr, tokio::task::JoinSet<()>) {
    let (listener, address) = listen("--health-addr", any()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server::serve(listener, Arc::new(routes::Health { process })));
    (address, tasks)
}

async fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

async fn ask(address: SocketAddr, what: &str) -> (u16, String) {
    let answer = send(address, &format!("{what} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim().to_owned())
}

#[tokio::test]
async fn a_question_about_a_connection_is_answered_or_told_how_to_ask() {
    let (servers, _) = start(local());
    let admin = servers.addresses.admin;
    let ask_for = |query: &str| format!("GET /authz{query}");
    let (status, said) = ask(admin, &ask_for("?source=shop%2Fweb&destination=shop/cart&port=80")).await;
    assert_eq!((status, said.contains("\"to\": \"shop/cart\"")), (200, true), "{said}");
    let (status, said) = ask(admin, &ask_for("?source=shop/x&destination=shop/cart&port=80")).await;
    assert_eq!((status, said.as_str()), (404, "there is no pod shop/x"));
    for bad in
        ["", "?source=a/b", "?source=a/b&destination=c/d&port=0", "?source=a/b&destination=c/d&port=http"]
    {
        assert_eq!(ask(admin, &ask_for(bad)).await.0, 400, "{bad}");
    }
}

#[tokio::test]
async fn each_path_answers_on_its_own_port() {
    let (servers, node) = start(local());
    let Addresses { admin, metrics } = servers.addresses;
    let (health, _task) = serve_health(node.clone());
    assert_eq!(ask(admin, "GET /config_dump").await, (200, "{\n  \"node\": \"a\"\n}".into()));
    assert_eq!(ask(admin, "POST /audit").await.0, 200);
    assert_eq!(ask(metrics, "GET /metrics").await, (200, "pillion_captured_pods 2".into()));
    assert_eq!(ask(health, "GET /healthz/live").await, (200, "live".into()));
    assert_eq!(ask(health, "GET /healthz/ready").await, (503, "waiting for manifests, pod shop/cart".into()));
    node.ready.store(true, Ordering::Relaxed);
    assert_eq!(ask(health, "GET /healthz/ready").await, (200, "ready".into()));
    assert_eq!(ask(health, "HEAD /healthz/ready").await, (200, String::new()));
}

#[tokio::test]
async fn what_is_not_there_is_a_sentence() {
    let (servers, _) = start(local());
    let Addresses { admin, metrics } = servers.addresses;
    assert_eq!(
        ask(admin, "GET /metrics").await,
        (404, "there is nothing here; there is /config_dump, /authz, /logging, /audit".into())
    );
    assert_eq!(ask(metrics, "GET /config_dump").await.0, 404);
    assert_eq!(ask(admin, "GET /audit").await, (405, "/audit is asked by POST".into()));
    assert_eq!(ask(metrics, "DELETE /metrics").await, (405, "/metrics is asked by GET, HEAD".into()));
}

#[tokio::test]
async fn the_log_level_is_shown_and_changed() {
    let node = Arc::new(Node::default());
    // The log is alive while its subscriber is.
    let (logging, _subscriber) = Logging::to_nobody("info");
    let servers = Servers::start(local(), node, logging);
    let admin = servers.addresses.admin;
    assert_eq!(ask(admin, "GET /logging").await, (200, "info".into()));
    assert_eq!(ask(admin, "POST /logging?level=info,h2%3Ddebug").await, (200, "info,h2=debug".into()));
    assert_eq!(ask(admin, "GET /logging").await, (200, "info,h2=debug".into()));
    assert_eq!(ask(admin, "POST /logging").await.0, 400);
    let (status, sentence) = ask(admin, "POST /logging?level=loud").await;
    assert_eq!(status, 400);
    assert!(sentence.starts_with("\"loud\" is no log filter"), "{sentence}");
}

#[tokio::test]
async fn a_taken_port_is_one_sentence() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = listen("--metrics-addr", address).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "--metrics-addr {address}: port taken by another process; give another address or stop that process"
        )
    );
    let error = listen("--health-addr", "192.0.2.1:80".parse().unwrap()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "--health-addr 192.0.2.1:80: this machine has no such address; give another"
    );
}

#[tokio::test]
async fn a_port_that_is_taken_keeps_nobody_else_from_being_served_and_is_served_once_it_is_free() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap();
    let (servers, _) = start(Addresses { metrics, ..local() });
    assert_eq!(ask(servers.addresses.admin, "GET /config_dump").await.0, 200);
    drop(taken);
    let served = async {
        while TcpStream::connect(metrics).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), served).await.unwrap();
    assert_eq!(ask(metrics, "GET /metrics").await.0, 200);
}

// proves: OPS-3
#[tokio::test]
async fn probes_are_answered_while_the_core_computes() {
    let node = Arc::new(Node::default());
    let (socket, server) = health("busy", node.clone());
    let address = free();
    server.listen(address);
    // This thread is the core's, and what follows keeps it: nothing else on its runtime has a turn.
    assert_eq!(super::ask(&socket, Probe::Live).unwrap(), (true, "live".into()));
    let (is_ready, said) = super::ask(&socket, Probe::Ready).unwrap();
    assert_eq!((is_ready, said.as_str()), (false, "waiting for manifests, pod shop/cart"));
    node.ready.store(true, Ordering::Relaxed);
    assert_eq!(super::ask(&socket, Probe::Ready).unwrap(), (true, "ready".into()));
    drop(server);
    assert!(super::ask(&socket, Probe::Live).is_err(), "nobody answers for a process that is gone");
    std::fs::remove_file(socket).unwrap();
}

#[tokio::test]
async fn two_processes_of_one_node_answer_for_themselves() {
    let [old, new] = [Arc::new(Node::default()), Arc::new(Node::default())];
    new.ready.store(true, Ordering::Relaxed);
    let (old_socket, old_server) = health("old", old);
    let (new_socket, _new_server) = health("new", new);
    let address = free();
    old_server.listen(address);
    assert!(!super::ask(&old_socket, Probe::Ready).unwrap().0);
    assert!(super::ask(&new_socket, Probe::Ready).unwrap().0);
    for socket in [old_socket, new_socket] {
        std::fs::remove_file(socket).unwrap();
    }
}

// proves: SEC-2
#[tokio::test]
async fn silent_and_hostile_clients_do_not_keep_others_waiting() {
    let (health, _task) = serve_health(Arc::new(Node::default()));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(health).await.unwrap());
    }
    for hostile in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000)),
    ] {
        let mut stream = TcpStream::connect(health).await.unwrap();
        let _ = stream.write_all(hostile.as_bytes()).await;
        silent.push(stream);
    }
    // A kubelet gives a probe one second.
    let probe = timeout(Duration::from_secs(1), ask(health, "GET /healthz/live"));
    assert_eq!(probe.await.unwrap().0, 200);
}
