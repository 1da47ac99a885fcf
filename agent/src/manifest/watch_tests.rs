use super::*;
use crate::manifest::test_dir::TempDir;
use crate::mesh::Mesh;
use std::fs;
use std::os::unix::fs::symlink;
use tokio::sync::watch;
use tokio::time::Instant;

fn source(dir: &TempDir) -> Result<ManifestSource, ManifestError> {
    ManifestSource::start(dir.0.clone(), Settings::default())
}

fn pod(name: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n")
}

fn names(mesh: &Mesh) -> Vec<&str> {
    let mut names: Vec<_> = mesh.workloads.keys().map(|name| name.name.as_str()).collect();
    names.sort_unstable();
    names
}

async fn wait_for<T>(receiver: &mut watch::Receiver<T>, what: impl FnMut(&T) -> bool) {
    let found = timeout(Duration::from_secs(5), receiver.wait_for(what)).await;
    assert!(found.is_ok(), "nothing came");
}

#[tokio::test]
async fn a_change_is_applied_within_a_second() {
    let dir = TempDir::new("change");
    dir.write("a.yaml", &pod("a"));
    dir.write(".hidden.yaml", "{");
    dir.write("notes.txt", "{");
    let source = source(&dir).unwrap();
    let mut mesh = source.published().mesh.clone();
    assert_eq!(names(&mesh.borrow()), ["a"]);
    assert_eq!(mesh.borrow().generation, 1);

    let start = Instant::now();
    dir.write("b.json", r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}}"#);
    wait_for(&mut mesh, |mesh| names(mesh) == ["a", "b"]).await;
    fs::rename(dir.0.join("b.json"), dir.0.join("b.json.off")).unwrap();
    wait_for(&mut mesh, |mesh| names(mesh) == ["a"]).await;
    dir.write("a.yaml", &pod("c"));
    wait_for(&mut mesh, |mesh| names(mesh) == ["c"]).await;
    fs::remove_file(dir.0.join("a.yaml")).unwrap();
    wait_for(&mut mesh, |mesh| names(mesh).is_empty()).await;
    assert!(start.elapsed() < Duration::from_secs(4), "four changes took {:?}", start.elapsed());
}

#[tokio::test]
async fn the_last_whole_mesh_stays_while_a_file_is_broken() {
    let dir = TempDir::new("broken");
    dir.write("a.yaml", &pod("a"));
    let source = source(&dir).unwrap();
    let Published { mesh, mut status } = source.published().clone();
    dir.write("b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: 5}\n");
    wait_for(&mut status, |status| !status.errors.is_empty()).await;
    assert_eq!(status.borrow().errors[0].field.as_deref(), Some("metadata.name"));
    assert_eq!(status.borrow().errors[0].origin.to_string(), dir.0.join("b.yaml").to_string_lossy());
    assert_eq!((names(&mesh.borrow()), mesh.borrow().generation), (vec!["a"], 1));

    dir.write("b.yaml", &pod("b"));
    wait_for(&mut status, |status| status.errors.is_empty()).await;
    assert_eq!(status.borrow().generation, 2);
    assert_eq!(names(&mesh.borrow()), ["a", "b"]);
}

#[tokio::test]
async fn what_says_the_same_makes_no_generation() {
    let dir = TempDir::new("same");
    dir.write("a.yaml", &pod("a"));
    let source = source(&dir).unwrap();
    let Published { mesh, mut status } = source.published().clone();
    // An error between the two shows that the second was read.
    dir.write("b.yaml", "{");
    wait_for(&mut status, |status| !status.errors.is_empty()).await;
    dir.write("a.yaml", &(pod("a") + "# the same\n"));
    fs::remove_file(dir.0.join("b.yaml")).unwrap();
    wait_for(&mut status, |status| status.errors.is_empty()).await;
    assert_eq!(mesh.borrow().generation, 1);
}

#[tokio::test]
async fn a_broken_directory_starts_empty_and_says_why() {
    let dir = TempDir::new("start");
    dir.write("a.yaml", "{");
    let source = source(&dir).unwrap();
    assert_eq!(source.published().mesh.borrow().generation, 0);
    assert_eq!(source.published().status.borrow().errors.len(), 1);
    dir.write("a.yaml", &pod("a"));
    wait_for(&mut source.published().mesh.clone(), |mesh| mesh.generation == 1).await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_one_sentence() {
    let source = ManifestSource::start("/nowhere/at/all".into(), Settings::default());
    let error = source.err().unwrap();
    assert_eq!(error.to_string(), "/nowhere/at/all: cannot be read: No such file or directory (os error 2)");
}

#[tokio::test]
async fn a_configmaps_swap_is_one_change() {
    let dir = TempDir::new("configmap");
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(dir.0.join(version)).unwrap();
        fs::write(dir.0.join(version).join("pods.yaml"), pod(name)).unwrap();
    }
    symlink("..1", dir.0.join("..data")).unwrap();
    symlink("..data/pods.yaml", dir.0.join("pods.yaml")).unwrap();
    let source = source(&dir).unwrap();
    assert_eq!(names(&source.published().mesh.borrow()), ["old"]);
    symlink("..2", dir.0.join("..tmp")).unwrap();
    fs::rename(dir.0.join("..tmp"), dir.0.join("..data")).unwrap();
    wait_for(&mut source.published().mesh.clone(), |mesh| names(mesh) == ["new"]).await;
    assert_eq!(source.published().mesh.borrow().generation, 2);
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back_is_watched_anew() {
    let dir = TempDir::new("replaced");
    let manifests = dir.0.join("manifests");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("a.yaml"), pod("a")).unwrap();
    let rescan = Duration::from_millis(300);
    let source = ManifestSource::start_with(manifests.clone(), Settings::default(), rescan).unwrap();
    let Published { mesh, mut status } = source.published().clone();
    fs::rename(&manifests, dir.0.join("away")).unwrap();
    wait_for(&mut status, |status| status.errors.len() == 1).await;
    assert_eq!(names(&mesh.borrow()), ["a"]);

    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("b.yaml"), pod("b")).unwrap();
    // Nothing tells of a directory that comes back: the next rescan finds it, and watches it again.
    wait_for(&mut source.published().mesh.clone(), |mesh| names(mesh) == ["b"]).await;
    fs::write(manifests.join("c.yaml"), pod("c")).unwrap();
    wait_for(&mut source.published().mesh.clone(), |mesh| names(mesh) == ["b", "c"]).await;
}
