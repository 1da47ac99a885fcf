//! Peers that send more frames than anybody needs, or do not keep to the protocol.

use super::super::ledger::{held_by_pod, pod_budget, with_memory};
use super::super::{Client, FRAMES_A_TURN, Server};
use super::memory::frame;
use super::{local, wire};
use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{spawn_local, yield_now};
use tokio::time::{Instant, sleep, timeout};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A CONNECT request on a stream.
fn request(stream: u32) -> Vec<u8> {
    frame(1, stream, b"\x02\x07CONNECT\x01\x0b10.0.0.2:80")
}

/// A client's first words, with its acknowledgement of the server's SETTINGS.
fn opening() -> Vec<u8> {
    [PREFACE, &frame(4, 0, b""), &[0, 0, 0, 4, 1, 0, 0, 0, 0]].concat()
}

async fn flooded(words: Vec<u8>) -> (DuplexStream, Server<DuplexStream>) {
    let (mut near, far) = duplex(words.len().max(1 << 16));
    near.write_all(&words).await.unwrap();
    (near, Server::handshake(far, "peer").await.unwrap())
}

/// All of it is there at once: what the engine makes of it at a time is bounded, and nobody is given a request that nobody waits
/// for any more.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn requests_that_are_withdrawn_at_once_cost_nothing_and_end_no_connection() {
    const FLOOD: u32 = 20_000;
    local(async {
        let mut words = opening();
        for number in 0..FLOOD {
            words.extend(request(2 * number + 1));
            words.extend(frame(3, 2 * number + 1, &8_u32.to_be_bytes()));
        }
        words.extend(request(2 * FLOOD + 1));
        let (_near, mut server) = flooded(words).await;
        let first = server.next().await.unwrap().unwrap();
        assert_eq!(first.authority(), "10.0.0.2:80");
        let _stream = first.accept().expect("it is the one that was not withdrawn");
        assert!(timeout(Duration::from_secs(1), server.next()).await.is_err(), "the connection goes on");
    })
    .await;
}

// proves: ISO-1
#[tokio::test(start_paused = true)]
async fn a_flood_of_frames_leaves_others_their_turn() {
    local(async {
        let mut words = opening();
        for number in 0..1000 {
            words.extend(request(2 * number + 1));
        }
        let (_near, mut server) = flooded(words).await;
        let turns = Rc::<Cell<usize>>::default();
        let other = turns.clone();
        spawn_local(async move {
            loop {
                other.set(other.get() + 1);
                yield_now().await;
            }
        });
        let (mut in_turn, mut most, mut turn) = (0, 0, 0);
        for _ in 0..1000 {
            let _request = server.next().await.unwrap().unwrap();
            in_turn = if turns.get() == turn { in_turn + 1 } else { 1 };
            turn = turns.get();
            most = most.max(in_turn);
        }
        assert!(most <= FRAMES_A_TURN, "{most} requests in one turn");
    })
    .await;
}

/// Every frame on a stream that is no more is answered with a reset, and the resets wait here. When the peer takes them, it goes
/// on.
// proves: ISO-3
#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_and_never_listens_is_not_listened_to() {
    const ASKED: u32 = 50_000;
    const RESET: usize = 13;
    local(async {
        let mut words = opening();
        words.extend(request(2 * ASKED + 1));
        for number in 0..ASKED {
            words.extend(frame(0, 2 * number + 1, b"x"));
        }
        let (near, far) = duplex(1 << 16);
        let (mut listen, mut say) = tokio::io::split(near);
        let saying = spawn_local(async move { say.write_all(&words).await.unwrap() });
        spawn_local(async move {
            let mut server = Server::handshake(far, "peer").await.unwrap();
            let _request = server.next().await.unwrap().unwrap();
            server.next().await;
        });
        sleep(Duration::from_secs(5)).await;
        assert!(!saying.is_finished(), "all of it was read");
        let mut heard = 0;
        let listening = async {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = listen.read(&mut buffer).await {
                heard += count;
            }
        };
        assert!(timeout(Duration::from_secs(5), listening).await.is_err(), "the connection goes on");
        assert!(saying.is_finished());
        assert!(heard > ASKED as usize * RESET, "{heard} bytes");
    })
    .await;
}

