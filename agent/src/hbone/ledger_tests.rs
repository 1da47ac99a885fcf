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

/// A pod of the node on a thread of its own, which keeps to its budget until it is told to end.
struct OtherPod {
    thread: std::thread::JoinHandle<usize>,
    finish: tokio::sync::oneshot::Sender<()>,
}

/// One that has so many accounts, and holds so many bytes in each.
fn another_pod(node: &Arc<Node>, accounts: usize, each: usize) -> OtherPod {
    let (node, (hold, held)) = (node.clone(), std::sync::mpsc::channel());
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        join(&node);
        let accounts: Vec<_> = (0..accounts).map(|_| Account::open(&"peer".into())).collect();
        accounts.iter().for_each(|account| account.set_incoming(each));
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
    held.recv().unwrap();
    OtherPod { thread, finish }
}

impl OtherPod {
    /// How many of its accounts had to go.
    fn end(self) -> usize {
        let _ = self.finish.send(());
        self.thread.join().unwrap()
    }
}

/// Waits until the node holds no more than it may.
async fn relieved(node: &Node) {
    let is_relieved = async {
        while node.held() > node.budget {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_relieved).await.unwrap();
}

// proves: ISO-1, ISO-3
#[tokio::test]
async fn when_the_node_holds_too_much_the_pod_that_holds_most_gives_up() {
    let node = with_memory(MEMORY);
    let others = [another_pod(&node, 12, MIB), another_pod(&node, 12, MIB)];
    let mine: Vec<_> = (0..9).map(|_| Account::open(&"peer".into())).collect();
    mine.iter().for_each(|account| account.set_incoming(MIB));
    relieved(&node).await;
    assert!(others.into_iter().map(OtherPod::end).sum::<usize>() > 0, "of those that hold most");
    assert!(mine.iter().all(|account| !is_evicted(account)), "a pod that holds less keeps what it has");
}

/// What is over the node's budget is more than any of them holds.
// proves: ISO-1, ISO-3
#[tokio::test]
async fn of_many_pods_that_hold_much_none_gives_up_more_than_the_others() {
    let node = with_memory(MEMORY);
    let others: Vec<_> = (0..39).map(|_| another_pod(&node, 8, MIB / 10)).collect();
    // 31.2 of 32 MiB are held. This pod holds a little more than each of the others.
    let mine: Vec<_> = (0..10).map(|_| Account::open(&"peer".into())).collect();
    mine.iter().for_each(|account| account.set_incoming(MIB / 10));
    relieved(&node).await;
    let left = mine.iter().filter(|account| !is_evicted(account)).count();
    assert!((5..10).contains(&left), "{left} of 10 are left");
    for pod in others {
        pod.end();
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
