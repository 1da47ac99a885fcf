//! A Secret is a `--ca-dir`: its keys are the files' names, with a dot for the slash (`trusted.X.pem`). One of type
//! kubernetes.io/tls is what cert-manager makes of it.

use crate::identity::ca_dir::{CRL, FORMER, NEXT, SIGNING, TRUSTED};
use crate::identity::place::{self, PRIVATE, READABLE};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// When each file was written, in seconds since 1970: a Secret has no times of its keys, and a rotation goes by them.
const WRITTEN: &str = "pillion.dev/written";

const TLS: &str = "kubernetes.io/tls";

/// The files of a `--ca-dir`, by their key in a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Content>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    text: String,
    /// In seconds since 1970.
    written: u64,
}

impl Files {
    /// Those of a new authority.
    pub fn of_root(pem: String) -> Self {
        Self([(SIGNING.to_owned(), Content { text: pem, written: seconds(SystemTime::now()) })].into())
    }

    /// # Errors
    /// What the Secret lacks.
    pub fn of_secret(secret: &Secret) -> Result<Self, String> {
        let data = secret.data.iter().flatten();
        let text = |key: &str, value: &ByteString| {
            String::from_utf8(value.0.clone()).map_err(|_| format!("{key} is no text"))
        };
        let created = secret.metadata.creation_timestamp.as_ref();
        let created = created.and_then(|time| u64::try_from(time.0.as_second()).ok());
        let times = written(secret);
        let when = |key: &str| times.get(key).copied().or(created).unwrap_or_default();
        if is_foreign(secret) {
            return Self::of_tls(secret, &text, created.unwrap_or_default());
        }
        let mut files = BTreeMap::new();
        for (key, value) in data.filter(|(key, _)| path(key).is_some()) {
            files.insert(key.clone(), Content { text: text(key, value)?, written: when(key) });
        }
        if files.contains_key(SIGNING) {
            Ok(Self(files))
        } else {
            Err(format!("it has no {SIGNING}; put the root there, or remove the Secret to have one made"))
        }
    }

    /// What cert-manager has made: who signs may be below the root that is trusted.
    fn of_tls(
        secret: &Secret,
        text: &impl Fn(&str, &ByteString) -> Result<String, String>,
        written: u64,
    ) -> Result<Self, String> {
        let data = secret.data.as_ref();
        let get = |key: &str| data.and_then(|data| data.get(key)).map(|value| text(key, value)).transpose();
        let need = |key: &str| get(key)?.ok_or_else(|| format!("it has no {key}"));
        let (key, chain) = (need("tls.key")?, need("tls.crt")?);
        let first = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|e| format!("tls.crt: {e}"))?;
        let own = crate::identity::certificate_pem(&first);
        let content = |text| Content { text, written };
        let mut files = BTreeMap::from([(SIGNING.to_owned(), content(format!("{key}\n{own}")))]);
        if let Some(above) = get("ca.crt")?.filter(|pem| !pem.trim().is_empty()) {
            files.insert(format!("{TRUSTED}.ca.crt.pem"), content(above));
        }
        Ok(Self(files))
    }

    pub fn of_dir(dir: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        let further = match fs::read_dir(dir.join(TRUSTED)) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let further = further.iter().filter_map(|entry| entry.file_name().into_string().ok());
        let keys = [SIGNING, NEXT, FORMER, CRL].map(str::to_owned).into_iter();
        for key in keys.chain(further.map(|name| format!("{TRUSTED}.{name}"))) {
            let Some(path) = path(&key).map(|path| dir.join(path)) else { continue };
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let written = seconds(fs::metadata(&path)?.modified()?);
                    files.insert(key, Content { text, written });
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self(files))
    }

    /// Makes the directory have these and no others. What is trusted comes first and goes last: who reads in between trusts
    /// what signs.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let before = Self::of_dir(dir)?;
        let (trusted, others): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(key, _)| key.starts_with(TRUSTED));
        for (key, content) in trusted.into_iter().chain(others) {
            let Some(path) = path(key).map(|path| dir.join(path)) else { continue };
            if before.0.get(key).is_none_or(|there| there.text != content.text) {
                fs::create_dir_all(path.parent().unwrap_or(dir))?;
                place::write(&path, &content.text, mode(key))?;
            }
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(content.written);
            File::open(&path)?.set_modified(written)?;
        }
        // `ca.pem` comes before `trusted.`.
        for key in before.0.keys().filter(|key| !self.0.contains_key(*key)) {
            if let Some(path) = path(key) {
                fs::remove_file(dir.join(path))?;
            }
        }
        Ok(())
    }

    /// Keys of the Secret that are none of an authority's stay.
    pub fn put_into(self, secret: &mut Secret) {
        let data = secret.data.get_or_insert_default();
        data.retain(|key, _| path(key).is_none());
        let times: BTreeMap<&str, u64> =
            self.0.iter().map(|(key, content)| (key.as_str(), content.written)).collect();
        let times = serde_json::json!(times).to_string();
        secret.metadata.annotations.get_or_insert_default().insert(WRITTEN.to_owned(), times);
        data.extend(self.0.into_iter().map(|(key, content)| (key, ByteString(content.text.into_bytes()))));
    }
}

/// Whether it is another program's to write.
pub fn is_foreign(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TLS)
}

fn written(secret: &Secret) -> BTreeMap<String, u64> {
    let text = secret.metadata.annotations.as_ref().and_then(|annotations| annotations.get(WRITTEN));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Where a key's file is in the directory; `None` for a key that is none of an authority's.
fn path(key: &str) -> Option<PathBuf> {
    if [SIGNING, NEXT, FORMER, CRL].contains(&key) {
        return Some(key.into());
    }
    // Kubernetes has no slash in keys, and takes no `..`.
    let name = key.strip_prefix(TRUSTED)?.strip_prefix('.')?;
    (name.ends_with(".pem") && !name.starts_with('.') && !name.contains('/'))
        .then(|| Path::new(TRUSTED).join(name))
}

fn mode(key: &str) -> u32 {
    if [SIGNING, NEXT, FORMER].contains(&key) { PRIVATE } else { READABLE }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