/// Such a peer may still send what the first window allows.
// proves: ISO-3
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_acknowledge_settings_is_closed() {
    local(async {
        let (mut near, mut server) = flooded([PREFACE, &frame(4, 0, b"")].concat()).await;
        let began = Instant::now();
        let pings = async {
            loop {
                near.write_all(&frame(6, 0, b"12345678")).await.unwrap();
                let _ = timeout(Duration::from_millis(500), near.read_exact(&mut [0; 17])).await;
                sleep(Duration::from_millis(300)).await;
            }
        };
        let error = tokio::select! {
            next = server.next() => next.unwrap().err().unwrap(),
            _ = timeout(Duration::from_secs(60), pings) => panic!("it is still open"),
        };
        assert_eq!(error.reason(), Some(h2::Reason::SETTINGS_TIMEOUT));
        assert!((10..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    })
    .await;
}

/// A path that is down costs a connection nothing: what was told is acknowledged when the path is up again.
// proves: TCP-2
#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_a_request_unanswered_is_suspect_until_it_is_heard() {
    local(async {
        let (near, far) = wire(Duration::from_micros(50));
        let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
        spawn_local(async move {
            let mut server = Server::handshake(far, "peer").await.unwrap();
            let _first = server.next().await;
            // It stands still.
            resumed.await.unwrap();
            let _rest = server.next().await;
        });
        let (client, driver) = Client::handshake(near, "peer").await.unwrap();
        spawn_local(driver);
        let client = Rc::new(client);
        let opening = client.clone();
        spawn_local(async move {
            let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
            let _ = opening.open(target, source, pending(), opening.reserve()).await;
        });
        sleep(Duration::from_millis(900)).await;
        assert!(!client.is_suspect());
        sleep(Duration::from_millis(200)).await;
        assert!(client.is_suspect());
        sleep(Duration::from_secs(30)).await;
        assert!(client.is_suspect());
        // The request is as unanswered as before, and the ping is not.
        resume.send(()).unwrap();
        sleep(Duration::from_millis(10)).await;
        assert!(!client.is_suspect());
    })
    .await;
}

/// Connections of one tenant share what it has in a turn: many of them are no more work than one.
// proves: ISO-1
#[tokio::test(start_paused = true)]
async fn the_connections_of_a_tenant_share_its_turn() {
    local(async {
        let open = async |tenant: &str| {
            let (near, far) = wire(Duration::from_micros(50));
            let (_client, server) =
                tokio::join!(Client::handshake(near, tenant), Server::handshake(far, tenant));
            server.unwrap()
        };
        let alone = open("alone").await;
        assert_eq!(alone.requests_a_turn(), 32);
        let many = [open("many").await, open("many").await, open("many").await];
        assert_eq!(many[0].requests_a_turn(), 32 / 3);
        assert_eq!(alone.requests_a_turn(), 32);
        drop(many);
        assert_eq!(open("many").await.requests_a_turn(), 32);
    })
    .await;
}

/// A frame of which the last byte does not come is held by the engine; a connection of such frames goes when memory is short.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_end_is_counted_and_its_connection_goes_for_want_of_memory() {
    let _node = with_memory(64 << 20);
    local(async {
        let (ended, mut near_ends) = (Rc::<Cell<usize>>::default(), vec![]);
        for _ in 0..400 {
            let (mut near, far) = wire(Duration::from_micros(50));
            let count = ended.clone();
            spawn_local(async move {
                let mut server = Server::handshake(far, "peer").await.unwrap();
                let evicted = server.evicted();
                tokio::select! {
                    () = evicted => count.set(count.get() + 1),
                    () = async { while server.next().await.is_some() {} } => {}
                }
            });
            near.write_all(&opening()).await.unwrap();
            // A frame of an unknown kind, of 65,000 bytes, without its last one.
            near.write_all(&[0, 0xfd, 0xe8, 0x99, 0, 0, 0, 0, 0]).await.unwrap();
            near.write_all(&vec![7; 64_999]).await.unwrap();
            near_ends.push(near);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(held_by_pod() > pod_budget() / 2, "{} are held", held_by_pod());
        assert!(held_by_pod() <= pod_budget(), "{} of {}", held_by_pod(), pod_budget());
        assert!(ended.get() > 100, "{} connections have gone", ended.get());
    })
    .await;
    assert_eq!(held_by_pod(), 0);
}
