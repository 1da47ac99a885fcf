//! How the pods' certificates stand, and what they are verified against: for readiness and metrics.

use super::authority::date;
use super::pod::{Pod, State};
use super::supervisor::Supervisor;
use crate::mesh::PodName;
use crate::worker::{CertificateState, Life};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

impl Supervisor {
    /// Which pods wait for a certificate, or for another one for too long, and why. Nothing of their connections changes
    /// before a certificate has expired.
    pub fn certificates_awaited(&self) -> impl Iterator<Item = String> {
        let now = OffsetDateTime::now_utc();
        self.pods.iter().filter_map(move |(name, pod)| awaited(name, &pod.state, &pod.certificate()?, now))
    }

    /// When the next certificate is overdue, if no successor comes.
    pub fn next_overdue(&self) -> Option<Instant> {
        let now = OffsetDateTime::now_utc();
        let left = |pod: &Pod| Duration::try_from(pod.certificate()?.life?.overdue - now).ok();
        let soonest = self.pods.values().filter_map(left).filter(|left| !left.is_zero()).min()?;
        Some(Instant::now() + soonest)
    }

    pub(super) fn count_trust(&self) {
        let trust = self.authority.trust.borrow().clone();
        let roots = trust.roots().map(|root| (root.short_fingerprint(), root.not_after));
        self.metrics.set_trust(roots, trust.revocations(), self.authority.errors.borrow().len());
    }
}

fn awaited(
    name: &PodName,
    state: &State,
    certificate: &CertificateState,
    now: OffsetDateTime,
) -> Option<String> {
    let failing = certificate.failing.as_ref();
    match (state, certificate.life) {
        (State::Starting, None) => {
            Some(format!("a certificate for pod {name}: {}", failing.map(|failing| &failing.error)?))
        }
        (State::Serving, Some(Life { overdue, not_after })) if overdue <= now => {
            let expires = if not_after <= now { "expired" } else { "expires" };
            let cause = match failing {
                Some(failing) => format!("since {} it fails: {}", date(failing.since), failing.error),
                None => "the certificate authority does not answer".to_owned(),
            };
            let not_after = date(not_after);
            Some(format!("a new certificate for pod {name}, whose own {expires} at {not_after}: {cause}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Failing;

    #[test]
    fn a_renewal_that_fails_is_told_once_it_is_overdue() {
        let name = PodName { namespace: "shop".into(), name: "cart".into() };
        let at = |hours: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::hours(hours);
        let life = Some(Life { overdue: at(18), not_after: at(24) });
        let failing = Some(Failing { since: at(13), error: "the disk is gone".into() });
        let fails = CertificateState { life, failing };
        let said = |state: &CertificateState, hours| awaited(&name, &State::Serving, state, at(hours));
        assert_eq!(said(&fails, 17), None);
        assert_eq!(
            said(&fails, 18).unwrap(),
            "a new certificate for pod shop/cart, whose own expires at 1970-01-02T00:00:00Z: since \
             1970-01-01T13:00:00Z it fails: the disk is gone"
        );
        assert!(said(&fails, 25).unwrap().contains("expired at"));
        assert!(said(&CertificateState { life, failing: None }, 18).unwrap().contains("does not answer"));
        assert_eq!(awaited(&name, &State::Retiring, &fails, at(18)), None);
    }

    #[test]
    fn a_pod_without_a_certificate_is_told_with_the_cause() {
        let name = PodName { namespace: "shop".into(), name: "cart".into() };
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut state = CertificateState::default();
        assert_eq!(awaited(&name, &State::Starting, &state, now), None);
        state.failing = Some(Failing { since: now, error: "the disk is gone".into() });
        let said = awaited(&name, &State::Starting, &state, now).unwrap();
        assert_eq!(said, "a certificate for pod shop/cart: the disk is gone");
    }
}
