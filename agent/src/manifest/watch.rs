//! Watches a manifest directory and publishes a mesh for every state of it that is whole.

use super::publish::{Published, Publisher};
use super::scan::{Directory, unreadable};
use super::{ManifestError, Settings};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long the first change waits for those that belong to it: a deployment writes several files. A changed policy has to
/// be in force everywhere within 100 ms, of which this may take a fifth.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// How often the directory is looked at without being told of a change: network file systems tell of none, and
/// a directory that was replaced as a whole has another inode. Without changes it costs a stat per file.
const RESCAN: Duration = Duration::from_secs(10);

/// The mesh that a directory of manifests describes, kept current while this value lives.
pub struct ManifestSource {
    published: Published,
    task: JoinHandle<()>,
}

impl ManifestSource {
    /// Reads the directory, then follows its changes on the caller's tokio runtime. Broken manifests are no
    /// reason not to start: the mesh is empty until they are mended, and the status says why.
    ///
    /// # Errors
    /// When the directory is not there, or cannot be read or watched.
    pub fn start(path: PathBuf, settings: Settings) -> Result<Self, ManifestError> {
        Self::start_with(path, settings, RESCAN)
    }

    fn start_with(path: PathBuf, settings: Settings, rescan: Duration) -> Result<Self, ManifestError> {
        let (publisher, published) = Publisher::new(settings);
        let mut reader = Reader { directory: Directory::new(path.clone()), publisher };
        let changed = Arc::new(Notify::new());
        // Watched before it is read: a change between the two must not be lost.
        let watch = DirectoryWatch::start(path, changed.clone())?;
        reader.directory.rescan()?;
        reader.build();
        let task = tokio::spawn(follow(reader, watch, changed, rescan));
        Ok(Self { published, task })
    }

    pub fn published(&self) -> &Published {
        &self.published
    }
}

impl Drop for ManifestSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut reader: Reader, mut watch: DirectoryWatch, changed: Arc<Notify>, rescan: Duration) {
    loop {
        if timeout(rescan, changed.notified()).await.is_ok() {
            sleep(DEBOUNCE).await;
        }
        let read = tokio::task::spawn_blocking(move || {
            watch.renew();
            reader.read();
            (reader, watch)
        });
        match read.await {
            Ok(both) => (reader, watch) = both,
            // The runtime ends.
            Err(_) => return,
        }
    }
}

/// Reads the directory and publishes what comes of it.
struct Reader {
    directory: Directory,
    publisher: Publisher,
}

impl Reader {
    fn read(&mut self) {
        match self.directory.rescan() {
            Ok(true) => self.build(),
            // The error of a directory that could not be read the last time is over.
            Ok(false) if self.publisher.has_errors() => self.build(),
            Ok(false) => {}
            Err(error) => self.publisher.keep(vec![error]),
        }
    }

    fn build(&mut self) {
        match self.directory.objects() {
            Ok(objects) => self.publisher.whole(objects.collect()),
            Err(errors) => self.publisher.keep(errors),
        }
    }
}

/// An inotify watch on whatever directory the path leads to.
struct DirectoryWatch {
    path: PathBuf,
    watcher: RecommendedWatcher,
    /// Device and inode of the directory under watch; `None` when there is none.
    watched: Option<(u64, u64)>,
}

impl DirectoryWatch {
    fn start(path: PathBuf, changed: Arc<Notify>) -> Result<Self, ManifestError> {
        let unwatchable =
            |error: notify::Error| ManifestError::file(path.display(), format!("cannot be watched: {error}"));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                changed.notify_one();
            }
        });
        let mut watch = Self { watcher: watcher.map_err(unwatchable)?, path: path.clone(), watched: None };
        let watched = identity(&path).map_err(|error| unreadable(&path, &error))?;
        watch.watcher.watch(&path, RecursiveMode::NonRecursive).map_err(unwatchable)?;
        watch.watched = Some(watched);
        Ok(watch)
    }

    /// Watches anew where the path leads to another directory than before. What fails is tried again at the
    /// next look; until then that look is the way by which changes are found.
    fn renew(&mut self) {
        let now = identity(&self.path).ok();
        if now == self.watched {
            return;
        }
        // Of a directory that is gone the kernel has already dropped the watch.
        let _ = self.watcher.unwatch(&self.path);
        self.watched = now.filter(|_| self.watcher.watch(&self.path, RecursiveMode::NonRecursive).is_ok());
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    // Reading it asks for the permission that is needed; to look at it does not.
    std::fs::read_dir(path)?;
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Our own reading shows up as events too, and is none.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
