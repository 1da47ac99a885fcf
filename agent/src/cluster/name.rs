//! An object's name, as people write it: `namespace/name`.

use crate::manifest::names::{is_label, is_subdomain};
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if is_label(namespace) && is_subdomain(name) => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("write namespace/name, for example pillion-system/pillion-ca".to_owned()),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_namespace() {
        let name: ObjectName = "pillion-system/pillion-ca".parse().unwrap();
        assert_eq!((name.namespace.as_str(), name.name.as_str()), ("pillion-system", "pillion-ca"));
        assert_eq!(name.to_string(), "pillion-system/pillion-ca");
        for bad in ["", "a", "a/", "/a", "a/b/c", "A/b", "a.b/c"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }
}
