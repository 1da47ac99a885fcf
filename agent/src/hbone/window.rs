//! How much a peer may send unread: enough for the path's bandwidth × delay, and no more than there is memory for.
//!
//! A fixed window for 10 Gb/s × 50 ms would let one sleeping reader pile up 64 MiB in the agent. So a
//! connection's streams start small and grow while a measured round trip shows that the window holds one of them
//! back (as TCP's own receive buffer does, and hyper's adaptive window). What readers that sleep hold already
//! ([`ledger`](super::ledger)) makes the windows of all smaller again, down to [`SMALLEST_WINDOW`].

use super::ledger::room_left;
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::time::Instant;

/// Where streams start: 80 Gb/s at 100 µs, a data centre's round trip.
pub(super) const INITIAL_WINDOW: u32 = 1 << 20;

/// Where growth ends: 10 Gb/s × 50 ms, rounded up.
const MAX_WINDOW: u32 = 64 << 20;

/// What every stream keeps, however much others hold: one frame, 5 Gb/s at 100 µs.
const SMALLEST_WINDOW: u32 = 64 << 10;

/// The first measurements follow each other quickly; once the window fits, they become rare.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A peer has so many seconds in which it is heard to acknowledge SETTINGS: while it is not, as when the path is down, none of
/// them count.
const ACKNOWLEDGEMENT: u32 = 10;

/// Decides on the window from what apps take between a ping and its pong. No I/O, no clock.
#[derive(Debug)]
struct Estimator {
    window: u32,
    /// Which measurement this is.
    round: u64,
    /// The most that one stream has passed on since the ping.
    most: u64,
    pinged: bool,
    next: Option<Instant>,
    pause: Duration,
}

/// What one stream has passed on in a measurement. The window is each stream's own, so that the bytes of several
/// are never added up.
#[derive(Debug, Default)]
pub(super) struct Passed(Cell<(u64, u64)>);

impl Passed {
    /// Counts bytes, and gives what there are of them in this measurement.
    fn add(&self, round: u64, bytes: u64) -> u64 {
        let (last_round, before) = self.0.get();
        let sum = if last_round == round { before + bytes } else { bytes };
        self.0.set((round, sum));
        sum
    }
}

impl Estimator {
    fn new() -> Self {
        Self { window: INITIAL_WINDOW, round: 0, most: 0, pinged: false, next: None, pause: SHORTEST_PAUSE }
    }

    /// Counts what a stream has passed on; true asks for a ping.
    fn on_passed(&mut self, stream: &Passed, bytes: usize, now: Instant) -> bool {
        if self.pinged {
            self.most = self.most.max(stream.add(self.round, bytes as u64));
            return false;
        }
        if self.window >= MAX_WINDOW || self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.pinged = true;
        self.round += 1;
        self.most = stream.add(self.round, bytes as u64);
        true
    }

    /// The pong is here: the window grows when one stream has used two thirds of the present one in the round trip.
    fn on_pong(&mut self, now: Instant) {
        self.pinged = false;
        let tight = self.most * 3 > u64::from(self.window) * 2;
        self.pause = if tight { SHORTEST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.next = Some(now + self.pause);
        if tight {
            self.window = self.window.saturating_mul(2).min(MAX_WINDOW);
        }
    }
}

/// The window that fits: what the path needs, but no more than half of the memory that is left, in powers of two. One
/// that grows has to fit twice, so that it does not swing.
fn fitting(needed: u32, present: u32, room_left: usize) -> u32 {
    let fits = |half: usize| {
        let half = u32::try_from(half).unwrap_or(MAX_WINDOW).clamp(SMALLEST_WINDOW, MAX_WINDOW);
        needed.min(1 << half.ilog2())
    };
    let now = fits(room_left / 2);
    if now <= present { now } else { fits(room_left / 4).max(present) }
}

/// A connection's estimator together with its means to measure.
pub(super) struct Tuner(RefCell<Measuring>);

struct Measuring {
    estimator: Estimator,
    ping_pong: Option<h2::PingPong>,
    /// The window that the peer was told.
    told: u32,
    /// What is not known to be acknowledged yet.
    unacknowledged: Option<Heard>,
    /// The peer has left something unanswered, and has said nothing since.
    is_suspect: bool,
}

/// Since the peer was told, it was heard in so many seconds.
#[derive(Default)]
struct Heard {
    seconds: u32,
    last: Option<Instant>,
}

impl Tuner {
    pub fn new(ping_pong: Option<h2::PingPong>) -> Self {
        Self(RefCell::new(Measuring {
            estimator: Estimator::new(),
            ping_pong,
            told: INITIAL_WINDOW,
            unacknowledged: Some(Heard::default()),
            is_suspect: false,
        }))
    }

    /// The peer has left something unanswered: it is suspect until it answers, a ping at the latest.
    pub fn suspect(&self) {
        let Measuring { estimator, ping_pong, is_suspect, .. } = &mut *self.0.borrow_mut();
        let Some(ping_pong) = ping_pong else { return };
        *is_suspect = true;
        // One that is under way already will tell as well.
        estimator.pinged |= ping_pong.send_ping(h2::Ping::opaque()).is_ok();
    }

