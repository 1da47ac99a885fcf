//! What is wrong in a manifest, and where.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Where an object was defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// The document's number in the file, from 1.
    pub document: Option<usize>,
    /// The object's index in the document's `items`, where the document is a `List`.
    pub item: Option<usize>,
}

/// One thing that is wrong in the manifests. Its `Display` is one sentence for the person who wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestError {
    pub file: String,
    /// The document's number in the file, from 1; `None` where the file as a whole is meant.
    pub document: Option<usize>,
    /// The path of the field, e.g. `spec.ports[0].port`; `None` where the document as a whole is meant.
    pub field: Option<String>,
    pub message: String,
}

/// What is wrong with an object, before it is said where that object stands.
pub(super) struct Wrong {
    pub field: &'static str,
    pub message: String,
}

impl ManifestError {
    /// An error of a whole file or directory.
    pub fn file(file: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { file: file.to_string(), document: None, field: None, message: message.into() }
    }
}

impl Place {
    pub fn file(file: impl Into<Arc<str>>) -> Self {
        Self { file: file.into(), document: None, item: None }
    }

    /// An error in the object that stands here; `field` is a path from that object, or empty.
    pub fn error(&self, field: &str, message: impl Into<String>) -> ManifestError {
        let item = self.item.map(|i| format!("items[{i}]"));
        let field = match (item, field) {
            (None, "") => None,
            (None, field) => Some(field.to_owned()),
            (Some(item), "") => Some(item),
            (Some(item), field) => Some(format!("{item}.{field}")),
        };
        ManifestError { file: self.file.to_string(), document: self.document, field, message: message.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(item) = self.item {
            write!(f, ", items[{item}]")?;
        }
        Ok(())
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ", document {document}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ", {field}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ManifestError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_file_document_and_field() {
        let place = Place { file: "pods.yaml".into(), document: Some(2), item: None };
        assert_eq!(
            place.error("spec.nodeName", "expected a string").to_string(),
            "pods.yaml, document 2, spec.nodeName: expected a string"
        );
        let place = Place { item: Some(3), ..place };
        assert_eq!(place.error("metadata.name", "no").field.as_deref(), Some("items[3].metadata.name"));
        assert_eq!(place.error("", "no").field.as_deref(), Some("items[3]"));
    }
}
