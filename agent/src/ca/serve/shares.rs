//! What each source may have of connections and of requests that are answered at once: nobody shuts the authority for others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Whom what comes counts for: an IPv4 address, or a network of 64 bits, of which one host may have all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(ip) => Self(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into()),
            ip @ IpAddr::V4(_) => Self(ip),
        }
    }
}

/// The connections that are open. A source takes while it has no more than what is left for others; beyond that it takes
/// from itself, the one first that nobody has asked by for the longest time.
pub struct Connections {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Open>,
    by_source: HashMap<Source, usize>,
    next: u64,
    /// Counts what happens, so that it is known what was last used first.
    turn: u64,
}

struct Open {
    source: Source,
    /// Requests that are under way.
    requests: usize,
    used: u64,
    ends: Arc<Notify>,
}

/// A connection's place. It is free again once this is dropped.
pub struct Place {
    connections: Arc<Connections>,
    id: u64,
    ends: Arc<Notify>,
}

/// A request that is under way.
pub struct Request<'a>(&'a Place);

impl Connections {
    /// Of so many connections at most.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A place for one more connection of this source; `None` where there is none.
    pub fn enter(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut state = self.state();
        let own = state.by_source.get(&source).copied().unwrap_or(0);
        if own >= self.most - state.open.len() {
            // Whoever has nothing yet takes from whoever has the most.
            let from = match own {
                0 => *state.by_source.iter().max_by_key(|(_, count)| **count)?.0,
                _ => source,
            };
            let idle = state.open.iter().filter(|(_, open)| open.source == from && open.requests == 0);
            let (id, _) = idle.min_by_key(|(_, open)| open.used)?;
            let id = *id;
            if let Some(open) = state.leave(id) {
                open.ends.notify_one();
            }
        }
        let (id, turn, ends) = (state.next, state.turn(), Arc::new(Notify::new()));
        state.next += 1;
        *state.by_source.entry(source).or_default() += 1;
        state.open.insert(id, Open { source, requests: 0, used: turn, ends: ends.clone() });
        Some(Place { connections: self.clone(), id, ends })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn leave(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(count) = self.by_source.get_mut(&open.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&open.source);
            }
        }
        Some(open)
    }
}

impl Place {
    /// Ends once the place is given to another connection.
    pub async fn is_taken(&self) {
        self.ends.notified().await;
    }

    /// A request has come. As long as the answer is under way the connection keeps its place.
    pub fn request(&self) -> Request<'_> {
        self.with(|open, turn| (open.requests, open.used) = (open.requests + 1, turn));
        Request(self)
    }

    fn with(&self, change: impl FnOnce(&mut Open, u64)) {
        let mut state = self.connections.state();
        let turn = state.turn();
        if let Some(open) = state.open.get_mut(&self.id) {
            change(open, turn);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.state().leave(self.id);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.with(|open, turn| (open.requests, open.used) = (open.requests - 1, turn));
    }
}

/// Requests that are answered at once: so many of all sources, and so many of each.
pub struct Slots {
    all: Arc<Semaphore>,
    of_each: usize,
    by_source: Mutex<HashMap<Source, Weak<Semaphore>>>,
}

/// A request's slot, free again once this is dropped.
pub struct Slot {
    _of_source: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Slots {
    pub fn new(all: usize, of_each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_each, by_source: Mutex::default() }
    }

    /// Waits for a slot. A source waits for its own first, so that it has no more in the queue of all than it may have slots.
    pub async fn acquire(&self, source: Source) -> Option<Slot> {
        let of_source = self.of(source).acquire_owned().await.ok()?;
        let of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Slot { _of_source: of_source, _of_all: of_all })
    }

    fn of(&self, source: Source) -> Arc<Semaphore> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_source.get(&source).and_then(Weak::upgrade) {
            return known;
        }
        by_source.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = Arc::new(Semaphore::new(self.of_each));
        by_source.insert(source, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        assert_eq!(source("fd00:1:2:3::1"), source("fd00:1:2:3:ffff::"));
        assert_ne!(source("fd00:1:2:3::1"), source("fd00:1:2:4::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.2"), source("10.0.0.1"));
    }

    #[test]
    fn one_source_takes_half_of_what_is_left_and_then_from_itself() {
        let connections = Connections::new(64);
        let greedy: Vec<_> = (0..1000).filter_map(|_| connections.enter(source("10.0.0.1"))).collect();
        let is_taken = |place: &Place| place.is_taken().now_or_never().is_some();
        assert_eq!(greedy.iter().filter(|place| !is_taken(place)).count(), 32);
        let others: Vec<_> =
            (2..=6).map(|host| connections.enter(source(&format!("10.0.0.{host}"))).unwrap()).collect();
        assert!(!others.iter().any(is_taken));
    }

    #[test]
    fn the_oldest_idle_connection_goes_first_and_none_with_a_request() {
        let connections = Connections::new(4);
        let enter = || connections.enter(source("10.0.0.1"));
        let (first, second) = (enter().unwrap(), enter().unwrap());
        let is_taken = |place: &Place| place.is_taken().now_or_never().is_some();
        // What was used last goes last.
        drop(first.request());
        let third = enter().unwrap();
        assert_eq!([&first, &second, &third].map(is_taken), [false, true, false]);
        let under_way = (first.request(), third.request());
        assert!(enter().is_none());
        drop(under_way);
        assert!(enter().is_some() && is_taken(&first));
    }

    #[test]
    fn whoever_has_nothing_takes_from_whoever_has_the_most() {
        let connections = Connections::new(2);
        let one = connections.enter(source("10.0.0.1")).unwrap();
        let other = connections.enter(source("10.0.0.2")).unwrap();
        let third = connections.enter(source("10.0.0.3")).unwrap();
        let taken = [&one, &other, &third].map(|place| place.is_taken().now_or_never().is_some());
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
        assert!(!taken[2]);
    }

    #[test]
    fn a_source_that_asks_for_all_slots_leaves_some() {
        let slots = Slots::new(64, 16);
        let greedy: Vec<_> =
            (0..100).filter_map(|_| slots.acquire(source("10.0.0.1")).now_or_never().flatten()).collect();
        assert_eq!(greedy.len(), 16);
        assert!(slots.acquire(source("10.0.0.2")).now_or_never().is_some());
        drop(greedy);
        assert!(slots.acquire(source("10.0.0.1")).now_or_never().is_some());
    }
}
