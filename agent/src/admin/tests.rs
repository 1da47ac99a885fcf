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

    fn ready(&self) -> Result<(), Vec<String>> {
        match self.ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(vec!["manifests".into(), "pod shop/cart".into()]),
        }
    }
}

fn start(addresses: Addresses) -> Result<(Servers, Arc<Node>), ListenError> {
    let node = Arc::new(Node::default());
    let (logging, _) = Logging::for_test("info");
    Ok((Servers::start(addresses, node.clone(), logging)?, node))
}

fn local() -> Addresses {
    let any = "127.0.0.1:0".parse().unwrap();
    Addresses { admin: any, metrics: any, health: any }
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
    let (servers, _) = start(local()).unwrap();
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
    let (servers, node) = start(local()).unwrap();
    let Addresses { admin, metrics, health } = servers.addresses;
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
    let (servers, _) = start(local()).unwrap();
    let Addresses { admin, metrics, .. } = servers.addresses;
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
    let (logging, _subscriber) = Logging::for_test("info");
    let servers = Servers::start(local(), node, logging).unwrap();
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
    let error = start(Addresses { metrics: address, ..local() }).err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "--metrics-addr {address}: port taken by another process; give another address or stop that process"
        )
    );
    let error = start(Addresses { health: "192.0.2.1:80".parse().unwrap(), ..local() }).err().unwrap();
    assert_eq!(
        error.to_string(),
        "--health-addr 192.0.2.1:80: this machine has no such address; give another"
    );
}

// proves: SEC-2
#[tokio::test]
async fn silent_and_hostile_clients_do_not_keep_others_waiting() {
    let (servers, _) = start(local()).unwrap();
    let health = servers.addresses.health;
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
