//! Keeps one resource current: all of it once, then what changes, across whatever befalls the connection.
//!
//! A watch goes on from the version that was heard last, for which bookmarks keep it fresh; where the API server no longer
//! has that version (410 Gone) everything is heard anew. It is heard as a stream of events where the API server does so
//! (Kubernetes 1.34 by default), which spares it and us the whole list at once; else in pages.

use super::backoff::Backoff;
use super::connect::chain;
use super::lines::{Event, Lines};
use super::resources::Resource;
use super::value::{self, Unreadable};
use kube::Client;
use rand::Rng;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// The API server sends a bookmark a minute: a connection that brings nothing for so long is dead, though nobody closed it.
const SILENCE: Duration = Duration::from_secs(150);

/// How long the API server lets a watch live (client-go's own bounds): the nodes of a cluster come back one by one.
const LIFETIME: std::ops::Range<u64> = 300..600;

/// A connection that lived so long was a good one, whatever ended it.
const GOOD: Duration = Duration::from_secs(10);

/// After so long without a word, with a connection at the end that was made and brought nothing, the version that was heard last is
/// not believed any more: an API server whose store was restored from an older copy has not come to it yet, and says nothing
/// until it has. Every watch brings a bookmark a minute.
const DOUBTFUL: Duration = Duration::from_secs(90);

const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How often a resource is looked for that the cluster does not have.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);

/// How long a resource that was there has to be missing until its objects are taken for gone: an API server that comes up
/// may not know of it yet, and no policy may fall with it.
const SETTLED: Duration = Duration::from_secs(30);

/// How many objects one answer has; client-go's own number.
const PAGE: usize = 500;

/// An object as whoever follows it wants it.
pub trait Heard: Send + Sized + 'static {
    /// Reads an object. `unreadable` are the fields that cannot be read; in `value` they are `true`. `None` for what says nothing
    /// to whoever follows it.
    fn read(resource: &Resource, value: Value, unreadable: &[Unreadable]) -> Option<Self>;
}

/// News of one resource, by its index.
pub struct News<T> {
    pub resource: usize,
    pub what: What<T>,
}

pub enum What<T> {
    /// All objects there are.
    All(Vec<T>),
    Put(T),
    Deleted(T),
    Connected,
    /// Everything up to now has been heard, and there was nothing of it.
    Current,
    /// The connection failed, which says nothing about the objects.
    Disconnected(String),
    /// The cluster does not have this resource: there are no objects of it.
    Absent,
}

/// Why a connection ended that should not have.
enum Failure {
    /// The version from which to go on is no longer there.
    Gone,
    /// The API server does not know the resource; what it said.
    Absent(String),
    /// It does not give a list as a stream.
    NoStreams,
    Other(String),
    /// Nobody listens.
    Ended,
}

/// Follows a resource until nobody listens any more. `was_there` says whether objects of it were known before: then a cluster that
/// does not have the resource is not believed at once.
pub async fn follow<T: Heard>(
    client: Client,
    index: usize,
    resource: &'static Resource,
    was_there: bool,
    news: mpsc::Sender<News<T>>,
) {
    follow_doubting(client, index, resource, was_there, news, DOUBTFUL).await;
}

