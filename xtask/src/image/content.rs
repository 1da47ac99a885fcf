//! What is in the image: the program, and the licences of what it is made of. No shell, no users, no C library.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pillion_oci::{Architecture, Image, Layer, Named};

use super::compiler::Compiler;
use super::program::{self, Checkout};
use super::revision::Revision;
use super::{Profile, licences, make_parent};

const PROGRAM: &str = "/usr/bin/pillion";
const DOCUMENTS: &str = "/usr/share/doc/pillion";
const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// What a program may weigh at most.
const MOST_BYTES: usize = 25_000_000;

/// `pillion.dev/pillion:` and this workspace's version.
pub fn default_name() -> String {
    format!("pillion.dev/pillion:{}", env!("CARGO_PKG_VERSION"))
}

/// An image's name with a tag: container runtimes know an image by the whole of it.
pub fn name(text: &str) -> Result<String> {
    let is_tag = |tag: &str| !tag.is_empty() && !tag.contains('/');
    match text.rsplit_once(':') {
        Some((name, tag)) if !name.is_empty() && is_tag(tag) && !text.contains(char::is_whitespace) => {
            Ok(text.to_owned())
        }
        _ => bail!("an image's name has a tag, as in {}", default_name()),
    }
}

/// An archive to be.
pub struct Archive<'a> {
    pub architectures: &'a [Architecture],
    pub profile: Profile,
    pub name: &'a str,
}

impl Archive<'_> {
    /// Builds what is in it, writes it, and gives the digest that the image has.
    pub fn write(&self, checkout: &Checkout, out: &Path) -> Result<String> {
        ensure!(!self.architectures.is_empty(), "an image is of one architecture at least");
        let compiler = Compiler::ready()?;
        let documents = documents(checkout, &compiler)?;
        let build = |architecture: &Architecture| program(checkout, &compiler, *architecture, self.profile);
        let programs = self.architectures.iter().map(build).collect::<Result<Vec<_>>>()?;
        // The documents are below: they stay the same from one version to the next, mostly.
        let images = self.architectures.iter().zip(&programs).map(|(architecture, program)| Image {
            architecture: *architecture,
            entrypoint: vec![PROGRAM],
            layers: vec![&documents, program],
        });
        let images = images.collect();
        let annotations = annotations(&Revision::of(&checkout.root));
        make_parent(out)?;
        let digests = pillion_oci::write(&[Named { name: self.name.to_owned(), images, annotations }], out)?;
        digests.into_iter().next().context("an archive of one image has one digest")
    }
}

/// The image's files, in a directory.
pub fn unpack(
    checkout: &Checkout,
    architecture: Architecture,
    profile: Profile,
    directory: &Path,
) -> Result<()> {
    let compiler = Compiler::ready()?;
    for layer in [documents(checkout, &compiler)?, program(checkout, &compiler, architecture, profile)?] {
        tar::Archive::new(&layer[..])
            .unpack(directory)
            .with_context(|| format!("cannot write into {}", directory.display()))?;
    }
    Ok(())
}

/// The layer of the program.
fn program(
    checkout: &Checkout,
    compiler: &Compiler,
    architecture: Architecture,
    profile: Profile,
) -> Result<Vec<u8>> {
    let file = program::build(checkout, compiler, architecture, profile)?;
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let (name, size) = (architecture.go_name(), bytes.len());
    println!("pillion for {name}: {:.1} MB", size as f64 / 1e6);
    ensure!(
        profile == Profile::Dev || size < MOST_BYTES,
        "pillion for {name} weighs {size} bytes, and {MOST_BYTES} at most are promised: see which crate has grown"
    );
    let mut layer = Layer::default();
    layer.file(PROGRAM, 0o755, &bytes)?;
    layer.finish()
}

/// The layer of the licences.
fn documents(checkout: &Checkout, compiler: &Compiler) -> Result<Vec<u8>> {
    let mut layer = Layer::default();
    for name in LICENCES {
        let file = checkout.root.join(name);
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        layer.file(&format!("{DOCUMENTS}/{name}"), 0o644, &text)?;
    }
    let others = licences::third_party(&checkout.root, compiler)?;
    layer.file(&format!("{DOCUMENTS}/THIRD-PARTY"), 0o644, others.as_bytes())?;
    layer.finish()
}

fn annotations(revision: &Revision) -> BTreeMap<String, String> {
    let said = [
        ("title", Some("Pillion".to_owned())),
        (
            "description",
            Some("A sidecarless service mesh: one agent per node, accelerated by eBPF".to_owned()),
        ),
        ("version", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("licenses", Some("Apache-2.0 AND (MIT OR GPL-2.0-only)".to_owned())),
        ("created", revision.created.clone()),
        ("revision", revision.commit.clone()),
    ];
    let annotation =
        |(key, value): (&str, Option<String>)| Some((format!("org.opencontainers.image.{key}"), value?));
    said.into_iter().filter_map(annotation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_called_by_a_name_with_a_tag() {
        for good in ["pillion.dev/pillion:0.1.0", "localhost:5000/pillion:test", &default_name()] {
            assert_eq!(name(good).unwrap(), good);
        }
        for bad in ["pillion", "localhost:5000/pillion", "pillion:", ":1", "pillion: 1"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_says_what_is_known_of_its_commit_and_no_more() {
        let nothing = annotations(&Revision::default());
        assert!(!nothing.contains_key("org.opencontainers.image.revision"));
        let revision =
            Revision { commit: Some("c0ffee".into()), created: Some("2026-01-02T03:04:05Z".into()) };
        let all = annotations(&revision);
        assert_eq!(all["org.opencontainers.image.revision"], "c0ffee");
        assert_eq!(all["org.opencontainers.image.created"], "2026-01-02T03:04:05Z");
    }
}
