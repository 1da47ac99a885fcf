use super::super::resources::RESOURCES;
use super::super::store::{Item, Store};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PEER_AUTHENTICATIONS: usize = 5;
const WITHIN: Duration = Duration::from_secs(10);

fn policy(name: &str, rest: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"shop","resourceVersion":"7"{rest}}},"spec":{{"mtls":{{"mode":"STRICT"}}}}}}"#
    )
}

fn deep() -> String {
    format!("{}1{}", r#"{"f:a":"#.repeat(1000), "}".repeat(1000))
}

fn added(object: &str) -> String {
    format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n")
}

fn bookmark() -> String {
    let ends = r#"{"k8s.io/initial-events-end":"true"}"#;
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"8\",\"annotations\":{ends}}}}}}}\n"
    )
}

/// Takes one request, and gives what is asked for.
async fn asked(server: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = server.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

async fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
}

/// The beginning of an answer that goes on for as long as its connection lives.
async fn begin(stream: &mut TcpStream, body: &str) {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
}

async fn watched() -> (TcpListener, mpsc::Receiver<News<Item>>) {
    watched_after(false).await
}

async fn watched_after(was_there: bool) -> (TcpListener, mpsc::Receiver<News<Item>>) {
    watched_doubting(was_there, DOUBTFUL).await
}

async fn watched_doubting(was_there: bool, doubtful: Duration) -> (TcpListener, mpsc::Receiver<News<Item>>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let (sender, news) = mpsc::channel(16);
    tokio::spawn(follow_doubting(
        Client::try_from(config).unwrap(),
        PEER_AUTHENTICATIONS,
        &RESOURCES[PEER_AUTHENTICATIONS],
        was_there,
        sender,
        doubtful,
    ));
    (server, news)
}

/// What is known once all has been heard, and so many objects after that.
async fn heard(news: &mut mpsc::Receiver<News<Item>>, more: usize) -> Store {
    let mut store = Store::default();
    let (mut has_all, mut puts) = (false, 0);
    while !has_all || puts < more {
        let received = timeout(WITHIN, news.recv()).await.expect("the watch stands still").unwrap();
        match received.what {
            What::All(items) => has_all = store.replace(received.resource, items),
            What::Put(item) => puts += usize::from(store.put(received.resource, item)),
            What::Disconnected(error) => panic!("{error}"),
            _ => {}
        }
    }
    store
}

fn names(store: &Store) -> Vec<String> {
    store
        .objects()
        .iter()
        .map(|sourced| format!("{} {}", sourced.place, is_refused(&sourced.object)))
        .collect()
}

fn is_refused(object: &crate::manifest::Object) -> &'static str {
    if matches!(object, crate::manifest::Object::RefusedPolicy(_)) { "refused" } else { "read" }
}

fn hostile() -> [String; 3] {
    [
        policy("managed", &format!(r#","managedFields":[{{"fieldsV1":{}}}]"#, deep())),
        policy("next", ""),
        policy("junk", "").replace(r#""mtls""#, &format!(r#""junk":{},"mtls""#, deep())),
    ]
}

const AS_IT_SHOULD_BE: [&str; 3] = [
    "PeerAuthentication shop/junk refused",
    "PeerAuthentication shop/managed read",
    "PeerAuthentication shop/next read",
];

// proves: SEC-2
#[tokio::test]
async fn an_object_that_is_nested_deep_stops_no_watch_and_is_refused_alone() {
    for comes_first in [true, false] {
        let (server, mut news) = watched().await;
        let (mut stream, _) = asked(&server).await;
        let objects: String = hostile().iter().map(|object| added(object)).collect();
        match comes_first {
            true => begin(&mut stream, &(objects + &bookmark())).await,
            false => begin(&mut stream, &(bookmark() + &objects)).await,
        }
        let store = heard(&mut news, if comes_first { 0 } else { 3 }).await;
        assert_eq!(names(&store), AS_IT_SHOULD_BE);
    }
}

// proves: SEC-2
#[tokio::test]
async fn in_a_list_no_object_is_left_out_for_how_it_is_nested() {
    let (server, mut news) = watched().await;
    let (mut stream, _) = asked(&server).await;
    let status =
        r#"{"kind":"Status","status":"Failure","message":"no streams","reason":"Invalid","code":422}"#;
    answer(&mut stream, "422 Unprocessable Entity", status).await;
    drop(stream);
    let (mut stream, _) = asked(&server).await;
    let page = format!(r#"{{"metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#, hostile().join(","));
    answer(&mut stream, "200 OK", &page).await;
    let store = heard(&mut news, 0).await;
    assert_eq!(names(&store), AS_IT_SHOULD_BE);
}

// proves: OPS-3
#[tokio::test]
async fn a_watch_that_says_nothing_that_can_be_read_is_told_every_time() {
    let (server, mut news) = watched().await;
    for body in ["not an event\n", "", "{\"type\":\"ODD\",\"object\":{}}\n"] {
        let (mut stream, _) = asked(&server).await;
        begin(&mut stream, body).await;
        drop(stream);
        loop {
            let received = timeout(WITHIN, news.recv()).await.expect("nothing is told").unwrap();
            match received.what {
                What::Disconnected(_) => break,
                What::Connected => {}
                _ => panic!("there is no news"),
            }
        }
    }
}

// proves: SEC-3
#[tokio::test]
async fn a_kind_that_is_missing_is_gone_at_once_only_where_none_of_it_was_known() {
    for was_there in [false, true] {
        let (server, mut news) = watched_after(was_there).await;
        let (mut stream, _) = asked(&server).await;
        let status = r#"{"kind":"Status","status":"Failure","message":"no","reason":"NotFound","code":404}"#;
        answer(&mut stream, "404 Not Found", status).await;
        let received = timeout(WITHIN, news.recv()).await.expect("nothing is told").unwrap();
        match received.what {
            What::Absent => assert!(!was_there),
            What::Disconnected(_) => assert!(was_there),
            _ => panic!("there is no news"),
        }
    }
}

// proves: OPS-3
#[tokio::test]
async fn a_version_that_the_api_server_has_not_come_to_yet_is_forgotten_and_all_is_heard_anew() {
    let (server, mut news) = watched_doubting(false, Duration::from_millis(300)).await;
    let (mut stream, _) = asked(&server).await;
    begin(&mut stream, &(added(&policy("a", "")) + &bookmark())).await;
    assert_eq!(names(&heard(&mut news, 0).await).len(), 1);
    drop(stream);
    // The store is an older one now: version 8 is in its future, and it says nothing of what comes before that.
    let (mut stream, question) = asked(&server).await;
    assert!(question.contains("resourceVersion=8"), "{question}");
    begin(&mut stream, "").await;
    let (mut anew, question) = timeout(WITHIN, asked(&server)).await.expect("it is never given up");
    assert!(question.contains("sendInitialEvents=true"), "{question}");
    begin(&mut anew, &(added(&policy("b", "")) + &bookmark())).await;
    let mut store = Store::default();
    while names(&store).is_empty() {
        let received = timeout(WITHIN, news.recv()).await.expect("the watch stands still").unwrap();
        if let What::All(items) = received.what {
            store.replace(received.resource, items);
        }
    }
    assert_eq!(names(&store), ["PeerAuthentication shop/b read"]);
}
