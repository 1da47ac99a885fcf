//! Reads one manifest file's text into objects.
//!
//! YAML becomes JSON first, as in Kubernetes itself, so a label `version: 1.10` without quotes is an error
//! here as it is there. What the text costs to read is bounded: files, nesting and aliases have limits.

use super::{ManifestError, Object, Place, Sourced};
use serde_json::Value;

/// The largest file that is read. `kubectl get pods -A -o yaml` of 5,000 pods is about 40 MiB.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Larger documents must not use aliases: what an alias repeats is copied each time.
const MAX_BYTES_WITH_ALIASES: usize = 64 << 10;

/// Reads a file's documents. `file` is what errors call it; a name that ends in `.json` is read as JSON.
///
/// # Errors
/// Everything that is wrong, document by document.
pub fn parse(file: &str, text: &[u8]) -> Result<Vec<Sourced>, Vec<ManifestError>> {
    let place = Place::file(file);
    let text = std::str::from_utf8(text).map_err(|_| vec![place.error("", "is not UTF-8 text")])?;
    let mut found = Found::default();
    if file.ends_with(".json") {
        let place = Place { document: Some(1), ..place };
        match serde_json::from_str(text) {
            Ok(value) => found.document(&place, value),
            Err(error) => found.errors.push(place.error("", error.to_string())),
        }
    } else {
        for (number, document) in documents(text).enumerate() {
            let place = Place { document: Some(number + 1), ..place.clone() };
            match yaml(&document) {
                Ok(value) => found.document(&place, value),
                Err(message) => found.errors.push(place.error("", message)),
            }
        }
    }
    if found.errors.is_empty() { Ok(found.objects) } else { Err(found.errors) }
}

#[derive(Default)]
struct Found {
    objects: Vec<Sourced>,
    errors: Vec<ManifestError>,
}

impl Found {
    /// Takes a document: an object, a list of objects, or nothing.
    fn document(&mut self, place: &Place, value: Value) {
        match value {
            Value::Null => {}
            Value::Object(mut object) => match list_of(&object) {
                Some(defaults) => match object.remove("items") {
                    Some(Value::Array(items)) => self.items(place, items, &defaults),
                    None | Some(Value::Null) => {}
                    Some(_) => self.errors.push(place.error("items", "expected a list of objects")),
                },
                None => self.object(place.clone(), &Value::Object(object)),
            },
            _ => self
                .errors
                .push(place.error("", "expected a Kubernetes object (apiVersion, kind, metadata …)")),
        }
    }

    fn items(&mut self, place: &Place, items: Vec<Value>, defaults: &[(&str, String)]) {
        for (i, mut item) in items.into_iter().enumerate() {
            if let Value::Object(object) = &mut item {
                for (key, value) in defaults {
                    object.entry(*key).or_insert_with(|| value.clone().into());
                }
            }
            self.object(Place { item: Some(i), ..place.clone() }, &item);
        }
    }

    fn object(&mut self, place: Place, value: &Value) {
        match Object::read(value) {
            Ok(Some(object)) => self.objects.push(Sourced { place, object }),
            Ok(None) => {}
            Err((field, message)) => self.errors.push(place.error(&field, message)),
        }
    }
}

/// Whether this is a list, and what its items need not say: a `List` holds whole objects, the API server's
/// `PodList` leaves out what its own kind tells.
fn list_of(object: &serde_json::Map<String, Value>) -> Option<Vec<(&'static str, String)>> {
    let kind = object.get("kind")?.as_str()?.strip_suffix("List")?;
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let items = [("apiVersion", version.to_owned()), ("kind", kind.to_owned())];
    Some(if kind.is_empty() { Vec::new() } else { items.into() })
}

/// A document of a YAML stream.
struct Document<'a> {
    text: &'a str,
    /// How many lines of the file come before it.
    lines_before: u64,
}

/// Splits a stream at its markers. `---` at the start of a line is one wherever it stands, in quotes and block
/// scalars too (YAML 1.2 §9.1.2), so this needs no parser; and empty documents keep their number.
fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) {
            documents.push(Document { text: &text[start..offset], lines_before });
            // What follows the dashes belongs to the document: `--- {kind: Pod}`.
            start = offset + "---".len();
            lines_before = number as u64;
        }
        offset += line.len();
    }
    documents.push(Document { text: &text[start..], lines_before });
    // Comments and directives before the first marker are no document.
    let skipped = usize::from(documents.len() > 1 && is_preamble(documents[0].text));
    documents.into_iter().skip(skipped)
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_preamble(text: &str) -> bool {
    text.lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%'))
}

