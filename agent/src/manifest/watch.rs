//! Watches a manifest directory and publishes a mesh for every state of it that is whole.

use super::last_good::LastGood;
use super::refused::Refusal;
use super::scan::{Directory, unreadable};
use super::{ManifestError, Object, Settings, Sourced, snapshot};
use crate::mesh::{Mesh, Policy};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
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
    mesh: watch::Receiver<Arc<Mesh>>,
    status: watch::Receiver<ManifestStatus>,
    task: JoinHandle<()>,
}

/// How well the manifests read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ManifestStatus {
    /// The generation of the mesh in use; 0 while none could be built.
    pub generation: u64,
    /// What is wrong with the manifests as they are now. While there is anything, the mesh in use is older.
    pub errors: Vec<ManifestError>,
    /// Policies that cannot be read. The mesh goes on, with what is in force of them instead.
    pub refused: Vec<Refusal>,
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
        let mut reader = Reader::new(path.clone(), settings);
        let changed = Arc::new(Notify::new());
        // Watched before it is read: a change between the two must not be lost.
        let watch = DirectoryWatch::start(path, changed.clone())?;
        reader.directory.rescan()?;
        reader.build();
        let (mesh, status) = (reader.mesh.subscribe(), reader.status.subscribe());
        let task = tokio::spawn(follow(reader, watch, changed, rescan));
        Ok(Self { mesh, status, task })
    }

    /// The latest whole mesh. Readers get every change within a second, not every state in between.
    pub fn mesh(&self) -> watch::Receiver<Arc<Mesh>> {
        self.mesh.clone()
    }

    /// What is wrong at the moment.
    pub fn status(&self) -> watch::Receiver<ManifestStatus> {
        self.status.clone()
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
    last_good: LastGood,
    settings: Settings,
    mesh: watch::Sender<Arc<Mesh>>,
    status: watch::Sender<ManifestStatus>,
}

impl Reader {
    fn new(path: PathBuf, settings: Settings) -> Self {
        Self {
            directory: Directory::new(path),
            last_good: LastGood::default(),
            settings,
            mesh: watch::Sender::new(Arc::default()),
            status: watch::Sender::new(ManifestStatus::default()),
        }
    }

    fn read(&mut self) {
        match self.directory.rescan() {
            Ok(true) => self.build(),
            // The error of a directory that could not be read the last time is over.
            Ok(false) if !self.status.borrow().errors.is_empty() => self.build(),
            Ok(false) => {}
            Err(error) => self.report_errors(vec![error]),
        }
    }

    /// Publishes a new generation, unless the objects say what they said before or are broken.
    fn build(&mut self) {
        let current = self.mesh.borrow().clone();
        match self.next(&current) {
            Ok((mesh, refused)) => {
                if current.generation == 0 || !snapshot::same(&mesh, &current) {
                    warn_of_http(&current, &mesh);
                    tracing::info!(
                        generation = mesh.generation,
                        workloads = mesh.workloads.len(),
                        services = mesh.services.len(),
                        "manifests read"
                    );
                    self.mesh.send_replace(Arc::new(mesh));
                }
                self.report(Vec::new(), refused);
            }
            Err(errors) => self.report_errors(errors),
        }
    }

    /// The mesh that the objects describe, and the policies among them that are refused.
    fn next(&mut self, current: &Mesh) -> Result<(Mesh, Vec<Refusal>), Vec<ManifestError>> {
        let objects: Vec<&Sourced> = self.directory.objects()?.collect();
        let (instead, refused) = self.last_good.resolve(&objects, current.generation == 0);
        let readable = objects.into_iter().filter(|o| !matches!(o.object, Object::RefusedPolicy(_)));
        let mesh = snapshot::build(readable.chain(&instead), &self.settings, current)?;
        Ok((mesh, refused))
    }

    /// The mesh stays, and so does what is in force of refused policies.
    fn report_errors(&self, errors: Vec<ManifestError>) {
        let refused = self.status.borrow().refused.clone();
        self.report(errors, refused);
    }

    fn report(&self, errors: Vec<ManifestError>, refused: Vec<Refusal>) {
        let status = ManifestStatus { generation: self.mesh.borrow().generation, errors, refused };
        self.status.send_if_modified(|published| {
            let modified = *published != status;
            if modified {
                for error in &status.errors {
                    tracing::error!("{error}; the mesh stays at generation {}", status.generation);
                }
                for refusal in status.refused.iter().filter(|refusal| !published.refused.contains(refusal)) {
                    tracing::error!("{refusal}");
                }
                *published = status;
            }
            modified
        });
    }
}

/// Says which policies have come into force that speak of HTTP, and so do not mean what they seem to.
fn warn_of_http(before: &Mesh, now: &Mesh) {
    let is_new = |policy: &&Arc<Policy>| before.policies.get(&policy.name) != Some(policy);
    for policy in now.policies.values().filter(|policy| !policy.http_fields.is_empty()).filter(is_new) {
        tracing::warn!(policy = %policy.name, fields = policy.http_fields.join(", "),
            "fields of HTTP fail safe: an ALLOW rule with them matches nothing, others match without them");
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
