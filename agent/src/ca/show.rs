//! What is in the directory, for people.

use super::rotate::Step;
use super::{Dir, OperationError, date};
use crate::identity::ca_dir::Snapshot;
use crate::identity::{Root, serial_text};
use std::fmt::Write as _;

pub(super) fn show(dir: &Dir) -> Result<String, OperationError> {
    let snapshot = Snapshot::read(&dir.path);
    let (signing, step) = (dir.signing()?.root, Step::of(dir)?);
    let (next, former) = match &step {
        Step::Begun(next) => (Some(&next.root), None),
        Step::Switched(former) => (None, Some(&former.root)),
        Step::Idle => (None, None),
    };
    let mut said = String::new();
    let mut line = |what: &str, root: &Root| {
        let Root { subject, not_after, .. } = root;
        let _ =
            writeln!(said, "{what:16} {}  {subject}  until {}", root.short_fingerprint(), date(*not_after));
    };
    line("signs", &signing);
    for root in snapshot.trusted()?.iter().filter(|root| root.fingerprint != signing.fingerprint) {
        let is =
            |other: Option<&std::sync::Arc<Root>>| other.is_some_and(|o| o.fingerprint == root.fingerprint);
        let what = if is(next) {
            "trusted, next"
        } else if is(former) {
            "trusted, former"
        } else {
            "trusted"
        };
        line(what, root);
    }
    for crl in snapshot.crls()? {
        for entry in &crl.revoked {
            let _ = writeln!(
                said,
                "{:16} {}  since {}  by {}",
                "revoked",
                serial_text(&entry.serial),
                date(entry.since),
                crl.issuer
            );
        }
    }
    let what = if matches!(step, Step::Idle) { "to replace the root" } else { "to go on with the rotation" };
    let _ = write!(said, "{what}: {}", step.next(dir));
    Ok(said)
}