fn yaml(document: &Document<'_>) -> Result<Value, String> {
    let aliases = document.text.len() <= MAX_BYTES_WITH_ALIASES;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // By these a file of the largest size passes; the size bounds the memory.
            max_events: 16_000_000,
            max_nodes: 8_000_000,
            max_aliases: if aliases { 1_000 } else { 0 },
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 4_096 },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Option<Value>>(document.text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| {
            error.render_with_options(serde_saphyr::render_options! {
                formatter: &serde_saphyr::UserMessageFormatter,
                line_offset: document.lines_before,
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n";

    fn errors(text: &str) -> Vec<String> {
        let errors = parse("x.yaml", text.as_bytes()).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documents_are_counted_as_a_reader_counts_them() {
        let numbers = |text: &str| -> Vec<_> {
            parse("x.yaml", text.as_bytes()).unwrap().iter().map(|s| s.place.document.unwrap()).collect()
        };
        assert_eq!(numbers(POD), [1]);
        assert_eq!(numbers(&format!("---\n{POD}---\n{POD}")), [1, 2]);
        assert_eq!(
            numbers(&format!("# says who\n%YAML 1.2\n---\n{POD}---\n---\n# empty\n---\r\n{POD}---")),
            [1, 4]
        );
        assert_eq!(numbers("--- {apiVersion: v1, kind: Pod, metadata: {name: a}}"), [1]);
        assert_eq!(numbers(""), [0; 0]);
    }

    #[test]
    fn an_error_says_file_document_field() {
        let broken = format!("{POD}---\n{POD}spec: {{nodeName: 5}}\n");
        assert_eq!(
            errors(&broken),
            ["x.yaml, document 2, spec.nodeName: invalid type: integer `5`, expected a string"]
        );
        assert_eq!(
            errors("apiVersion: v1\nkind: Pod\nmetadata: {}\n"),
            ["x.yaml, document 1, metadata: missing field `name`"]
        );
        // Every broken document is told at once.
        assert_eq!(errors(&format!("{broken}---\nkind: Pod\n---\njust text\n")).len(), 3);
    }

    #[test]
    fn a_syntax_error_names_the_line_of_the_file() {
        let error = &errors(&format!("{POD}---\nkind: Pod\nmetadata: [\n"))[0];
        assert!(error.starts_with("x.yaml, document 2: "), "{error}");
        assert!(error.contains("line 7") || error.contains("line 8"), "{error}");
        let json = parse("x.json", b"{").unwrap_err();
        assert!(json[0].to_string().starts_with("x.json, document 1: EOF while parsing"), "{}", json[0]);
    }

    #[test]
    fn lists_are_expanded() {
        let item = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}"#;
        let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{item}, {item}]}}"#);
        for file in ["x.json", "x.yaml"] {
            let objects = parse(file, list.as_bytes()).unwrap();
            assert_eq!(objects[1].place.to_string(), format!("{file}, document 1, items[1]"));
        }
        let pods = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]}"#;
        assert!(matches!(parse("x.json", pods.as_bytes()).unwrap()[0].object, Object::Pod(_)));
        let broken = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": 1}}]}"#;
        assert_eq!(
            parse("x.json", broken.as_bytes()).unwrap_err()[0].field.as_deref(),
            Some("items[0].metadata.name")
        );
    }

    #[test]
    fn small_documents_may_use_aliases() {
        let text = format!("{POD}  labels: &l {{pillion.dev/netns: a}}\n  annotations: *l\n");
        let objects = parse("x.yaml", text.as_bytes()).unwrap();
        let Object::Pod(pod) = &objects[0].object else { panic!("no pod") };
        assert_eq!(pod.metadata.annotations["pillion.dev/netns"], "a");
    }

    // proves: SEC-2
    #[test]
    fn hostile_text_is_an_error() {
        let laughs = (0..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
            let next = i + 1;
            text + &format!("a{next}: &a{next} [{}]\n", vec![format!("*a{i}"); 10].join(","))
        });
        let big_alias = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1000].join(","));
        for hostile in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            (0..100_000).fold(String::new(), |text, i| text + &" ".repeat(i % 500) + "a:\n"),
            laughs,
            big_alias,
            "&a [*a]".to_owned(),
            format!("{POD}spec: {{nodeName: {}}}", "9".repeat(10_000)),
            format!("{POD}spec: {{nodeName: !!float .nan}}"),
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1e999}]}".to_owned(),
            format!("{POD}{POD}"),
            "\0\0\0".to_owned(),
        ] {
            assert!(parse("x.yaml", hostile.as_bytes()).is_err(), "{:.80}", hostile);
            assert!(parse("x.json", hostile.as_bytes()).is_err(), "{:.80}", hostile);
        }
        assert!(parse("x.yaml", &[0xff, 0xfe, 0, 1]).is_err());
    }

    // proves: SEC-2
    #[test]
    fn mutated_text_never_panics() {
        let seed = format!(
            "{POD}  labels: {{pillion.dev/capture: enabled}}\nstatus: {{podIPs: [{{ip: 10.0.0.1}}]}}\n---\n\
             apiVersion: v1\nkind: List\nitems:\n- &x\n  kind: Service\n  ports: [80, *x, 'a', |\n  b\n  ]\n---\n\
             apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\n\
             spec: {{selector: {{matchLabels: {{a: b}}}}, mtls: {{mode: STRICT}}, portLevelMtls: {{80: {{mode: UNSET}}}}}}\n---\n\
             apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec:\n  action: DENY\n\
             \x20 rules: [{{from: [{{source: {{principals: ['a*'], notIpBlocks: [10.0.0.0/8]}}}}], \
             to: [{{operation: {{ports: ['80']}}}}], when: [{{key: source.ip, values: ['fd00::/8']}}]}}]\n---\n\
             apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n}}\nspec:\n  podSelector:\n\
             \x20   matchExpressions: [{{key: a, operator: In, values: [b]}}]\n"
        );
        let tokens = [
            "---\n", "{", "}", "[", "]", "&a ", "*a", "<<: ", "!!int ", "\"", "'", "|\n", "\t", "\r",
            "\u{feff}", "1e9999", "? ", "- ", ": ",
        ];
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..3_000 {
            let mut text = seed.clone().into_bytes();
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..text.len());
                match random.random_range(0..4) {
                    0 => text[at] = random.random(),
                    1 => text.truncate(at + 1),
                    2 => drop(text.drain(at..(at + 9).min(text.len()))),
                    _ => drop(text.splice(at..at, tokens[random.random_range(0..tokens.len())].bytes())),
                }
                if text.is_empty() {
                    break;
                }
            }
            let _ = parse("x.yaml", &text);
            let _ = parse("x.json", &text);
        }
    }
}
