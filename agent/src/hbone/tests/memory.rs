//! Peers and apps that would have this side hold more than it has room for.

use super::super::ledger::{held_by_pod, pod_budget, with_memory};
use super::super::{Gone, Server, Stream, server};
use super::{PIECE, local, wire};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

const MIB: usize = 1 << 20;

/// As a relay does whose app never reads: until the stream has to go.
async fn sleep_on(stream: Stream, evicted: Rc<Cell<usize>>) {
    let Stream { outgoing, mut incoming, .. } = stream;
    let account = outgoing.account();
    let _first = incoming.next().await;
    incoming.hold_until(account.evicted()).await;
    evicted.set(evicted.get() + 1);
}

/// As a relay does whose app reads at once; how much it has read.
async fn read_on(stream: Stream, read: Rc<Cell<usize>>) {
    let Stream { outgoing, mut incoming, .. } = stream;
    let account = outgoing.account();
    let reading = async {
        while let Ok(Some(bytes)) = incoming.next().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            read.set(read.get() + bytes.len());
            incoming.release(bytes.len()).unwrap();
        }
    };
    tokio::select! {
        () = reading => {}
        () = account.evicted() => panic!("a stream that is read was reset"),
    }
}

/// A peer without a heart: it sends on each of its streams what its windows allow.
async fn flood(near: DuplexStream, streams: usize) {
    let (mut send, connection) = h2::client::handshake(near).await.unwrap();
    spawn_local(connection);
    for number in 0..streams {
        send = send.ready().await.unwrap();
        let request = http::Request::connect("10.0.0.2:80").body(()).unwrap();
        let (response, mut body) = send.send_request(request, false).unwrap();
        spawn_local(async move {
            let _response = response;
            loop {
                body.reserve_capacity(PIECE);
                let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
                if body.send_data(Bytes::from(vec![7; room]), false).is_err() {
                    return;
                }
            }
        });
        // The first has its reader going before the others come.
        tokio::time::sleep(Duration::from_millis(if number == 0 { 10 } else { 0 })).await;
    }
    pending().await
}

/// Accepts what a peer asks for, and has `with` do something with each, by its number.
fn serve<F: Future<Output = ()> + 'static>(
    far: DuplexStream,
    with: impl Fn(usize, server::Request) -> F + 'static,
) {
    spawn_local(async move {
        let mut server = Server::handshake(far, "peer").await.unwrap();
        let mut count = 0;
        while let Some(Ok(request)) = server.next().await {
            spawn_local(with(count, request));
            count += 1;
        }
    });
}

/// The largest that the pod held in so many milliseconds.
async fn most_held(milliseconds: usize) -> usize {
    let mut most = 0;
    for _ in 0..milliseconds {
        tokio::time::sleep(Duration::from_millis(1)).await;
        most = most.max(held_by_pod());
    }
    most
}

/// 800 streams, of which even the smallest windows are more than the budget: the first is read, and the others are not.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn streams_that_nobody_reads_stay_within_the_budget_and_one_that_is_read_goes_on() {
    let _node = with_memory(64 * MIB);
    local(async {
        let (evicted, read) = (Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
        let (near, far) = wire(Duration::from_micros(50));
        let counts = (evicted.clone(), read.clone());
        serve(far, move |number, request| {
            let (evicted, read) = counts.clone();
            async move {
                let stream = request.accept().unwrap();
                match number {
                    0 => read_on(stream, read).await,
                    _ => sleep_on(stream, evicted).await,
                }
            }
        });
        spawn_local(flood(near, 800));
        let most = most_held(5000).await;
        assert!(most <= pod_budget(), "{} MiB were held", most / MIB);
        assert!(evicted.get() > 400, "{} have gone", evicted.get());
        let before = read.get();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(read.get() > before + 10 * PIECE, "{} bytes in a second", read.get() - before);
    })
    .await;
    assert_eq!(held_by_pod(), 0);
}

