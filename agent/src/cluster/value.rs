//! Reads one object's JSON, whatever its author has put into it.
//!
//! `serde_json` reads no value that is nested deeper than 128 levels, and an API server stores objects that are: in
//! `managedFields`, and in every field that a CustomResourceDefinition does not describe. So each field is read by itself. A field
//! that cannot be read is that object's trouble alone, and who reads the object decides whether the field matters.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// As many levels below the object are read field by field: `spec.selector.matchLabels`.
const LEVELS: usize = 3;

/// A field that cannot be read. In the object's value it is `true`: there, and of a type that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The path from the object; empty for the object itself.
    pub field: String,
    pub message: String,
}

impl Unreadable {
    pub fn is_in(&self, field: &str) -> bool {
        self.field.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

/// An object's value without `metadata.managedFields`, which nothing here reads, and the fields of it that cannot be read.
pub fn read(object: &str) -> (Value, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let value = match fields(object) {
        Ok(fields) => {
            let read = |(name, text): (String, &RawValue)| {
                let value = match name.as_str() {
                    "metadata" => metadata(text, &mut unreadable),
                    _ => field(text, &name, LEVELS - 1, &mut unreadable),
                };
                (name, value)
            };
            Value::Object(fields.into_iter().map(read).collect())
        }
        Err(error) => cannot(String::new(), &error, &mut unreadable),
    };
    (value, unreadable)
}

/// The values of a list's objects, each as [`read`] has it: what is wrong with one is no reason to know nothing of the others.
///
/// # Errors
/// When the text is no list.
pub fn read_list(text: &str) -> serde_json::Result<impl Iterator<Item = Value>> {
    let list: List<'_> = serde_json::from_str(text)?;
    Ok(list.items.into_iter().map(|item| read(item.get()).0))
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

fn metadata(text: &RawValue, unreadable: &mut Vec<Unreadable>) -> Value {
    match fields(text.get()) {
        Ok(mut fields) => {
            fields.remove("managedFields");
            nested(fields, "metadata", LEVELS - 1, unreadable)
        }
        Err(_) => field(text, "metadata", 0, unreadable),
    }
}

fn field(text: &RawValue, path: &str, levels: usize, unreadable: &mut Vec<Unreadable>) -> Value {
    match (serde_json::from_str(text.get()), levels) {
        (Ok(value), _) => value,
        (Err(error), 0) => cannot(path.to_owned(), &error, unreadable),
        (Err(error), levels) => match fields(text.get()) {
            Ok(fields) => nested(fields, path, levels, unreadable),
            Err(_) => cannot(path.to_owned(), &error, unreadable),
        },
    }
}

fn nested(
    fields: BTreeMap<String, &RawValue>,
    path: &str,
    levels: usize,
    unreadable: &mut Vec<Unreadable>,
) -> Value {
    let read = |(name, text): (String, &RawValue)| {
        let value = field(text, &format!("{path}.{name}"), levels - 1, unreadable);
        (name, value)
    };
    Value::Object(fields.into_iter().map(read).collect::<Map<_, _>>())
}

/// The texts of an object's fields. They are found without recursion, however deep they are.
fn fields(text: &str) -> serde_json::Result<BTreeMap<String, &RawValue>> {
    serde_json::from_str(text)
}

fn cannot(field: String, error: &serde_json::Error, unreadable: &mut Vec<Unreadable>) -> Value {
    unreadable.push(Unreadable { field, message: format!("cannot be read: {error}") });
    Value::Bool(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deep(levels: usize) -> String {
        format!("{}1{}", r#"{"f:a":"#.repeat(levels), "}".repeat(levels))
    }

    // proves: SEC-2
    #[test]
    fn what_is_nested_too_deep_is_that_field_alone() {
        let deep = deep(100_000);
        let text = format!(
            r#"{{"metadata": {{"name": "a", "managedFields": [{deep}]}},
                "spec": {{"selector": {{"matchLabels": {{"app": "web"}}}}, "targetRef": {{"name": "b", "junk": {deep}}}}},
                "status": {deep}}}"#
        );
        let (value, unreadable) = read(&text);
        assert_eq!(value["metadata"], json!({"name": "a"}));
        assert_eq!(value["spec"]["selector"]["matchLabels"]["app"], "web");
        assert_eq!(value["spec"]["targetRef"], json!({"name": "b", "junk": true}));
        let fields: Vec<_> = unreadable.iter().map(|unreadable| unreadable.field.as_str()).collect();
        assert_eq!(fields, ["spec.targetRef.junk", "status.f:a.f:a"]);
        assert!(unreadable[1].is_in("status") && !unreadable[1].is_in("stat"));
        assert!(unreadable[0].message.contains("recursion limit"), "{unreadable:?}");
    }

    #[test]
    fn an_object_that_can_be_read_is_what_it_says() {
        let text =
            r#"{"metadata": {"name": "a", "labels": null}, "spec": [1, "\u00e9", -1.5e3], "kind": "Pod"}"#;
        assert_eq!(read(text), (serde_json::from_str(text).unwrap(), vec![]));
    }

    // proves: SEC-2
    #[test]
    fn nonsense_is_unreadable_and_never_a_panic() {
        for (text, field) in [
            ("7", ""),
            ("[]", ""),
            (r#"{"metadata": 7, "spec": "\ud800"}"#, "spec"),
            (r#"{"spec": {"a": {"b": {"c": 1e999}}}}"#, "spec.a.b"),
            (r#"{"metadata": {"labels": {"a": "\udc00"}}}"#, "metadata.labels.a"),
            (r#"{"\ud800": 1}"#, ""),
        ] {
            let (_, unreadable) = read(text);
            assert_eq!(unreadable.len(), 1, "{text}: {unreadable:?}");
            assert_eq!(unreadable[0].field, field, "{text}");
        }
    }
}
