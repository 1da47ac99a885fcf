//! Whether a watch brings anything: one that is made anew again and again and says nothing stands still, whatever the reason.

use super::watch::What;
use time::{Duration, OffsetDateTime};

/// After so long without a word a watch stands still. An API server that is restarted is back before; a bookmark comes each
/// minute once the watch is there.
const STANDS_STILL: Duration = Duration::seconds(60);

/// Since when a watch has failed without a word in between.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    failing_since: Option<OffsetDateTime>,
}

impl Progress {
    /// Takes in what the watch has told.
    pub fn take<T>(&mut self, what: &What<T>, now: OffsetDateTime) {
        match what {
            What::All(_) | What::Put(_) | What::Deleted(_) | What::Current | What::Absent => {
                self.failing_since = None;
            }
            // What cannot be read comes after the connection is made.
            What::Connected => {}
            What::Disconnected(_) => drop(self.failing_since.get_or_insert(now)),
        }
    }

    /// `None` while it does not fail, or has been heard since it did.
    pub fn failing_since(&self) -> Option<OffsetDateTime> {
        self.failing_since
    }
}

/// Since when a watch has been standing still; `None` where it is not.
pub fn stands_still(failing_since: Option<OffsetDateTime>, now: OffsetDateTime) -> Option<OffsetDateTime> {
    failing_since.filter(|since| now - *since >= STANDS_STILL)
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: OPS-3
    #[test]
    fn a_watch_that_is_made_again_and_again_and_brings_nothing_stands_still() {
        let begin = OffsetDateTime::UNIX_EPOCH;
        let at = |seconds| begin + Duration::seconds(seconds);
        let mut progress = Progress::default();
        for seconds in [0, 20, 40] {
            progress.take(&What::<()>::Connected, at(seconds));
            progress.take(&What::<()>::Disconnected("no event".into()), at(seconds));
            assert_eq!(stands_still(progress.failing_since(), at(seconds)), None);
        }
        progress.take(&What::<()>::Connected, at(60));
        assert_eq!(stands_still(progress.failing_since(), at(60)), Some(at(0)));
        for what in [What::Put(()), What::Deleted(()), What::All(vec![]), What::Current, What::Absent] {
            let mut heard = progress;
            heard.take(&what, at(61));
            assert_eq!(heard.failing_since(), None);
        }
    }
}