    /// The peer has answered.
    pub fn answered(&self) {
        self.0.borrow_mut().is_suspect = false;
    }

    pub fn is_suspect(&self) -> bool {
        self.0.borrow().is_suspect
    }

    /// To be called when the peer was heard, and all that it said was looked at. False where it has not acknowledged what it was
    /// told: its streams may be sent more than they should, and it does not keep to HTTP/2. `tell` is [`poll`](Self::poll)'s.
    pub fn heard(&self, tell: impl FnOnce(u32) -> bool) -> bool {
        let Measuring { told, unacknowledged, .. } = &mut *self.0.borrow_mut();
        let Some(heard) = unacknowledged else { return true };
        let now = Instant::now();
        if heard.last.is_some_and(|last| now - last < Duration::from_secs(1)) {
            return true;
        }
        heard.last = Some(now);
        heard.seconds += 1;
        if heard.seconds <= ACKNOWLEDGEMENT {
            return true;
        }
        // The engine lets it be told again only where the last time was acknowledged.
        *unacknowledged = None;
        tell(*told)
    }

    /// A stream of the connection has passed on bytes to its app.
    pub fn on_passed(&self, stream: &Passed, bytes: usize) {
        let Measuring { estimator, ping_pong, .. } = &mut *self.0.borrow_mut();
        let Some(ping_pong) = ping_pong else { return };
        if estimator.on_passed(stream, bytes, Instant::now())
            && ping_pong.send_ping(h2::Ping::opaque()).is_err()
        {
            estimator.pinged = false;
        }
    }

    /// To be called when the connection is polled: has `tell` set the window of its streams, if it is to change. `tell`
    /// says whether that was possible; if not, it is told at the next call.
    pub fn poll(&self, cx: &mut std::task::Context<'_>, tell: impl FnOnce(u32) -> bool) {
        let Measuring { estimator, ping_pong, told, unacknowledged, is_suspect } = &mut *self.0.borrow_mut();
        if estimator.pinged
            && let Some(ping_pong) = ping_pong
            && let std::task::Poll::Ready(Ok(_)) = ping_pong.poll_pong(cx)
        {
            estimator.on_pong(Instant::now());
            *is_suspect = false;
        }
        let window = fitting(estimator.window, *told, room_left());
        if window != *told && tell(window) {
            *told = window;
            *unacknowledged = Some(Heard::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_holds_the_sender_back_grows_to_the_bound() {
        let mut estimator = Estimator::new();
        let mut now = Instant::now();
        let (stream, mut windows) = (Passed::default(), vec![]);
        for _ in 0..10 {
            now += LONGEST_PAUSE;
            if !estimator.on_passed(&stream, 1, now) {
                break;
            }
            estimator.on_passed(&stream, estimator.window as usize, now);
            estimator.on_pong(now);
            windows.push(estimator.window);
        }
        assert_eq!(windows, [2, 4, 8, 16, 32, 64].map(|mib: u32| mib << 20));
    }

    #[test]
    fn a_window_that_is_wide_enough_stays_and_is_measured_ever_more_rarely() {
        let mut estimator = Estimator::new();
        let (now, stream) = (Instant::now(), Passed::default());
        assert!(estimator.on_passed(&stream, 1000, now));
        estimator.on_pong(now);
        assert!(!estimator.on_passed(&stream, 1000, now + SHORTEST_PAUSE));
        assert!(estimator.on_passed(&stream, 1000, now + 2 * SHORTEST_PAUSE));
        assert_eq!(estimator.window, INITIAL_WINDOW);
    }

    // proves: ISO-1
    #[test]
    fn many_streams_that_each_need_little_do_not_make_the_window_of_one_grow() {
        let mut estimator = Estimator::new();
        let now = Instant::now();
        let streams: Vec<Passed> = (0..100).map(|_| Passed::default()).collect();
        assert!(estimator.on_passed(&streams[0], 1, now));
        for stream in &streams {
            estimator.on_passed(stream, INITIAL_WINDOW as usize / 2, now);
        }
        estimator.on_pong(now);
        assert_eq!(estimator.window, INITIAL_WINDOW);
    }

    // proves: ISO-1
    #[test]
    fn windows_shrink_with_the_memory_that_is_left_and_grow_again_with_it() {
        const MIB: usize = 1 << 20;
        for (needed, present, room_left, expected) in [
            (64 * MIB, MIB, 128 * MIB, 32 * MIB),
            (64 * MIB, MIB, 256 * MIB, 64 * MIB),
            (64 * MIB, 64 * MIB, 128 * MIB, 64 * MIB),
            (64 * MIB, 64 * MIB, 100 * MIB, 32 * MIB),
            (MIB, MIB, 2 * MIB, MIB),
            (MIB, MIB, MIB, MIB / 2),
            (MIB, MIB / 2, 2 * MIB, MIB / 2),
            (MIB, MIB / 2, 4 * MIB, MIB),
            (MIB, MIB, 0, MIB / 16),
        ] {
            let found = fitting(needed as u32, present as u32, room_left);
            assert_eq!(found as usize, expected, "{needed} is needed, {present} there, {room_left} left");
        }
    }
}
