//! What an image is, besides its files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// One image for each architecture, under one name.
pub struct Named<'a> {
    /// With a tag: `pillion.dev/pillion:0.1.0`.
    pub name: String,
    /// Where there are several, an index holds them.
    pub images: Vec<Image<'a>>,
    /// Of each image and of the index: `org.opencontainers.image.…`.
    pub annotations: BTreeMap<String, String>,
}

/// What it runs, and the layers it is made of, the lowest first. It runs as root unless whoever starts it says otherwise.
pub struct Image<'a> {
    pub architecture: Architecture,
    pub entrypoint: Vec<&'static str>,
    pub layers: Vec<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// This machine's; x86-64 for one that has no images.
    pub fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// As Go calls it, and so image-spec.
    pub fn go_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    pub(crate) fn platform(self) -> Value {
        json!({"architecture": self.go_name(), "os": "linux"})
    }
}
