//! Reads a manifest directory, again and again; a file that has not changed is not read again.

use super::text::{MAX_FILE_BYTES, parse};
use super::{ManifestError, Sourced};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file changed as lately as this is read again even though it looks the same: file systems tell the time in
/// ticks of some milliseconds, so a second change can leave no trace (git knows such files as "racily clean").
const SETTLED: Duration = Duration::from_secs(2);

/// A directory and what its files said when last read.
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<String, File>,
}

struct File {
    stamp: Stamp,
    content: Result<Vec<Sourced>, Vec<ManifestError>>,
}

/// What changes whenever a file does.
#[derive(PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
    settled: bool,
}

impl Directory {
    pub fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new() }
    }

    /// Reads what has changed. `Ok(false)` when nothing has.
    ///
    /// # Errors
    /// When the directory itself cannot be read; what its files said before is kept.
    pub fn rescan(&mut self) -> Result<bool, ManifestError> {
        let names = self.names().map_err(|error| unreadable(&self.path, &error))?;
        let mut before = std::mem::take(&mut self.files);
        let mut changed = false;
        for name in names {
            let path = self.path.join(&name);
            let known = before.remove(&name);
            // A link is followed: a mounted ConfigMap is links into a directory that is swapped as a whole.
            let file = match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(metadata) => {
                    let stamp = Stamp::of(&metadata);
                    match known {
                        Some(file) if stamp.settled && file.stamp == stamp => file,
                        _ => {
                            changed = true;
                            File { stamp, content: read(&path, &metadata) }
                        }
                    }
                }
                // Gone since the directory was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                    changed = true;
                    continue;
                }
                Err(error) => {
                    changed = true;
                    File { stamp: Stamp::none(), content: Err(vec![unreadable(&path, &error)]) }
                }
            };
            self.files.insert(name, file);
        }
        Ok(changed || !before.is_empty())
    }

    /// All objects, or all errors.
    pub fn objects(&self) -> Result<impl Iterator<Item = &Sourced>, Vec<ManifestError>> {
        let errors: Vec<_> =
            self.files.values().filter_map(|f| f.content.as_ref().err()).flatten().cloned().collect();
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(self.files.values().filter_map(|f| f.content.as_ref().ok()).flatten())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 has none of the endings below in any editor.
            if let Ok(name) = entry?.file_name().into_string()
                && is_manifest(&name)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// Hidden files are editors' and a ConfigMap's own (`..data`).
fn is_manifest(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn read(path: &Path, metadata: &Metadata) -> Result<Vec<Sourced>, Vec<ManifestError>> {
    let error = |message: String| vec![ManifestError::file(path.display(), message)];
    // Opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(error("is no regular file".into()));
    }
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|e| vec![unreadable(path, &e)])?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|e| vec![unreadable(path, &e)])?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(error(format!("is larger than {} MiB; split it", MAX_FILE_BYTES >> 20)));
    }
    parse(&path.to_string_lossy(), &text)
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> ManifestError {
    ManifestError::file(path.display(), format!("cannot be read: {error}"))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
        let since_epoch = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        let changed = SystemTime::UNIX_EPOCH + since_epoch;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (seconds, nanoseconds),
            // A time to come is a clock that was set back: not to be trusted either.
            settled: changed.elapsed().is_ok_and(|age| age > SETTLED),
        }
    }

    /// Of a file that could not be looked at; equal to no other.
    fn none() -> Self {
        Self { device: 0, inode: 0, bytes: 0, changed: (0, 0), settled: false }
    }
}
