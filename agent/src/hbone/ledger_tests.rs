use super::*;
use futures::FutureExt;

const MIB: usize = 1 << 20;

/// Of which a pod may hold 16 MiB, and the node 32.
const MEMORY: usize = 256 * MIB / 3 + 8;

fn is_evicted(account: &Account) -> bool {
    account.evicted().now_or_never().is_some()
}

// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn streams_that_nobody_took_from_for_longest_go_and_one_that_is_read_stays() {
    let _node = with_memory(MEMORY);
    assert_eq!(pod_budget(), 16 * MIB);
    let (read, tiny) = (Account::open(&"peer".into()), Account::open(&"peer".into()));
    read.set_incoming(MIB);
    tiny.set_incoming(SMALL - 1);
    let mut asleep = Vec::new();
    for _ in 0..100 {
        let account = Account::open(&"peer".into());
        account.set_incoming(MIB);
        account.was_read();
        tokio::time::advance(Duration::from_millis(100)).await;
        read.was_read();
        assert!(held_by_pod() <= pod_budget());
        asleep.push(account);
    }
    let evicted: Vec<bool> = asleep.iter().map(|account| is_evicted(account)).collect();
    let first_left = evicted.iter().position(|gone| !gone).unwrap();
    assert!(first_left >= 84 && evicted[first_left..].iter().all(|gone| !gone), "the oldest: {evicted:?}");
    assert!(!is_evicted(&read) && !is_evicted(&tiny));
    drop((asleep, read, tiny));
    assert_eq!(held_by_pod(), 0);
}

// proves: ISO-1, ISO-3
#[tokio::test]
async fn when_the_node_holds_too_much_the_pod_that_holds_most_gives_up() {
    let node = with_memory(MEMORY);
    let (hold, held) = std::sync::mpsc::channel();
    let mut others = Vec::new();
    for _ in 0..2 {
        let (node, hold) = (node.clone(), hold.clone());
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let pod = std::thread::spawn(move || {
            join(&node);
            let accounts: Vec<_> = (0..12).map(|_| Account::open(&"peer".into())).collect();
            accounts.iter().for_each(|account| account.set_incoming(MIB));
            hold.send(()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = keep_to_budget() => {}
                    _ = finished => {}
                }
            });
            accounts.iter().filter(|account| is_evicted(account)).count()
        });
        others.push((pod, finish));
        held.recv().unwrap();
    }
    let mine: Vec<_> = (0..9).map(|_| Account::open(&"peer".into())).collect();
    mine.iter().for_each(|account| account.set_incoming(MIB));
    let relieved = async {
        while node.held() > node.budget {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), relieved).await.unwrap();
    let gone = |(pod, finish): (std::thread::JoinHandle<usize>, tokio::sync::oneshot::Sender<()>)| {
        let _ = finish.send(());
        pod.join().unwrap()
    };
    assert!(others.into_iter().map(gone).sum::<usize>() > 0, "of those that hold most");
    assert!(mine.iter().all(|account| !is_evicted(account)), "a pod that holds less keeps what it has");
}

/// What is over the node's budget is more than any of them holds.
// proves: ISO-1, ISO-3
#[tokio::test]
async fn of_many_pods_that_hold_much_none_gives_up_more_than_the_others() {
    let node = with_memory(MEMORY);
    let (hold, held) = std::sync::mpsc::channel();
    let others: Vec<_> = (0..39)
        .map(|_| {
            let (node, hold) = (node.clone(), hold.clone());
            let (finish, finished) = tokio::sync::oneshot::channel::<()>();
            let pod = std::thread::spawn(move || {
                join(&node);
                let accounts: Vec<_> = (0..8).map(|_| Account::open(&"peer".into())).collect();
                accounts.iter().for_each(|account| account.set_incoming(MIB / 10));
                hold.send(()).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        () = keep_to_budget() => {}
                        _ = finished => {}
                    }
                });
            });
            (pod, finish)
        })
        .collect();
    others.iter().for_each(|_| held.recv().unwrap());
    // 31.2 of 32 MiB are held. This pod holds a little more than each of the others.
    let mine: Vec<_> = (0..10).map(|_| Account::open(&"peer".into())).collect();
    mine.iter().for_each(|account| account.set_incoming(MIB / 10));
    let relieved = async {
        while node.held() > node.budget {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), relieved).await.unwrap();
    let left = mine.iter().filter(|account| !is_evicted(account)).count();
    assert!((5..10).contains(&left), "{left} of 10 are left");
    for (pod, finish) in others {
        let _ = finish.send(());
        pod.join().unwrap();
    }
}

