//! A client and a server over a wire that is made of memory and of simulated time.

mod flood;
mod memory;

use super::{Client, Incoming, Outgoing, Server, Stream};
use bytes::Bytes;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

const PIECE: usize = 64 * 1024;

/// A wire without loss and without a limit but its delay.
fn wire(one_way: Duration) -> (DuplexStream, DuplexStream) {
    let (near, near_end) = duplex(4 * PIECE);
    let (far, far_end) = duplex(4 * PIECE);
    let (near_read, near_write) = split(near_end);
    let (far_read, far_write) = split(far_end);
    carry(near_read, far_write, one_way);
    carry(far_read, near_write, one_way);
    (near, far)
}

fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, delay: Duration) {
    let (send, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    spawn_local(async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if send.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    spawn_local(async move {
        while let Some((arrives, bytes)) = under_way.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}

/// A stream from a client to a server, both ends.
async fn pair(one_way: Duration) -> (Stream, Stream) {
    let (near, far) = wire(one_way);
    let (give, mut take) = mpsc::channel(1);
    spawn_local(async move {
        let mut server = Server::handshake(far, "peer").await.unwrap();
        while let Some(Ok(request)) = server.next().await {
            assert_eq!(request.authority(), "10.0.0.2:80");
            let _ = give.send(request.accept().unwrap()).await;
        }
    });
    let (client, driver) = Client::handshake(near, "peer").await.unwrap();
    spawn_local(driver);
    let (target, source): (SocketAddr, SocketAddr) =
        ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
    let guard = client.reserve();
    let opened = client.open(target, source, pending(), guard).await.unwrap();
    (opened, take.recv().await.unwrap())
}

async fn send_all(outgoing: &mut Outgoing, mut bytes: usize) {
    let piece = Bytes::from(vec![7; PIECE]);
    while bytes > 0 {
        let room = outgoing.room(PIECE.min(bytes)).await.unwrap();
        outgoing.send(piece.slice(..room)).unwrap();
        bytes -= room;
    }
    outgoing.finish().unwrap();
}

async fn receive_all(incoming: &mut Incoming) -> usize {
    let mut received = 0;
    while let Some(bytes) = incoming.next().await.unwrap() {
        received += bytes.len();
        incoming.release(bytes.len()).unwrap();
    }
    received
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

/// 10 Gb/s × 50 ms are 62.5 MB in flight. With the first window alone this would take 20 s.
// proves: TCP-2 (long fat paths)
#[tokio::test(start_paused = true)]
async fn a_long_fat_path_is_filled() {
    const BYTES: usize = 400 << 20;
    local(async {
        let (mut sender, mut receiver) = pair(Duration::from_millis(25)).await;
        let began = Instant::now();
        let (received, ()) =
            tokio::join!(receive_all(&mut receiver.incoming), send_all(&mut sender.outgoing, BYTES));
        assert_eq!(received, BYTES);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?} of simulated time");
    })
    .await;
}

// proves: TCP-2 (slow reader)
#[tokio::test(start_paused = true)]
async fn a_reader_that_sleeps_holds_the_sender_back() {
    local(async {
        let (mut sender, receiver) = pair(Duration::from_micros(50)).await;
        let mut sent = 0;
        let piece = Bytes::from(vec![7; PIECE]);
        let stalled = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let room = sender.outgoing.room(PIECE).await.unwrap();
                sender.outgoing.send(piece.slice(..room)).unwrap();
                sent += room;
            }
        });
        assert!(stalled.await.is_err(), "the sender never waited");
        assert!(sent <= 2 << 20, "{sent} bytes are on their way to a reader that reads none");
        drop(receiver);
    })
    .await;
}

// proves: TCP-2 (half-close)
#[tokio::test(start_paused = true)]
async fn each_direction_ends_on_its_own() {
    local(async {
        let (mut client, mut server) = pair(Duration::from_micros(50)).await;
        send_all(&mut client.outgoing, 1000).await;
        assert_eq!(receive_all(&mut server.incoming).await, 1000);
        send_all(&mut server.outgoing, 5000).await;
        assert_eq!(receive_all(&mut client.incoming).await, 5000);
    })
    .await;
}

// proves: TCP-2 (reset)
#[tokio::test(start_paused = true)]
async fn a_reset_reaches_the_other_end() {
    local(async {
        let (mut client, mut server) = pair(Duration::from_micros(50)).await;
        client.outgoing.reset();
        assert!(server.incoming.next().await.is_err());
        server.outgoing.ended_early().await;
    })
    .await;
}

/// As Envoy does when the server's app closes first: END_STREAM, and RST_STREAM with NO_ERROR right behind it.
// proves: TCP-2 (half-close)
#[tokio::test(start_paused = true)]
async fn a_peer_that_wants_no_more_has_still_the_last_word() {
    local(async {
        let (mut client, mut server) = pair(Duration::from_micros(50)).await;
        send_all(&mut server.outgoing, 5000).await;
        drop(server);
        assert!(client.outgoing.ended_early().await.is_unwanted());
        assert!(client.outgoing.room(PIECE).await.is_err_and(|e| e.is_unwanted()));
        assert_eq!(receive_all(&mut client.incoming).await, 5000);
    })
    .await;
}

// proves: TCP-2
#[tokio::test(start_paused = true)]
async fn what_an_app_says_first_does_not_wait_for_the_answer() {
    const ONE_WAY: Duration = Duration::from_millis(25);
    local(async {
        let (near, far) = wire(ONE_WAY);
        let (give, mut take) = mpsc::channel(1);
        spawn_local(async move {
            let mut server = Server::handshake(far, "peer").await.unwrap();
            while let Some(Ok(request)) = server.next().await {
                let _ = give.send((Instant::now(), request.accept().unwrap())).await;
            }
        });
        let (client, driver) = Client::handshake(near, "peer").await.unwrap();
        spawn_local(driver);
        let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
        let early = async { Ok(Bytes::from_static(b"hello")) };
        let opened = client.open(target, source, early, client.reserve());
        let first = async {
            let (accepted, mut stream) = take.recv().await.unwrap();
            assert_eq!(stream.incoming.next().await.unwrap().unwrap(), "hello");
            assert!(accepted.elapsed() < ONE_WAY, "{:?}", accepted.elapsed());
            stream
        };
        let (opened, _server) = tokio::join!(opened, first);
        opened.unwrap();
    })
    .await;
}

// proves: TCP-2 (reset)
#[tokio::test(start_paused = true)]
async fn an_app_that_leaves_before_the_answer_takes_its_request_along() {
    local(async {
        let (near, far) = wire(Duration::from_micros(50));
        let (asked, request_is_there) = oneshot::channel();
        let withdrawn = spawn_local(async move {
            let mut server = Server::handshake(far, "peer").await.unwrap();
            let mut request = server.next().await.unwrap().unwrap();
            asked.send(()).unwrap();
            tokio::select! {
                gone = request.gone() => assert_eq!(gone, super::Gone::Withdrawn),
                next = server.next() => panic!("{}", next.is_some()),
            }
        });
        let (client, driver) = Client::handshake(near, "peer").await.unwrap();
        spawn_local(driver);
        let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
        let left = async {
            request_is_there.await.unwrap();
            Err(std::io::ErrorKind::ConnectionReset.into())
        };
        let opened = client.open(target, source, left, client.reserve()).await;
        assert!(matches!(opened, Err(super::OpenError::Withdrawn(_))));
        withdrawn.await.unwrap();
    })
    .await;
}

/// Opens a stream that stays, and gives both ends of it; `others` is what the server does with every later request.
async fn with_neighbours(others: impl Fn(super::Request) + 'static) -> (Client, Stream, Stream) {
    let (near, far) = wire(Duration::from_micros(50));
    let (give, mut take) = mpsc::channel(1);
    spawn_local(async move {
        let mut server = Server::handshake(far, "peer").await.unwrap();
        let first = server.next().await.unwrap().unwrap();
        give.send(first.accept().unwrap()).await.unwrap();
        while let Some(Ok(request)) = server.next().await {
            others(request);
        }
    });
    let (client, driver) = Client::handshake(near, "peer").await.unwrap();
    spawn_local(driver);
    let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
    let kept = client.open(target, source, pending(), client.reserve()).await.unwrap();
    (client, kept, take.recv().await.unwrap())
}

async fn still_carries(from: &mut Outgoing, to: &mut Incoming) {
    from.room(5).await.expect("the stream goes on");
    from.send(Bytes::from_static(b"hello")).unwrap();
    assert_eq!(to.next().await.expect("the stream goes on").unwrap(), "hello");
}

/// As an app does that opens connections and resets them at once: the requests and their resets arrive together.
// proves: ISO-1
#[tokio::test(start_paused = true)]
async fn an_app_that_leaves_again_and_again_ends_no_other_stream() {
    local(async {
        let (client, mut kept, mut far_end) = with_neighbours(drop).await;
        let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
        for _ in 0..50 {
            let burst = (0..100).map(|_| {
                let left = async { Err(std::io::ErrorKind::ConnectionReset.into()) };
                client.open(target, source, left, client.reserve())
            });
            for opened in futures::future::join_all(burst).await {
                assert!(matches!(opened, Err(super::OpenError::Withdrawn(_))));
            }
        }
        still_carries(&mut kept.outgoing, &mut far_end.incoming).await;
        still_carries(&mut far_end.outgoing, &mut kept.incoming).await;
    })
    .await;
}

/// As an app does whose connections are denied: what it has said meanwhile arrives at streams that are no more.
// proves: ISO-1
#[tokio::test(start_paused = true)]
async fn connections_that_are_refused_again_and_again_end_no_other_stream() {
    local(async {
        let (client, mut kept, mut far_end) =
            with_neighbours(|request| request.refuse(http::StatusCode::UNAUTHORIZED)).await;
        let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
        for _ in 0..100 {
            let burst = (0..100).map(|_| {
                let early = async {
                    tokio::time::sleep(Duration::from_micros(40)).await;
                    Ok(Bytes::from_static(b"hello"))
                };
                client.open(target, source, early, client.reserve())
            });
            for opened in futures::future::join_all(burst).await {
                assert!(matches!(opened, Err(super::OpenError::Status(_))), "{:?}", opened.err());
            }
        }
        still_carries(&mut kept.outgoing, &mut far_end.incoming).await;
        still_carries(&mut far_end.outgoing, &mut kept.incoming).await;
    })
    .await;
}

/// Streams that a client has opened on one connection, both ends of each, in the order of their opening.
async fn many(count: usize) -> (Client, Vec<(Stream, Stream)>) {
    let (near, far) = wire(Duration::from_micros(50));
    let (give, mut take) = mpsc::channel(1);
    spawn_local(async move {
        let mut server = Server::handshake(far, "peer").await.unwrap();
        while let Some(Ok(request)) = server.next().await {
            let _ = give.send(request.accept().unwrap()).await;
        }
    });
    let (client, driver) = Client::handshake(near, "peer").await.unwrap();
    spawn_local(async move { driver.await.unwrap() });
    let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
    let mut streams = Vec::new();
    for _ in 0..count {
        let opened = client.open(target, source, pending(), client.reserve()).await.unwrap();
        streams.push((opened, take.recv().await.unwrap()));
    }
    (client, streams)
}

/// What the relay does for an app that does not read: it takes one piece, and holds the rest.
async fn sleep_on(mut incoming: Incoming) {
    let _first = incoming.next().await;
    incoming.hold_until(pending()).await
}

/// 100 apps that read first, so that windows grow, and then sleep while they are sent as much as goes.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn readers_that_sleep_hold_their_share_and_an_honest_stream_goes_on() {
    const SLEEPERS: usize = 100;
    local(async {
        let (client, mut streams) = many(SLEEPERS + 1).await;
        let (mut honest, mut honest_far) = streams.pop().unwrap();
        let sent = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut tasks = Vec::new();
        for (near, far) in streams {
            let (sent, Stream { mut outgoing, .. }) = (sent.clone(), near);
            tasks.push(spawn_local(async move {
                let piece = Bytes::from(vec![7; PIECE]);
                loop {
                    let room = outgoing.room(PIECE).await.unwrap();
                    outgoing.send(piece.slice(..room)).unwrap();
                    sent.set(sent.get() + room);
                }
            }));
            let Stream { mut incoming, .. } = far;
            tasks.push(spawn_local(async move {
                for _ in 0..80 {
                    let bytes = incoming.next().await.unwrap().unwrap();
                    incoming.release(bytes.len()).unwrap();
                }
                sleep_on(incoming).await;
            }));
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let read = SLEEPERS * 80 * PIECE;
        assert!(sent.get() > read, "they sleep");
        let held = sent.get() - read;
        assert!(held < 300 << 20, "{} MiB are held for readers that sleep", held >> 20);
        assert!(client.is_busy(), "what is new goes to another connection");
        let began = Instant::now();
        still_carries(&mut honest.outgoing, &mut honest_far.incoming).await;
        still_carries(&mut honest_far.outgoing, &mut honest.incoming).await;
        assert!(began.elapsed() < Duration::from_secs(1));
        for task in tasks {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        assert_eq!(super::ledger::held_by_pod(), 10, "only what the honest stream has not released");
        // Its credit is back, too.
        let bulk = async { send_all(&mut honest.outgoing, 100 << 20).await };
        let (received, ()) = tokio::join!(receive_all(&mut honest_far.incoming), bulk);
        assert_eq!(received, 100 << 20);
    })
    .await;
}

// proves: ISO-1
#[tokio::test(start_paused = true)]
async fn single_bytes_that_nobody_reads_end_no_other_stream() {
    const FRAMES: usize = 100_000;
    local(async {
        let (_client, mut streams) = many(2).await;
        let (mut honest, mut honest_far) = streams.pop().unwrap();
        let (Stream { mut outgoing, .. }, Stream { incoming, .. }) = streams.pop().unwrap();
        let sleeper = spawn_local(sleep_on(incoming));
        for sent in 0..FRAMES {
            outgoing.room(1).await.unwrap();
            outgoing.send(Bytes::from_static(b"x")).unwrap();
            if sent % 10_000 == 0 {
                still_carries(&mut honest.outgoing, &mut honest_far.incoming).await;
            }
        }
        still_carries(&mut honest.outgoing, &mut honest_far.incoming).await;
        assert!(super::ledger::held_by_pod() > FRAMES / 2, "it has been sent");
        assert!(!sleeper.is_finished());
    })
    .await;
}

/// A stream to a server that is not Pillion, and what it says to each piece that it gets, if anything.
async fn to_another(answers: bool) -> Stream {
    let (near, far) = wire(Duration::from_micros(50));
    spawn_local(async move {
        let mut server = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        spawn_local(async move { while server.accept().await.is_some() {} });
        let mut outgoing = respond.send_response(http::Response::new(()), false).unwrap();
        let mut body = request.into_body();
        while let Some(Ok(bytes)) = body.data().await {
            body.flow_control().release_capacity(bytes.len()).unwrap();
            if answers {
                outgoing.send_data(bytes, false).unwrap();
            }
        }
    });
    let (client, driver) = Client::handshake(near, "peer").await.unwrap();
    spawn_local(driver);
    let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
    client.open(target, source, pending(), client.reserve()).await.unwrap()
}

async fn say(outgoing: &mut Outgoing, bytes: usize) {
    outgoing.room(bytes).await.unwrap();
    outgoing.send(Bytes::from(vec![7; bytes])).unwrap();
}

// proves: ISO-1, TCP-2
#[tokio::test(start_paused = true)]
async fn small_writes_gather_only_for_a_peer_that_is_not_pillion_and_does_not_answer() {
    local(async {
        let (_client, mut streams) = many(1).await;
        let (mut near, mut far) = streams.pop().unwrap();
        let mut conversation = to_another(true).await;
        let mut monologue = to_another(false).await;
        let mut longest = Duration::ZERO;
        for said in 0..1000 {
            still_carries(&mut near.outgoing, &mut far.incoming).await;
            assert_eq!(near.outgoing.pause(), Duration::ZERO, "Pillion takes them at once");

            say(&mut conversation.outgoing, 1).await;
            let heard = conversation.incoming.next().await.unwrap().unwrap();
            conversation.incoming.release(heard.len()).unwrap();
            assert_eq!(conversation.outgoing.pause(), Duration::ZERO, "it answers");

            say(&mut monologue.outgoing, 1).await;
            longest = longest.max(monologue.outgoing.pause());
            assert!(said >= 63 || longest.is_zero(), "a burst does not wait");
        }
        assert_eq!(longest, Duration::from_millis(32));
        say(&mut monologue.outgoing, 300).await;
        assert_eq!(monologue.outgoing.pause(), Duration::ZERO, "a large one is worth its frame");
        for said in 0..1000 {
            still_carries(&mut far.outgoing, &mut near.incoming).await;
            assert_eq!(far.outgoing.pause(), Duration::ZERO, "{said}: so it is the other way");
        }
    })
    .await;
}
