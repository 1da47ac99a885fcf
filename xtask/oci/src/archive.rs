//! The archive: blobs by their digest, and the index that names the images.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::Builder;

use crate::layer::header;
use crate::{Image, Named};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes the images into one archive; it appears whole or not at all. Layers that they share are in it once. Gives the
/// digests, as registries would have them: one for each name.
pub fn write(named: &[Named], file: &Path) -> Result<Vec<String>> {
    let mut blobs = Blobs::default();
    let entries: Vec<Value> = named.iter().map(|named| blobs.put_named(named)).collect();
    let digests =
        entries.iter().map(|entry| entry["digest"].as_str().unwrap_or_default().to_owned()).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let draft = draft(file);
    let written = blobs.write(&index, &draft).and_then(|()| Ok(fs::rename(&draft, file)?));
    if written.is_err() {
        // What is left of it is of no use; that it could not be written is what matters.
        let _ = fs::remove_file(&draft);
    }
    written.with_context(|| format!("cannot write {}", file.display()))?;
    Ok(digests)
}

/// Beside the file, and this process's own.
fn draft(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.draft", std::process::id()));
    file.with_file_name(name)
}

/// By their SHA-256, in hexadecimal.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    fn write(&self, index: &Value, file: &Path) -> Result<()> {
        let mut tar = Builder::new(File::create(file)?);
        let mut add = |path: &str, bytes: &[u8]| tar.append_data(&mut header(0o644, bytes), path, bytes);
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", index.to_string().as_bytes())?;
        for (hash, bytes) in &self.0 {
            add(&format!("blobs/sha256/{hash}"), bytes)?;
        }
        Ok(tar.into_inner()?.flush()?)
    }

    /// Gives the entry of the archive's index: of the image, or of an index of several.
    fn put_named(&mut self, named: &Named) -> Value {
        let images: Vec<Value> = named.images.iter().map(|image| self.put_image(image, named)).collect();
        let mut entry = match <[Value; 1]>::try_from(images) {
            Ok([image]) => image,
            Err(images) => {
                let mut index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
                annotate(&mut index, named);
                self.put(INDEX, index.to_string().as_bytes())
            }
        };
        let tag = named.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        // The first is containerd's, which wants the whole name; the second is the specification's.
        entry["annotations"] =
            json!({"io.containerd.image.name": named.name, "org.opencontainers.image.ref.name": tag});
        entry
    }

    /// Gives the image's entry in an index.
    fn put_image(&mut self, image: &Image, named: &Named) -> Value {
        let layers: Vec<Value> = image.layers.iter().map(|layer| self.put(LAYER, layer)).collect();
        let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let mut config = image.architecture.platform();
        config["config"] = json!({
            "Entrypoint": image.entrypoint,
            "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "User": "0:0",
        });
        config["rootfs"] = json!({"type": "layers", "diff_ids": ids});
        if !named.annotations.is_empty() {
            config["config"]["Labels"] = json!(named.annotations);
        }
        if let Some(created) = named.annotations.get("org.opencontainers.image.created") {
            config["created"] = json!(created);
        }
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let mut manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        annotate(&mut manifest, named);
        let mut entry = self.put(MANIFEST, manifest.to_string().as_bytes());
        entry["platform"] = image.architecture.platform();
        entry
    }

    fn put(&mut self, kind: &str, bytes: &[u8]) -> Value {
        let hash: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let descriptor = json!({"mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len()});
        self.0.insert(hash, bytes.to_owned());
        descriptor
    }
}

fn annotate(document: &mut Value, named: &Named) {
    if !named.annotations.is_empty() {
        document["annotations"] = json!(named.annotations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, Layer};

    fn layer(text: &[u8]) -> Vec<u8> {
        let mut layer = Layer::default();
        layer.file("/usr/share/hello", 0o644, text).unwrap();
        layer.finish().unwrap()
    }

    fn named<'a>(name: &str, architectures: &[Architecture], layers: &[&'a [u8]]) -> Named<'a> {
        let image = |architecture: &Architecture| Image {
            architecture: *architecture,
            entrypoint: vec!["/hello"],
            layers: layers.to_vec(),
        };
        let annotations = [("org.opencontainers.image.created", "2026-01-02T03:04:05Z")];
        Named {
            name: name.into(),
            images: architectures.iter().map(image).collect(),
            annotations: annotations.map(|(key, value)| (key.into(), value.into())).into(),
        }
    }

    fn blob(blobs: &Blobs, entry: &Value) -> Value {
        let hash = entry["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        serde_json::from_slice(&blobs.0[hash]).unwrap()
    }

    const BOTH: [Architecture; 2] = [Architecture::X86_64, Architecture::Aarch64];

    #[test]
    fn images_share_layers() {
        let layer = layer(b"hello");
        let mut blobs = Blobs::default();
        let one = blobs.put_named(&named("one:1", &BOTH[..1], &[&layer]));
        let other = blobs.put_named(&named("other:1", &BOTH[..1], &[&layer]));
        assert_eq!(one["digest"], other["digest"]);
        assert_eq!(blobs.0.len(), 3, "a layer, a configuration, a manifest");
    }

    #[test]
    fn several_architectures_are_one_index_that_names_their_platforms() {
        let layer = layer(b"hello");
        let mut blobs = Blobs::default();
        let entry = blobs.put_named(&named("pillion.dev/pillion:1.2", &BOTH, &[&layer]));
        assert_eq!(entry["mediaType"], INDEX);
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "pillion.dev/pillion:1.2");
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1.2");
        let index = blob(&blobs, &entry);
        let platforms: Vec<&Value> =
            index["manifests"].as_array().unwrap().iter().map(|manifest| &manifest["platform"]).collect();
        assert_eq!(platforms[0], &json!({"architecture": "amd64", "os": "linux"}));
        assert_eq!(platforms[1], &json!({"architecture": "arm64", "os": "linux"}));
        let config = blob(&blobs, &blob(&blobs, &index["manifests"][1])["config"]);
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["created"], "2026-01-02T03:04:05Z");
        assert_eq!(config["config"]["User"], "0:0");
    }

    #[test]
    fn the_same_content_is_the_same_archive_and_other_content_another() {
        let dir = std::env::temp_dir().join(format!("pillion-oci-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &[u8]| {
            let layer = layer(text);
            let file = dir.join(name);
            let digests = write(&[named("hello:1", &BOTH, &[&layer])], &file).unwrap();
            (digests, fs::read(file).unwrap())
        };
        let (one, again, other) =
            (write("one", b"hello"), write("again", b"hello"), write("other", b"other"));
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        fs::remove_dir_all(&dir).unwrap();
        assert!(one == again);
        assert!(one.0 != other.0 && one.1 != other.1);
        assert_eq!(left.len(), 3, "no drafts are left: {left:?}");
    }
}