// proves: ISO-3
#[test]
fn budgets_are_shares_of_the_memory_that_there_is() {
    for (memory, node, pod) in [
        (MEMORY, 32 * MIB + 1, 16 * MIB),
        (1 << 30, NODE_BUDGET, POD_BUDGET),
        (usize::MAX, NODE_BUDGET, POD_BUDGET),
    ] {
        let found = Node::of(memory);
        assert_eq!((found.budget, found.pod_budget), (node, pod), "{memory}");
    }
}

// proves: ISO-3
#[tokio::test]
async fn what_waits_for_the_wire_is_one_frame_while_memory_is_short() {
    let _node = with_memory(MEMORY);
    let (sleeper, sender) = (Account::open(&"peer".into()), Account::open(&"peer".into()));
    assert_eq!(sender.send_room(), usize::MAX);
    sleeper.set_incoming(9 * MIB);
    assert_eq!(sender.send_room(), SMALLEST_SEND_BUFFER);
    sender.add_outgoing(10_000);
    assert_eq!(sender.send_room(), SMALLEST_SEND_BUFFER - 10_000);
    sender.add_outgoing(10_000);
    assert_eq!(sender.send_room(), 0);
    assert_eq!(held_by_pod(), 9 * MIB + 20_000);
    sender.was_sent(20_000);
    assert_eq!(sender.send_room(), SMALLEST_SEND_BUFFER);
}

// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn what_the_kernel_holds_counts_and_goes_with_what_nobody_takes() {
    let _node = with_memory(MEMORY);
    let (taken, stalled) = (Account::open(&"peer".into()), Account::open(&"peer".into()));
    for account in [&taken, &stalled] {
        account.set_in_kernel(Towards::Peer, 5 * MIB);
        account.set_in_kernel(Towards::App, MIB);
    }
    assert_eq!(held_by_pod(), 12 * MIB);
    tokio::time::advance(2 * FRESH).await;
    taken.was_taken(Towards::Peer);
    taken.was_taken(Towards::App);
    let last = Account::open(&"peer".into());
    last.set_incoming(5 * MIB);
    assert!(is_evicted(&stalled) && !is_evicted(&taken) && !is_evicted(&last));
    assert_eq!(held_by_pod(), 11 * MIB);
    stalled.set_in_kernel(Towards::Peer, 0);
    taken.set_in_kernel(Towards::Peer, 0);
    assert_eq!(held_by_pod(), 6 * MIB);
}

// proves: ISO-1, ISO-3
#[tokio::test(start_paused = true)]
async fn who_holds_most_gives_back_first_whatever_was_taken_when() {
    let _node = with_memory(MEMORY);
    let budget = pod_budget();
    // A reader that pauses, and holds little.
    let honest = Account::open(&"honest".into());
    honest.set_incoming(MIB);
    tokio::time::advance(2 * FRESH).await;
    let greedy: Vec<_> = (0..1_000).map(|_| Account::open(&"greedy".into())).collect();
    for account in &greedy {
        account.set_incoming(64 * 1024);
        // Somebody takes a little of each, all the time.
        account.was_read();
    }
    assert!(held_by_pod() <= budget);
    assert!(!honest.is_evicted.get());
    assert!(greedy.iter().any(|account| account.is_evicted.get()));
}

#[test]
fn each_may_hold_what_those_that_hold_less_leave() {
    assert_eq!(most_of_each(vec![10, 500, 20], 130), 100);
    assert_eq!(most_of_each(vec![500, 500], 130), 65);
    assert_eq!(most_of_each(vec![10, 20], 130), usize::MAX);
    assert_eq!(most_of_each(vec![], 0), usize::MAX);
}
