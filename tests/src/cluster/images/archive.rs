//! OCI images in an archive (image-spec, "image-layout"), as `ctr images import` reads them: no registry is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::cluster::programs::Root;

/// Files that images share.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    /// What has been added: directories are there once, and so is a library that two programs need.
    there: BTreeSet<PathBuf>,
}

/// An image: what it is called, what it runs, and the layers it is made of, the lowest first.
pub struct Image<'a> {
    pub name: String,
    pub entrypoint: Vec<&'static str>,
    pub layers: Vec<&'a [u8]>,
}

impl Default for Layer {
    /// An empty one.
    fn default() -> Self {
        Self { tar: Builder::new(Vec::new()), there: BTreeSet::new() }
    }
}

impl Layer {
    /// A directory, with those above it. Anybody may write in it where `mode` is 0o1777.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Directory, mode, &[], None)
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Regular, mode, bytes, None)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.above(Path::new(path))?;
        self.add(Path::new(path), EntryType::Symlink, 0o777, &[], Some(target))
    }

    /// A program of this machine that needs no library.
    pub fn program(&mut self, path: &str, program: &Path) -> Result<()> {
        let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        self.file(path, 0o755, &bytes)
    }

    /// A program of Debian's, at its own place, with the libraries that it needs.
    pub fn debian_program(&mut self, root: &Root, path: &str) -> Result<()> {
        self.program(path, &root.find(path)?)?;
        for (place, library) in root.libraries(path)? {
            self.program(&place.to_string_lossy(), &library)?;
        }
        Ok(())
    }

    /// Its bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn above(&mut self, path: &Path) -> Result<()> {
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|dir| *dir != Path::new("/")).collect();
        above.into_iter().rev().try_for_each(|dir| self.add(dir, EntryType::Directory, 0o755, &[], None))
    }

    /// The same time and owner for all: an image's digest is that of what is in it.
    fn add(
        &mut self,
        path: &Path,
        kind: EntryType,
        mode: u32,
        bytes: &[u8],
        link: Option<&str>,
    ) -> Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        let added = match link {
            Some(target) => self.tar.append_link(&mut header, path, target),
            None => self.tar.append_data(&mut header, path, bytes),
        };
        added.with_context(|| format!("cannot pack {}", path.display()))
    }
}

/// Writes the images into one archive. Layers that they share are in it once.
pub fn write(images: &[Image], file: &Path) -> Result<()> {
    let mut blobs = Blobs::default();
    let manifests: Vec<Value> = images.iter().map(|image| blobs.put_image(image)).collect();
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    let archive = fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut tar = Builder::new(archive);
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.to_string().as_bytes())?;
    for (hash, bytes) in &blobs.0 {
        add(&format!("blobs/sha256/{hash}"), bytes)?;
    }
    tar.into_inner()?.flush().context("cannot end the archive")
}

/// By their SHA-256, in hexadecimal.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Gives the image's entry in the index.
    fn put_image(&mut self, image: &Image) -> Value {
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| self.put("application/vnd.oci.image.layer.v1.tar", layer))
            .collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": image.entrypoint, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
        let mut entry = self.put(kind, manifest.to_string().as_bytes());
        entry["annotations"] = json!({"io.containerd.image.name": image.name});
        entry
    }

    fn put(&mut self, kind: &str, bytes: &[u8]) -> Value {
        let hash: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let descriptor = json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len()});
        self.0.insert(hash, bytes.to_owned());
        descriptor
    }
}

/// As Go calls this machine's.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_share_layers_and_a_layer_holds_a_file_once() {
        let mut layer = Layer::default();
        layer.file("/usr/share/hello", 0o644, b"hello").unwrap();
        layer.file("/usr/share/hello", 0o644, b"again").unwrap();
        layer.link("/hello", "usr/share/hello").unwrap();
        let layer = layer.finish().unwrap();
        let names: Vec<_> = tar::Archive::new(&layer[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["usr", "usr/share", "usr/share/hello", "hello"]);

        let image =
            |name: &str| Image { name: name.into(), entrypoint: vec!["/hello"], layers: vec![&layer] };
        let mut blobs = Blobs::default();
        let (one, other) = (blobs.put_image(&image("one")), blobs.put_image(&image("other")));
        assert_eq!(one["digest"], other["digest"]);
        assert_eq!(blobs.0.len(), 3, "a layer, a configuration, a manifest");
    }
}
