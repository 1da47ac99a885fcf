//! The directory of the embedded authority (`--ca-dir`): which files there are, and what they say.
//!
//! Agents read it, `pillion ca` writes it, and several of either share it. Every file is put in its place whole.

use super::crl::Crl;
use super::error::CaDirError;
use super::trust::Root;
use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The root that signs. Key and certificate in one file, so that no reader ever sees one without the other.
pub(crate) const SIGNING: &str = "ca.pem";

/// The root that will sign next, and the one that signed before; only `pillion ca` reads them.
pub(crate) const NEXT: &str = "ca-next.pem";
pub(crate) const FORMER: &str = "ca-former.pem";

/// Certificates of further roots that are trusted.
pub(crate) const TRUSTED: &str = "trusted";

/// What is revoked; Istio's name.
pub(crate) const CRL: &str = "ca-crl.pem";

/// All trusted roots, for whoever wants to verify a leaf by hand. Made from the others.
pub(super) const PUBLIC: &str = "root-cert.pem";

/// A root with its key.
pub(crate) struct SigningRoot {
    pub key: KeyPair,
    pub root: Arc<Root>,
}

/// The files as they are at one moment.
#[derive(PartialEq)]
pub(crate) struct Snapshot {
    dir: PathBuf,
    signing: File,
    trusted: Result<BTreeMap<PathBuf, File>, ErrorKind>,
    crl: File,
}

/// A file's mode and content.
type File = Result<(u32, Vec<u8>), ErrorKind>;

impl Snapshot {
    /// Reads the root that signs before those that are trusted besides: whoever replaces it has written it down there
    /// before, so that it is seen in one place or the other.
    pub fn read(dir: &Path) -> Self {
        let signing = read(&dir.join(SIGNING));
        let trusted = names(&dir.join(TRUSTED)).map_err(|e| e.kind());
        let trusted =
            trusted.map(|paths| paths.into_iter().map(|path| (path.clone(), read(&path))).collect());
        Self { signing, trusted, crl: read(&dir.join(CRL)), dir: dir.to_owned() }
    }

    /// The root that signs, if it is valid now.
    pub fn signing(&self) -> Result<SigningRoot, CaDirError> {
        let path = self.dir.join(SIGNING);
        let signing = signing_root(&path, &self.signing)?;
        let (Root { not_before, not_after, .. }, now) = (&*signing.root, OffsetDateTime::now_utc());
        if now < *not_before {
            return Err(CaDirError::NotYetValid { path, not_before: *not_before, now });
        }
        if now >= *not_after {
            return Err(CaDirError::Expired { path, not_after: *not_after, now });
        }
        Ok(signing)
    }

    /// The further roots.
    pub fn trusted(&self) -> Result<Vec<Arc<Root>>, CaDirError> {
        let files = match &self.trusted {
            Ok(files) => files,
            Err(ErrorKind::NotFound) => return Ok(Vec::new()),
            Err(kind) => return Err(CaDirError::io(&self.dir.join(TRUSTED), (*kind).into())),
        };
        let mut roots = Vec::new();
        for (path, file) in files {
            // It was removed after the directory was listed.
            let Some(pem) = content(path, file)? else { continue };
            let unusable = |reason: String| CaDirError::Trusted { path: path.clone(), reason };
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| unusable(e.to_string()))?;
                roots.push(Arc::new(Root::new(certificate).map_err(unusable)?));
            }
            if roots.len() == before {
                return Err(unusable("there is no certificate in it".into()));
            }
        }
        Ok(roots)
    }

    pub fn crls(&self) -> Result<Vec<Arc<Crl>>, CaDirError> {
        let path = self.crl_path();
        let Some(pem) = content(&path, &self.crl)? else { return Ok(Vec::new()) };
        let unusable = |reason: String| CaDirError::Crl { path: path.clone(), reason };
        let mut crls = Vec::new();
        for der in CertificateRevocationListDer::pem_slice_iter(pem) {
            let der = der.map_err(|e| unusable(e.to_string()))?;
            crls.push(Arc::new(Crl::parse(der).map_err(unusable)?));
        }
        if crls.is_empty() {
            return Err(unusable("there is no X509 CRL in it".into()));
        }
        Ok(crls)
    }

    pub fn crl_path(&self) -> PathBuf {
        self.dir.join(CRL)
    }
}

/// A root that is there with its key, expired or not; `None` where there is no such file.
pub(crate) fn root_at(path: &Path) -> Result<Option<SigningRoot>, CaDirError> {
    match read(path) {
        Err(ErrorKind::NotFound) => Ok(None),
        file => signing_root(path, &file).map(Some),
    }
}

/// Where the certificate of a root is trusted by itself.
pub(crate) fn trusted_path(dir: &Path, root: &Root) -> PathBuf {
    dir.join(TRUSTED).join(format!("{}.pem", root.short_fingerprint()))
}

fn signing_root(path: &Path, file: &File) -> Result<SigningRoot, CaDirError> {
    let pem = content(path, file)?.ok_or_else(|| CaDirError::Gone { path: path.to_owned() })?;
    if let Ok((mode, _)) = file
        && mode & 0o077 != 0
    {
        return Err(CaDirError::Mode { path: path.to_owned(), mode: *mode });
    }
    let unusable = |e: &dyn std::fmt::Display| CaDirError::unusable(path, e);
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| unusable(&e))?;
    let key = KeyPair::try_from(&key).map_err(|e| unusable(&e))?;
    let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|e| unusable(&e))?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(unusable(&"its key does not belong to its certificate"));
    }
    let root = Arc::new(Root::new(certificate).map_err(|e| unusable(&e))?);
    Ok(SigningRoot { key, root })
}

fn content<'a>(path: &Path, file: &'a File) -> Result<Option<&'a [u8]>, CaDirError> {
    match file {
        Ok((_, content)) => Ok(Some(content)),
        Err(ErrorKind::NotFound) => Ok(None),
        Err(kind) => Err(CaDirError::io(path, (*kind).into())),
    }
}

fn read(path: &Path) -> File {
    let read = || Ok((fs::metadata(path)?.mode() & 0o777, fs::read(path)?));
    read().map_err(|e: io::Error| e.kind())
}

/// Hidden files are on their way into their place.
fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths =
        fs::read_dir(dir)?.map(|entry| entry.as_ref().map(DirEntry::path).map_err(|e| e.kind().into()));
    let is_certificate = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && name.ends_with(".pem")
    };
    Ok(paths.collect::<io::Result<Vec<_>>>()?.into_iter().filter(is_certificate).collect())
}
