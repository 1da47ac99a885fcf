//! What is wrong with an object, and where it stands.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Where an object was defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub origin: Origin,
    /// The document's number in the file, from 1.
    pub document: Option<usize>,
    /// The object's index in the document's `items`, where the document is a `List`.
    pub item: Option<usize>,
}

/// What an object was read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A file of a manifest directory, or the directory.
    File(Arc<str>),
    /// An object of the API server, by kind, namespace and name: `Pod shop/cart`.
    Object(Arc<str>),
}

/// One thing that is wrong with the objects. Its `Display` is one sentence for the person who wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ManifestError {
    #[serde(flatten)]
    pub origin: Origin,
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

impl Origin {
    /// The namespace of an object of the API server.
    pub(super) fn namespace(&self) -> Option<&str> {
        let Self::Object(name) = self else { return None };
        let (_, name) = name.split_once(' ')?;
        name.split_once('/').map(|(namespace, _)| namespace)
    }
}

impl ManifestError {
    /// An error of a whole file or directory.
    pub fn file(file: impl fmt::Display, message: impl Into<String>) -> Self {
        let origin = Origin::File(file.to_string().into());
        Self { origin, document: None, field: None, message: message.into() }
    }
}

impl Place {
    pub fn file(file: impl Into<Arc<str>>) -> Self {
        Self { origin: Origin::File(file.into()), document: None, item: None }
    }

    /// Of an object of the API server; `name` is its kind, namespace and name.
    pub fn object(name: Arc<str>) -> Self {
        Self { origin: Origin::Object(name), document: None, item: None }
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
        ManifestError { origin: self.origin.clone(), document: self.document, field, message: message.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) | Self::Object(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)?;
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
        self.origin.fmt(f)?;
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
        let place = Place { document: Some(2), ..Place::file("pods.yaml") };
        assert_eq!(
            place.error("spec.nodeName", "expected a string").to_string(),
            "pods.yaml, document 2, spec.nodeName: expected a string"
        );
        let place = Place { item: Some(3), ..place };
        assert_eq!(place.error("metadata.name", "no").field.as_deref(), Some("items[3].metadata.name"));
        assert_eq!(place.error("", "no").field.as_deref(), Some("items[3]"));
        let place = Place::object("Pod shop/cart".into());
        assert_eq!(place.error("spec.nodeName", "no").to_string(), "Pod shop/cart, spec.nodeName: no");
    }

    #[test]
    fn an_error_in_json_says_whether_a_file_or_an_object_is_meant() {
        let json = |place: Place| serde_json::to_value(place.error("", "no")).unwrap();
        assert_eq!(json(Place::file("pods.yaml"))["file"], "pods.yaml");
        assert_eq!(json(Place::object("Pod shop/cart".into()))["object"], "Pod shop/cart");
    }
}
