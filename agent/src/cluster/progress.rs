//! Whether a watch brings anything: one that is made anew again and again and says nothing stands still, whatever the reason.

use super::watch::What;
use time::{Duration, OffsetDateTime};

/// After so long without a word a watch stands still. An API server that is restarted is back before; a bookmark comes each
/// minute once the watch is there.
const STANDS_STILL: Duration = Duration::seconds(60);

/// Since when a watch has failed without a word in between, after it has told this; `None` while it does not fail, or has been
/// heard since it did.
pub fn failing_since<T>(
    before: Option<OffsetDateTime>,
    what: &What<T>,
    now: OffsetDateTime,
) -> Option<OffsetDateTime> {
    match what {
        What::All(_) | What::Put(_) | What::Deleted(_) | What::Current | What::Absent => None,
        // What cannot be read comes after the connection is made.
        What::Connected => before,
        What::Disconnected(_) => before.or(Some(now)),
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
        let mut failing = None;
        for seconds in [0, 20, 40] {
            failing = failing_since(failing, &What::<()>::Connected, at(seconds));
            failing = failing_since(failing, &What::<()>::Disconnected("no event".into()), at(seconds));
            assert_eq!(stands_still(failing, at(seconds)), None);
        }
        failing = failing_since(failing, &What::<()>::Connected, at(60));
        assert_eq!(stands_still(failing, at(60)), Some(at(0)));
        for what in [What::Put(()), What::Deleted(()), What::All(vec![]), What::Current, What::Absent] {
            assert_eq!(failing_since(failing, &what, at(61)), None);
        }
    }
}
