//! What a watch says, line by line: each line is an event of its own, and no line is read before it is known to be one.

use super::connect::chain;
use futures::{AsyncBufRead, AsyncBufReadExt};
use kube::core::Status;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;

/// The longest line that is read, in bytes. etcd takes 1.5 MiB for an object by default, and who lets it take more is told not to
/// pass 10 MiB.
const LONGEST: usize = 32 << 20;

/// The lines of a watch, as they come.
pub struct Lines {
    from: Pin<Box<dyn AsyncBufRead + Send>>,
}

impl Lines {
    pub fn new(from: impl AsyncBufRead + Send + 'static) -> Self {
        Self { from: Box::pin(from) }
    }

    /// The next line; `None` where the stream ends. A line that the end cuts short is none.
    ///
    /// # Errors
    /// When the stream fails, or a line is longer than 32 MiB.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let read = match self.from.fill_buf().await {
                Ok(read) => read,
                Err(error) if is_end(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if read.is_empty() {
                return Ok(None);
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&read[..end.unwrap_or(read.len())]);
            let taken = end.map_or(read.len(), |end| end + 1);
            self.from.as_mut().consume(taken);
            if line.len() > LONGEST {
                let message = format!("an event is longer than {} MiB", LONGEST >> 20);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

/// Whether the connection was only closed in the middle of a chunk: balancers end long connections so.
fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || chain(error).contains("unexpected EOF")
}

/// What a line says. Of an object it is the text.
#[derive(Debug)]
pub enum Event<'a> {
    Put(&'a str),
    Deleted(&'a str),
    Bookmark(Bookmark),
    /// The API server ends the watch.
    Error(Box<Status>),
}

#[derive(Debug)]
pub struct Bookmark {
    pub version: String,
    /// All objects that there were at the beginning have come.
    pub ends_list: bool,
}

impl<'a> Event<'a> {
    /// # Errors
    /// In words, when the line is no event.
    pub fn read(line: &'a [u8]) -> Result<Self, String> {
        let line = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        let Line { kind, object } = match serde_json::from_str(line) {
            Ok(line) => line,
            // Whoever stands before the API server answers so.
            Err(error) => {
                return serde_json::from_str(line).map(Self::Error).map_err(|_| error.to_string());
            }
        };
        match &*kind {
            "ADDED" | "MODIFIED" => Ok(Self::Put(object.get())),
            "DELETED" => Ok(Self::Deleted(object.get())),
            "BOOKMARK" => {
                let WrittenBookmark { metadata } =
                    serde_json::from_str(object.get()).map_err(|error| error.to_string())?;
                let ends_list = metadata
                    .annotations
                    .is_some_and(|annotations| annotations.contains_key("k8s.io/initial-events-end"));
                Ok(Self::Bookmark(Bookmark { version: metadata.resource_version, ends_list }))
            }
            "ERROR" => serde_json::from_str(object.get()).map(Self::Error).map_err(|error| error.to_string()),
            kind => Err(format!("{kind:?} is no kind of event")),
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct WrittenBookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
    annotations: Option<BTreeMap<String, IgnoredAny>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::io::Cursor;

    // proves: SEC-2
    #[test]
    fn an_object_that_is_nested_deep_is_an_event_like_others() {
        let deep = format!("{}{}", r#"{"a":"#.repeat(50_000) + "1", "}".repeat(50_000));
        let line = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"managedFields":[{deep}]}}}}}}"#);
        let Ok(Event::Put(object)) = Event::read(line.as_bytes()) else { panic!("no event") };
        assert!(object.contains("managedFields"));
    }

    #[test]
    fn each_kind_of_event_is_known() {
        let read = |line: &'static str| Event::read(line.as_bytes());
        assert!(matches!(read(r#"{"type":"MODIFIED","object":{}}"#), Ok(Event::Put("{}"))));
        assert!(matches!(read(r#"{"object":{},"type":"DELETED"}"#), Ok(Event::Deleted("{}"))));
        let bookmark = |annotations: &str| {
            let object = format!(r#"{{"metadata":{{"resourceVersion":"7"{annotations}}}}}"#);
            let line = format!(r#"{{"type":"BOOKMARK","object":{object}}}"#);
            let Ok(Event::Bookmark(bookmark)) = Event::read(line.as_bytes()) else { panic!("{line}") };
            (bookmark.version, bookmark.ends_list)
        };
        assert_eq!(bookmark(""), ("7".to_owned(), false));
        let ends = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;
        assert_eq!(bookmark(ends), ("7".to_owned(), true));
        let status = r#"{"status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        for line in [status.to_owned(), format!(r#"{{"type":"ERROR","object":{status}}}"#)] {
            let Ok(Event::Error(status)) = Event::read(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(status.code, 410);
        }
        for line in ["", "{", "7", r#"{"type":"SOMETHING","object":{}}"#] {
            assert!(read(line).is_err(), "{line}");
        }
        assert!(Event::read(&[0xff]).is_err());
    }

    #[tokio::test]
    async fn a_line_is_read_whole_and_no_longer_than_the_longest() {
        let mut lines = Lines::new(Cursor::new(b"one\n\ntwo\ncut sho".to_vec()));
        for expected in [Some("one"), Some(""), Some("two"), None] {
            let line = lines.next().await.unwrap().map(|line| String::from_utf8(line).unwrap());
            assert_eq!(line.as_deref(), expected);
        }
        let mut lines = Lines::new(Cursor::new(vec![b'x'; LONGEST + 2]));
        assert!(lines.next().await.unwrap_err().to_string().contains("32 MiB"));
    }
}