async fn follow_doubting<T: Heard>(
    client: Client,
    index: usize,
    resource: &'static Resource,
    was_there: bool,
    news: mpsc::Sender<News<T>>,
    doubtful: Duration,
) {
    let mut watch = Watch {
        client,
        index,
        resource,
        news,
        version: None,
        streams: true,
        was_heard: was_there,
        missing_since: None,
        is_made: false,
        says_something: false,
        heard: Instant::now(),
        doubtful,
    };
    let (mut failures, mut absences) = (Backoff::up_to(LONGEST_WAIT), Backoff::up_to(LONGEST_ABSENCE));
    loop {
        let begun = Instant::now();
        let result = watch.connection().await;
        watch.doubt();
        if begun.elapsed() >= GOOD {
            failures.reset();
            absences.reset();
        }
        let (told, wait) = match result {
            Ok(()) if begun.elapsed() >= GOOD => continue,
            Ok(()) if watch.says_something => (Ok(()), failures.wait()),
            Ok(()) => {
                let nothing = "the API server has ended the watch at once".to_owned();
                (watch.tell(What::Disconnected(nothing)).await, failures.wait())
            }
            Err(Failure::Gone) if watch.version.is_none() => {
                let nothing = "410: the API server does not say what there is".to_owned();
                (watch.tell(What::Disconnected(nothing)).await, failures.wait())
            }
            Err(Failure::Gone) => {
                tracing::info!(
                    resource = resource.name,
                    "the API server has forgotten where the watch was: all is heard anew"
                );
                watch.version = None;
                (Ok(()), failures.wait())
            }
            Err(Failure::NoStreams) => {
                watch.streams = false;
                continue;
            }
            Err(Failure::Absent(error)) => {
                let told = match watch.is_gone() {
                    true => watch.tell(What::Absent).await,
                    false => watch.tell(What::Disconnected(error)).await,
                };
                (told, absences.wait())
            }
            Err(Failure::Other(error)) => (watch.tell(What::Disconnected(error)).await, failures.wait()),
            Err(Failure::Ended) => return,
        };
        if told.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

struct Watch<T> {
    client: Client,
    index: usize,
    resource: &'static Resource,
    news: mpsc::Sender<News<T>>,
    /// The version up to which everything has been heard; `None` before, and when it has to be heard anew.
    version: Option<String>,
    /// Whether the API server gives a list as a stream, as far as is known.
    streams: bool,
    /// Whether objects of it may be known.
    was_heard: bool,
    /// Since when the API server has not known the resource.
    missing_since: Option<Instant>,
    /// Whether the last connection came as far as a stream of events.
    is_made: bool,
    /// Whether the last connection has brought an event.
    says_something: bool,
    /// When an event was brought last.
    heard: Instant,
    /// After how long without an event the version is doubted.
    doubtful: Duration,
}

impl<T: Heard> Watch<T> {
    /// One connection, until it ends.
    async fn connection(&mut self) -> Result<(), Failure> {
        if self.version.is_none() && !self.streams {
            self.list().await?;
        }
        let mut request = self.get(&self.watch_query())?;
        // The client reads the first event alone of a stream that is compressed event by event.
        request
            .headers_mut()
            .insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
        self.says_something = false;
        self.is_made = false;
        let stream = in_time(self.client.request_stream(request)).await?;
        let mut lines = Lines::new(stream.map_err(|error| self.failure(&error))?);
        (self.was_heard, self.missing_since, self.is_made) = (true, None, true);
        self.tell(What::Connected).await?;
        // What comes before the bookmark that ends it is all there is.
        let mut all = self.version.is_none().then(Vec::new);
        loop {
            // Whoever takes up a version owes a bookmark within a minute, as all do.
            let within = if all.is_none() && !self.says_something { self.doubtful } else { SILENCE };
            let line =
                within_time(within, lines.next()).await?.map_err(|error| Failure::Other(chain(&error)))?;
            let Some(line) = line else { return Ok(()) };
            let event = Event::read(&line).map_err(|error| {
                Failure::Other(format!("the API server says what is no event of a watch: {error}"))
            })?;
            self.heard = Instant::now();
            let (object, is_deleted) = match event {
                Event::Put(object) => (object, false),
                Event::Deleted(object) => (object, true),
                Event::Bookmark(bookmark) => {
                    self.says_something = true;
                    match all.take() {
                        Some(all) if bookmark.ends_list => self.tell(What::All(all)).await?,
                        Some(unended) => {
                            all = Some(unended);
                            continue;
                        }
                        None => self.tell(What::Current).await?,
                    }
                    self.version = Some(bookmark.version);
                    continue;
                }
                Event::Error(status) => return Err(self.failure(&kube::Error::Api(status))),
            };
            self.says_something = true;
            let (value, unreadable) = value::read(object);
            let version =
                value.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
            let item = T::read(self.resource, value, &unreadable);
            match (&mut all, item) {
                (Some(all), item) => all.extend(item),
                (None, Some(item)) if is_deleted => self.tell(What::Deleted(item)).await?,
                (None, Some(item)) => self.tell(What::Put(item)).await?,
                (None, None) => self.tell(What::Current).await?,
            }
            if all.is_none() {
                self.version = version.or(self.version.take());
            }
        }
    }

    /// Hears everything in pages.
    async fn list(&mut self) -> Result<(), Failure> {
        let mut all = Vec::new();
        let mut rest = String::new();
        loop {
            let mut query = self.query();
            query.push(("limit", PAGE.to_string()));
            if !rest.is_empty() {
                query.push(("continue", rest));
            }
            let text = in_time(self.client.request_text(self.get(&query)?)).await?;
            let text = text.map_err(|error| self.failure(&error))?;
            let page: Page<'_> = serde_json::from_str(&text).map_err(|error| {
                Failure::Other(format!("the API server says what is no list of objects: {error}"))
            })?;
            for item in page.items {
                let (value, unreadable) = value::read(item.get());
                all.extend(T::read(self.resource, value, &unreadable));
            }
            rest = page.metadata.rest;
            if rest.is_empty() {
                self.version = Some(page.metadata.resource_version);
                return self.tell(What::All(all)).await;
            }
        }
    }

    /// Forgets the version where the API server has taken it and said nothing since, so that all is heard anew.
    fn doubt(&mut self) {
        if self.is_made
            && !self.says_something
            && self.version.is_some()
            && self.heard.elapsed() >= self.doubtful
        {
            tracing::warn!(
                resource = self.resource.name,
                "the API server says nothing of what came after the version that was heard last: all is heard anew"
            );
            self.version = None;
        }
    }

    /// Whether a resource that the API server does not know is to be taken for gone.
    fn is_gone(&mut self) -> bool {
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        if self.was_heard && since.elapsed() < SETTLED {
            return false;
        }
        (self.was_heard, self.version) = (false, None);
        true
    }

    fn query(&self) -> Vec<(&'static str, String)> {
        self.resource.fields.iter().map(|fields| ("fieldSelector", (*fields).to_owned())).collect()
    }

    fn watch_query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.query();
        query.push(("watch", "true".to_owned()));
        query.push(("allowWatchBookmarks", "true".to_owned()));
        query.push(("timeoutSeconds", rand::rng().random_range(LIFETIME).to_string()));
        match &self.version {
            Some(version) => query.push(("resourceVersion", version.clone())),
            None => {
                query.push(("sendInitialEvents", "true".to_owned()));
                query.push(("resourceVersionMatch", "NotOlderThan".to_owned()));
            }
        }
        query
    }

    fn get(&self, query: &[(&str, String)]) -> Result<http::Request<Vec<u8>>, Failure> {
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
        let uri = format!("{}?{}", self.resource.path, query.join("&"));
        http::Request::get(uri).body(vec![]).map_err(|error| Failure::Other(error.to_string()))
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        let kube::Error::Api(status) = error else { return Failure::Other(chain(error)) };
        match status.code {
            410 => Failure::Gone,
            404 if self.resource.may_be_absent => Failure::Absent(format!("404 {}", status.message)),
            400 | 422 if self.version.is_none() && self.streams => Failure::NoStreams,
            code => Failure::Other(format!("{code} {}", status.message)),
        }
    }

    async fn tell(&self, what: What<T>) -> Result<(), Failure> {
        self.news.send(News { resource: self.index, what }).await.map_err(|_| Failure::Ended)
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Failure> {
    within_time(SILENCE, answer).await
}

async fn within_time<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    let answer = timeout(limit, answer).await;
    answer.map_err(|_| Failure::Other(format!("nothing was heard for {} s", limit.as_secs())))
}

/// One page of a list. Its items are read one by one: of their text as values there is never more than one.
#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    /// Where the next page begins; empty on the last.
    #[serde(default, rename = "continue")]
    rest: String,
}

/// What a query may not hold as it is.
fn escaped(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