/// What a peer sends while the app's connection is not up yet is held, too.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn requests_that_wait_for_their_app_are_counted_and_go_for_want_of_memory() {
    let _node = with_memory(64 * MIB);
    local(async {
        let gone = Rc::<RefCell<Vec<Gone>>>::default();
        let (near, far) = wire(Duration::from_micros(50));
        let told = gone.clone();
        serve(far, move |_, mut request| {
            let gone = told.clone();
            async move {
                let why = request.gone().await;
                gone.borrow_mut().push(why);
                request.reset();
            }
        });
        spawn_local(flood(near, 100));
        let most = most_held(2000).await;
        assert!((pod_budget() / 2..=pod_budget()).contains(&most), "{} MiB were held", most / MIB);
        assert!(
            gone.borrow().len() > 10 && gone.borrow().iter().all(|why| *why == Gone::OverMemory),
            "{gone:?}"
        );
    })
    .await;
}

/// A peer that answers every request, and then takes nothing off the wire until it is told to: how many bytes it got then.
async fn stall(mut near: DuplexStream, streams: usize, resume: oneshot::Receiver<()>) -> usize {
    // As much credit as HTTP/2 has, for each stream and for the connection.
    let credit =
        [frame(4, 0, b"\0\x04\x7f\xff\xff\xff"), frame(8, 0, &(i32::MAX as u32 - 65_535).to_be_bytes())];
    near.write_all(&credit.concat()).await.unwrap();
    let (mut answered, mut got, mut resume) = (0, 0, Some(resume));
    near.read_exact(&mut [0; 24]).await.unwrap();
    while got < streams * STALLED {
        if answered == streams
            && let Some(resume) = resume.take()
        {
            resume.await.unwrap();
        }
        let mut header = [0; 9];
        near.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        near.read_exact(&mut vec![0; length]).await.unwrap();
        match header[3] {
            0 => got += length,
            1 => {
                let id = u32::from_be_bytes(header[5..].try_into().unwrap());
                near.write_all(&frame(1, id, b"\x88")).await.unwrap();
                answered += 1;
            }
            _ => {}
        }
    }
    got
}

/// What each app has to say to such a peer.
const STALLED: usize = 256 * 1024;

/// A frame; HEADERS are whole.
pub(super) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let flags = if kind == 1 { 4 } else { 0 };
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Apps that send to a peer whose connection has ceased to move: each has little waiting, is not read further, and loses nothing.
// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn what_a_peer_does_not_take_off_the_wire_stays_within_the_budget_and_arrives_later() {
    const STREAMS: usize = 300;
    let _node = with_memory(64 * MIB);
    local(async {
        let (near, far) = tokio::io::duplex(PIECE);
        let (resume, resumed) = oneshot::channel();
        let peer = spawn_local(stall(near, STREAMS, resumed));
        let (client, driver) = super::Client::handshake(far, "peer").await.unwrap();
        spawn_local(driver);
        let sent = Rc::<Cell<usize>>::default();
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let (target, source) = ("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
            streams.push(client.open(target, source, pending(), client.reserve()).await.unwrap());
        }
        for mut stream in streams {
            let sent = sent.clone();
            spawn_local(async move {
                let piece = Bytes::from(vec![7; PIECE]);
                let mut left = STALLED;
                while left > 0 {
                    let room = stream.outgoing.room(PIECE.min(left)).await.unwrap();
                    stream.outgoing.send(piece.slice(..room)).unwrap();
                    sent.set(sent.get() + room);
                    left -= room;
                }
                stream.outgoing.ended_early().await;
            });
        }
        let most = most_held(1000).await;
        assert!(most <= pod_budget(), "{} MiB were held", most / MIB);
        assert!(sent.get() <= pod_budget(), "{} MiB were taken from apps", sent.get() / MIB);
        resume.send(()).unwrap();
        assert_eq!(peer.await.unwrap(), STREAMS * STALLED);
        assert_eq!(sent.get(), STREAMS * STALLED);
    })
    .await;
}
