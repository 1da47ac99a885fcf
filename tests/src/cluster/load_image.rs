//! The load generator as an image, for pods that ask and pods that answer.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use pillion_oci::{Architecture, Image, Layer, Named, write};

use super::images;
use super::programs::Programs;
use crate::once;

/// `pillion-load`, and a shell with the usual programs.
pub const LOAD: &str = "pillion.test/load:1";

/// Builds it, and writes it into an archive.
pub fn load_image() -> Result<PathBuf> {
    let mut layer = Layer::default();
    layer.program("/usr/bin/pillion-load", &program()?)?;
    let (busybox, layer) = (images::busybox(&Programs::build()?.debian)?, layer.finish()?);
    let image = Image {
        architecture: Architecture::here(),
        entrypoint: vec!["/usr/bin/pillion-load"],
        layers: vec![&busybox, &layer],
    };
    let archive = once::target().join("load/image.tar");
    let named = Named { name: LOAD.to_owned(), images: vec![image], annotations: [].into() };
    write(&[named], &archive).map(|_| archive)
}

/// The program, which needs no library. In a directory of its own: its flags are not those of other builds.
fn program() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    once::run(Command::new("rustup").args(["target", "add", &target]))
        .with_context(|| format!("no {target}: install it by `rustup target add {target}`"))?;
    let dir = once::target().join("load");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "-p", "pillion-load", "--target", &target, "--target-dir"]);
    once::run(cargo.arg(&dir).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))?;
    Ok(dir.join(target).join("release/pillion-load"))
}
