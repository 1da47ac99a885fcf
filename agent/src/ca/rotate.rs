//! Another root in the place of the one that signs, so that at no moment an agent meets a certificate of a root that it
//! does not trust: the new root is trusted before it signs, the former one until its last certificate is over.

use super::{Dir, OperationError, date};
use crate::identity::ca_dir::{CRL, FORMER, NEXT, SIGNING, SigningRoot, Snapshot, trusted_path};
use crate::identity::place::{PRIVATE, READABLE};
use crate::identity::{Root, certificate_pem, mint};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Agents look at the directory every second; a network file system may show them a change a minute late.
const SETTLE: Duration = Duration::from_secs(60);

/// How far a rotation is. What is in the directory says so.
pub(super) enum Step {
    Idle,
    /// The next root is trusted, or about to be.
    Begun(SigningRoot),
    /// The former root signs no longer, and is trusted still.
    Switched(SigningRoot),
}

impl Step {
    pub fn of(dir: &Dir) -> Result<Self, OperationError> {
        // A switch that was interrupted leaves both: it is to be given again.
        Ok(match (dir.root_at(NEXT)?, dir.root_at(FORMER)?) {
            (Some(next), _) => Self::Begun(next),
            (None, Some(former)) => Self::Switched(former),
            (None, None) => Self::Idle,
        })
    }

    /// The command that goes on.
    pub fn next(&self, dir: &Dir) -> String {
        dir.command(match self {
            Self::Idle => "rotate begin",
            Self::Begun(next) if !trusted_path(&dir.path, &next.root).exists() => "rotate begin",
            Self::Begun(_) => "rotate switch",
            Self::Switched(_) => "rotate finish",
        })
    }
}

pub(super) fn begin(dir: &Dir) -> Result<String, OperationError> {
    let signing = dir.signing()?;
    let next = match Step::of(dir)? {
        Step::Idle => {
            let next = mint::root(&organization(&signing.root)).map_err(OperationError::Root)?;
            dir.write(&dir.path.join(NEXT), &next.pem(), PRIVATE)?;
            next
        }
        // It was interrupted here.
        Step::Begun(next) if !trusted_path(&dir.path, &next.root).exists() => next,
        step => return Err(OperationError::UnderWay { next: step.next(dir) }),
    };
    // The present root too: by the time that it is no longer the one that signs, this is known everywhere.
    for root in [&signing.root, &next.root] {
        trust(dir, root)?;
    }
    Ok(format!(
        "a new root is trusted from now on, and signs nothing yet: {subject}\n\
         wait until every node's /metrics shows pillion_root_expiry_timestamp_seconds{{root=\"{root}\"}}: a second, or a \
         minute where the directory is on a network\n\
         then: {switch}",
        subject = next.root.subject,
        root = next.root.short_fingerprint(),
        switch = dir.command("rotate switch"),
    ))
}

pub(super) fn switch(dir: &Dir, force: bool) -> Result<String, OperationError> {
    let former = dir.signing()?;
    let next = match Step::of(dir)? {
        Step::Begun(next) if trusted_path(&dir.path, &next.root).exists() => next,
        step => return Err(OperationError::OtherStep { next: step.next(dir) }),
    };
    let since = age(dir, &trusted_path(&dir.path, &next.root))?;
    if since < SETTLE && !force {
        let until = OffsetDateTime::now_utc() + (SETTLE - since);
        let root = next.root.short_fingerprint().to_owned();
        return Err(OperationError::NotSettled { since, settle: SETTLE, until, root });
    }
    trust(dir, &former.root)?;
    // What it has signed may have to be revoked yet.
    dir.write(&dir.path.join(FORMER), &former.pem(), PRIVATE)?;
    let place = dir.path.join(SIGNING);
    fs::rename(dir.path.join(NEXT), &place).map_err(|e| dir.io(&place, e))?;
    let (now, former) = (&next.root.subject, &former.root.subject);
    Ok(format!(
        "certificates are signed by {now} from now on; {former} stays trusted\n\
         wait until the last certificate of the former root is over: the longest --cert-lifetime of any agent from now, \
         24h by default\n\
         then: {}",
        dir.command("rotate finish"),
    ))
}

pub(super) fn finish(dir: &Dir, lifetime: Duration, force: bool) -> Result<String, OperationError> {
    let former = match Step::of(dir)? {
        Step::Switched(former) => former,
        step => return Err(OperationError::OtherStep { next: step.next(dir) }),
    };
    let since = age(dir, &dir.path.join(FORMER))?;
    if since < lifetime + SETTLE && !force {
        let until = OffsetDateTime::now_utc() + (lifetime + SETTLE - since);
        return Err(OperationError::InUse { until, lifetime, root: former.root.subject.clone() });
    }
    remove(dir, &trusted_path(&dir.path, &former.root))?;
    forget_crl(dir, &former.root)?;
    // Last: as long as it is there, this step can be given again.
    remove(dir, &dir.path.join(FORMER))?;
    let signing = dir.signing()?.root;
    Ok(format!(
        "{} is trusted no longer, and its key is removed; {} signs, until {}\nthe rotation is done",
        former.root.subject,
        signing.subject,
        date(signing.not_after),
    ))
}

fn trust(dir: &Dir, root: &Root) -> Result<(), OperationError> {
    let path = trusted_path(&dir.path, root);
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(&dir.path);
    fs::create_dir_all(parent).map_err(|e| dir.io(parent, e))?;
    dir.write(&path, &certificate_pem(&root.certificate), READABLE)
}

/// What it has revoked is as untrusted as all that it has signed.
fn forget_crl(dir: &Dir, root: &Root) -> Result<(), OperationError> {
    let crls = Snapshot::read(&dir.path).crls()?;
    let kept: Vec<_> = crls.iter().filter(|crl| !root.has_signed(crl)).collect();
    let path = dir.path.join(CRL);
    match kept.len() {
        all if all == crls.len() => Ok(()),
        0 => remove(dir, &path),
        _ => dir.write(&path, &kept.iter().map(|crl| crl.pem()).collect::<String>(), READABLE),
    }
}

fn remove(dir: &Dir, path: &Path) -> Result<(), OperationError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(dir.io(path, e)),
        _ => Ok(()),
    }
}

/// How long ago the file was written. A time to come, after the clock was set, is now.
fn age(dir: &Dir, path: &Path) -> Result<Duration, OperationError> {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(|e| dir.io(path, e))?;
    Ok(SystemTime::now().duration_since(written).unwrap_or_default())
}

/// The trust domain, as the root has it; a foreign root may have none.
fn organization(root: &Root) -> String {
    let parsed = X509Certificate::from_der(&root.certificate);
    let name = parsed.ok().and_then(|(_, certificate)| {
        let mut names = certificate.subject().iter_organization();
        names.next().and_then(|name| name.as_str().ok()).map(str::to_owned)
    });
    name.unwrap_or_default()
}
