//! Why a command of `pillion ca` was not carried out.

use super::date;
use crate::cluster::{ConnectError, ObjectName};
use crate::identity::CaDirError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use time::OffsetDateTime;

/// Each says what stands in the way, and what to do. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Dir(#[from] CaDirError),
    #[error("--ca-dir {path}: {source}; give the agents' directory, as a user that may write it", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("--ca-dir {path}: another `pillion ca` works on it; wait until it is done", path = .path.display())]
    Busy { path: PathBuf },
    #[error("--ca-dir {path} has no root: an agent that starts with it makes one", path = .path.display())]
    NoRoot { path: PathBuf },
    #[error("a rotation is under way already; go on with: {next}")]
    UnderWay { next: String },
    #[error("there is no rotation at this step; go on with: {next}")]
    OtherStep { next: String },
    #[error(
        "the new root has been trusted for {since:.0?} only, and agents may need {settle:?} to see it: wait until {}, or \
         give --force if every node's /metrics shows pillion_root_expiry_timestamp_seconds{{root=\"{root}\"}}",
        date(*.until)
    )]
    NotSettled { since: Duration, settle: Duration, until: OffsetDateTime, root: String },
    #[error(
        "certificates of the former root may be in use until {}, after --cert-lifetime {}: wait, or give --force if no \
         worker in any node's /config_dump has a certificate whose issuer is {root:?}",
        date(*.until), humantime::format_duration(*.lifetime)
    )]
    InUse { until: OffsetDateTime, lifetime: Duration, root: String },
    #[error("give --ca-dir or --secret")]
    NoPlace,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the Secret {secret}: {reason}")]
    Secret { secret: ObjectName, reason: String },
    #[error(
        "the Secret {secret} was changed by somebody else meanwhile, and stays as it is now: give the command again"
    )]
    Changed { secret: ObjectName },
    #[error(
        "the Secret {secret} is of type kubernetes.io/tls, and so another program's (cert-manager): what signs is replaced \
         there"
    )]
    Foreign { secret: ObjectName },
    #[error("could not make a root: {0}")]
    Root(String),
    #[error("{issuer} could not sign a CRL: {reason}; a root needs the key usage cRLSign for that")]
    Crl { issuer: String, reason: String },
}
