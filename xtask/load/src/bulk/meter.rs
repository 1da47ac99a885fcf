//! Counts what arrives. No clock of its own.

use std::time::{Duration, Instant};

/// What the receiving end of a stream has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    /// Read within `time`.
    pub bytes: u64,
    /// From the last read of the warm-up to the last one in the measured time, so that the bytes are those of exactly
    /// this time.
    pub time: Duration,
    /// With the warm-up, and what came after.
    pub all: u64,
}

pub struct Meter {
    begin: Instant,
    end: Instant,
    /// The last read before `begin`.
    from: Instant,
    /// The last read before `end`.
    to: Instant,
    over: bool,
    bytes: u64,
    all: u64,
}

impl Meter {
    pub fn new(start: Instant, warm_up: Duration, measured: Duration) -> Self {
        let begin = start + warm_up;
        Self { begin, end: begin + measured, from: start, to: start, over: false, bytes: 0, all: 0 }
    }

    /// Bytes were read, and it is now `now`.
    pub fn add(&mut self, bytes: u64, now: Instant) {
        self.all += bytes;
        if now < self.begin {
            (self.from, self.to) = (now, now);
        } else if now < self.end {
            self.bytes += bytes;
            self.to = now;
        } else {
            self.over = true;
        }
    }

    /// Something has come after the measured time.
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn metered(&self) -> Metered {
        Metered { bytes: self.bytes, time: self.to - self.from, all: self.all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_the_measured_time_and_no_others_count() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut meter = Meter::new(start, Duration::from_millis(100), Duration::from_millis(200));
        for (bytes, millis) in [(1, 10), (2, 90), (4, 110), (8, 290)] {
            meter.add(bytes, at(millis));
        }
        assert!(!meter.is_over());
        meter.add(16, at(300));
        assert!(meter.is_over());
        assert_eq!(meter.metered(), Metered { bytes: 12, time: Duration::from_millis(200), all: 31 });
    }

    #[test]
    fn nothing_at_all_is_nothing() {
        let meter = Meter::new(Instant::now(), Duration::ZERO, Duration::ZERO);
        assert_eq!(meter.metered(), Metered::default());
    }
}
