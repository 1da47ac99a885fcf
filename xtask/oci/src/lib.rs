//! OCI images in an archive (image-spec, "image-layout"), as `ctr images import` reads them: no registry is asked, and
//! no container engine.
//!
//! The same content is the same bytes: files have one time and one owner, nothing is compressed, everything is sorted.

#![forbid(unsafe_code)]

mod archive;
mod image;
mod layer;

pub use archive::write;
pub use image::{Architecture, Image, Named};
pub use layer::Layer;
