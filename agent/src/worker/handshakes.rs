//! The handshakes of peers that have not proven who they are yet: how many there are at once, and which one is ended for the next.
//!
//! An honest peer needs some milliseconds for its handshake. So where there is no room for one more, the oldest one of the source that has
//! most in flight is ended, and the new one begins: whoever opens many pushes out its own.

use super::budget::{Budget, OverBudget, Permit};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

/// A peer has this long to prove who it is.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same while more than half of the pod's share is in use. A packet that is lost is sent again within a second (RFC 6298), which
/// leaves time for one or two.
const TIMEOUT_UNDER_PRESSURE: Duration = Duration::from_secs(3);

/// How often a handshake that is older than that asks whether there is pressure.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// All of one pod.
pub(super) struct Handshakes {
    budget: Budget,
    in_flight: RefCell<InFlight>,
}

#[derive(Default)]
struct InFlight {
    /// By when they began: what is dropped ends its handshake.
    by_source: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
    last: u64,
}

/// A handshake's place among them, until it is dropped.
pub(super) struct Handshake {
    handshakes: Rc<Handshakes>,
    source: IpAddr,
    number: u64,
    began: Instant,
    pushed_out: oneshot::Receiver<()>,
    _permit: Permit,
}

/// Why a handshake is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GivenUp {
    #[error("others needed its place, and its source had most of them")]
    PushedOut,
    #[error("it was not finished within {0:?}")]
    TooLate(Duration),
}

impl Handshakes {
    pub fn new(budget: Budget) -> Self {
        Self { budget, in_flight: RefCell::default() }
    }

    /// A handshake with this peer begins, and another one ends where that is needed.
    ///
    /// # Errors
    /// When there is no room, and the pod has none that it could end: other pods have them all. That is counted.
    pub fn begin(self: &Rc<Self>, peer: IpAddr) -> Result<Handshake, OverBudget> {
        let permit = match self.budget.try_take(1) {
            Some(permit) => permit,
            None => {
                // Counted once for the two of them.
                let over = self.budget.refuse();
                if !self.in_flight.borrow_mut().push_out_one() {
                    return Err(over);
                }
                // The one that was pushed out gives its place back as soon as its task runs, in this turn of the loop.
                self.budget.take_anyway(1)
            }
        };
        let source = source(peer);
        let (push_out, pushed_out) = oneshot::channel();
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight.last += 1;
        let number = in_flight.last;
        in_flight.by_source.entry(source).or_default().insert(number, push_out);
        Ok(Handshake {
            handshakes: self.clone(),
            source,
            number,
            began: Instant::now(),
            pushed_out,
            _permit: permit,
        })
    }
}

impl InFlight {
    /// Ends the oldest handshake of the source that has most in flight; of several such sources, of the one whose oldest is the oldest.
    fn push_out_one(&mut self) -> bool {
        let oldest = |of: &BTreeMap<u64, _>| of.first_key_value().map(|(number, _)| *number);
        let most = self.by_source.iter().max_by_key(|(_, of)| (of.len(), Reverse(oldest(of))));
        let Some((source, number)) = most.and_then(|(source, of)| Some((*source, oldest(of)?))) else {
            return false;
        };
        self.remove(source, number);
        true
    }

    fn remove(&mut self, source: IpAddr, number: u64) {
        if let Some(of) = self.by_source.get_mut(&source) {
            of.remove(&number);
            if of.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }
}

impl Handshake {
    /// Resolves when the handshake is to be given up.
    pub async fn given_up(&mut self) -> GivenUp {
        let (began, handshakes) = (self.began, self.handshakes.clone());
        let too_late = async {
            let mut waited = TIMEOUT_UNDER_PRESSURE;
            loop {
                sleep_until(began + waited).await;
                if waited >= TIMEOUT || handshakes.budget.is_short() {
                    return GivenUp::TooLate(waited);
                }
                waited = (waited + LOOK_INTERVAL).min(TIMEOUT);
            }
        };
        tokio::select! {
            biased;
            // Nothing is sent: its sender is dropped.
            _ = &mut self.pushed_out => GivenUp::PushedOut,
            late = too_late => late,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.handshakes.in_flight.borrow_mut().remove(self.source, self.number);
    }
}

/// Whom an address stands for: one that has an IPv6 network of its own (/64) may choose its address there at will.
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::tests::budget_of;
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Of a pod that has room for 50.
    fn handshakes() -> Rc<Handshakes> {
        Rc::new(Handshakes::new(budget_of(72)))
    }

    fn begin(handshakes: &Rc<Handshakes>, peer: &str) -> Handshake {
        handshakes.begin(peer.parse().unwrap()).unwrap()
    }

    fn now(handshake: &mut Handshake) -> Option<GivenUp> {
        match pin!(handshake.given_up()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(why) => Some(why),
            Poll::Pending => None,
        }
    }

    fn left(of: &mut [Handshake]) -> usize {
        of.iter_mut().filter_map(|handshake| now(handshake).is_none().then_some(())).count()
    }

    // proves: ISO-1, ISO-3
    #[tokio::test(start_paused = true)]
    async fn who_opens_many_handshakes_pushes_out_its_own_oldest_ones() {
        for many in ["10.0.0.66", "fd00::66"] {
            let handshakes = handshakes();
            let mut honest = [begin(&handshakes, "10.0.0.1"), begin(&handshakes, "fd00:0:0:1::1")];
            let address = |number: usize| match many.parse().unwrap() {
                IpAddr::V4(_) => many.to_owned(),
                IpAddr::V6(_) => format!("{many}:{number:x}"),
            };
            let mut strangers: Vec<_> =
                (0..1000).map(|number| begin(&handshakes, &address(number))).collect();
            assert_eq!(left(&mut honest), 2);
            assert_eq!(now(&mut strangers[0]), Some(GivenUp::PushedOut));
            assert_eq!(left(&mut strangers[900..]), 48, "the last ones");
            assert_eq!(now(&mut strangers[999]), None);
        }
    }

    // proves: ISO-1
    #[tokio::test(start_paused = true)]
    async fn of_many_sources_with_one_handshake_each_the_oldest_goes() {
        let handshakes = handshakes();
        let mut all: Vec<_> = (0..60).map(|number| begin(&handshakes, &format!("10.0.0.{number}"))).collect();
        assert_eq!(left(&mut all[..10]), 0);
        assert_eq!(left(&mut all[10..]), 50);
        drop(all);
        assert!(handshakes.in_flight.borrow().by_source.is_empty());
    }

    // proves: ISO-1
    #[tokio::test(start_paused = true)]
    async fn a_handshake_has_less_time_while_many_are_in_flight() {
        let handshakes = handshakes();
        let given_up = |mut handshake: Handshake| async move { handshake.given_up().await };
        assert_eq!(given_up(begin(&handshakes, "10.0.0.1")).await, GivenUp::TooLate(TIMEOUT));
        let _many: Vec<_> = (0..40).map(|_| begin(&handshakes, "10.0.0.66")).collect();
        assert_eq!(given_up(begin(&handshakes, "10.0.0.1")).await, GivenUp::TooLate(TIMEOUT_UNDER_PRESSURE));
    }
}
