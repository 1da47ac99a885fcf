//! The embedded authority's root on disk: one PEM file with key and certificate, mode 0600, created atomically.

use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Key and certificate in one file, so that no reader ever sees one without the other.
const ROOT_FILE: &str = "ca.pem";

/// The certificate alone, for whoever wants to verify a leaf by hand. Made from the root file.
const PUBLIC_FILE: &str = "root-cert.pem";

pub(super) struct Root {
    pub path: PathBuf,
    pub key: KeyPair,
    pub certificate: CertificateDer<'static>,
    pub not_after: OffsetDateTime,
}

/// Why the embedded authority cannot be opened. Each says where, and how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum RootFileError {
    #[error("--ca-dir {path}: {source}; give a directory that this user can create and write", path = .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is readable by others (mode {mode:04o}) and holds the mesh's private key: chmod 600 it",
        path = .path.display()
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path} holds no usable root: {reason}; remove it to have a new one made", path = .path.display())]
    Unusable { path: PathBuf, reason: String },
    #[error(
        "the root in {path} is valid from {not_before}, but this machine's clock says {now}: set the clock",
        path = .path.display()
    )]
    NotYetValid { path: PathBuf, not_before: OffsetDateTime, now: OffsetDateTime },
    #[error(
        "the root in {path} expired on {not_after}, this machine's clock says {now}: set the clock if that is \
         wrong, else remove the file and restart every agent that shares it",
        path = .path.display()
    )]
    Expired { path: PathBuf, not_after: OffsetDateTime, now: OffsetDateTime },
}

impl RootFileError {
    pub(super) fn unusable(path: &Path, reason: impl ToString) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// Reads the root, or has `make` make one and puts it in place, unless somebody else was faster.
pub(super) fn load_or_create(
    dir: &Path,
    make: impl FnOnce() -> Result<(KeyPair, CertificateDer<'static>), rcgen::Error>,
) -> Result<Root, RootFileError> {
    let io_error = |source| RootFileError::Io { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error)?;
    let path = dir.join(ROOT_FILE);
    if !path.try_exists().map_err(io_error)? {
        let (key, certificate) = make().map_err(|e| RootFileError::unusable(&path, e))?;
        let pem = format!("{}{}", key.serialize_pem(), certificate_pem(&certificate));
        create_atomically(dir, &path, pem.as_bytes()).map_err(io_error)?;
    }
    let root = load(path)?;
    publish(dir, &root.certificate).map_err(io_error)?;
    Ok(root)
}

fn load(path: PathBuf) -> Result<Root, RootFileError> {
    let io_error = |source| RootFileError::Io { path: path.clone(), source };
    let mode = fs::metadata(&path).map_err(io_error)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(RootFileError::Mode { path, mode });
    }
    let pem = fs::read(&path).map_err(io_error)?;
    let unusable = |e: &dyn std::fmt::Display| RootFileError::unusable(&path, e);
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| unusable(&e))?;
    let key = KeyPair::try_from(&key).map_err(|e| unusable(&e))?;
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| unusable(&e))?;
    if !parsed.is_ca() {
        return Err(unusable(&"its certificate is not a certificate authority's"));
    }
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(unusable(&"its key does not belong to its certificate"));
    }
    let now = OffsetDateTime::now_utc();
    let (not_before, not_after) =
        (parsed.validity().not_before.to_datetime(), parsed.validity().not_after.to_datetime());
    if now < not_before {
        return Err(RootFileError::NotYetValid { path, not_before, now });
    }
    if now >= not_after {
        return Err(RootFileError::Expired { path, not_after, now });
    }
    Ok(Root { path, key, certificate, not_after })
}

/// Writes a private file under a name of its own and links it into place: `link` fails when the name is taken,
/// and then the winner's file is the one to use.
fn create_atomically(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{ROOT_FILE}.{:016x}", rand::random::<u64>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let placed = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| {
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    });
    fs::remove_file(&temporary)?;
    placed?;
    File::open(dir)?.sync_all()
}

fn publish(dir: &Path, certificate: &CertificateDer<'_>) -> io::Result<()> {
    let path = dir.join(PUBLIC_FILE);
    let pem = certificate_pem(certificate);
    if fs::read_to_string(&path).is_ok_and(|there| there == pem) {
        return Ok(());
    }
    let temporary = dir.join(format!(".{PUBLIC_FILE}.{:016x}", rand::random::<u64>()));
    fs::write(&temporary, pem)?;
    fs::rename(&temporary, path)
}

fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", certificate.to_vec()))
}
