//! Which path answers what.

use super::introspect::{AuthzQuestion, Introspect, Probes, Vitals};
use super::server::Route;
use crate::telemetry::Logging;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::Value;
use std::sync::Arc;

type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

const GET: &[Method] = &[Method::GET, Method::HEAD];
const POST: &[Method] = &[Method::POST];
const GET_OR_POST: &[Method] = &[Method::GET, Method::HEAD, Method::POST];

/// `GET /config_dump`, `GET /authz`, `GET|POST /logging`, `POST /audit`.
pub struct Admin {
    pub node: Arc<dyn Introspect>,
    pub logging: Logging,
}

/// `GET /metrics`.
pub struct Metrics {
    pub node: Arc<dyn Vitals>,
}

/// `GET /healthz/live`, `GET /healthz/ready`.
pub struct Health {
    pub process: Arc<dyn Probes>,
}

impl Route for Admin {
    async fn route(&self, request: &Request<Incoming>) -> Answer {
        if let Some(answer) = self.panic(request).await {
            return answer;
        }
        let paths = [("/config_dump", GET), ("/authz", GET), ("/logging", GET_OR_POST), ("/audit", POST)];
        match path(request, &paths) {
            Ok("/config_dump") => json(&self.node.config_dump().await),
            Ok("/authz") => self.authz(request).await,
            Ok("/audit") => json(&self.node.audit().await),
            Ok(_) => self.logging(request),
            Err(answer) => *answer,
        }
    }
}

impl Admin {
    async fn authz(&self, request: &Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        let how = "ask for example for /authz?source=shop/web&destination=shop/cart&port=8080";
        let port = parameter(query, "port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        let (Some(source), Some(destination), Some(port)) =
            (parameter(query, "source"), parameter(query, "destination"), port)
        else {
            return text(StatusCode::BAD_REQUEST, how);
        };
        match self.node.authz(AuthzQuestion { source, destination, port }).await {
            Ok(answer) => json(&answer),
            Err(why) => text(StatusCode::NOT_FOUND, &why),
        }
    }

    /// `POST /panic?pod=shop/web`, or with `&in=task`; `None` for any other question, and where nobody may ask for it.
    async fn panic(&self, request: &Request<Incoming>) -> Option<Answer> {
        if request.uri().path() != "/panic" || request.method() != Method::POST {
            return None;
        }
        let query = request.uri().query().unwrap_or_default();
        let in_task = parameter(query, "in").as_deref() == Some("task");
        let done = self.node.panic(parameter(query, "pod").unwrap_or_default(), in_task).await?;
        Some(match done {
            Ok(()) => text(StatusCode::OK, "it panics"),
            Err(why) => text(StatusCode::NOT_FOUND, &why),
        })
    }

    fn logging(&self, request: &Request<Incoming>) -> Answer {
        if request.method() != Method::POST {
            return text(StatusCode::OK, &self.logging.directives());
        }
        let Some(level) = request.uri().query().and_then(|query| parameter(query, "level")) else {
            let how = "say which level, for example POST /logging?level=debug or ?level=info,h2=debug";
            return text(StatusCode::BAD_REQUEST, how);
        };
        match self.logging.set(&level) {
            Ok(()) => {
                tracing::info!("log filter is now {level}");
                text(StatusCode::OK, &self.logging.directives())
            }
            Err(error) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

impl Route for Metrics {
    async fn route(&self, request: &Request<Incoming>) -> Answer {
        match path(request, &[("/metrics", GET)]) {
            Ok(_) => answer(StatusCode::OK, METRICS, self.node.metrics().await),
            Err(answer) => *answer,
        }
    }
}

impl Route for Health {
    async fn route(&self, request: &Request<Incoming>) -> Answer {
        match path(request, &[("/healthz/live", GET), ("/healthz/ready", GET)]) {
            Ok("/healthz/live") => probed(self.process.live().map(|()| "live".to_owned())),
            Ok(_) => probed(self.process.ready()),
            Err(answer) => *answer,
        }
    }
}

/// The path that is asked for, or the answer that there is none such.
fn path<'a>(request: &Request<Incoming>, paths: &[(&'a str, &[Method])]) -> Result<&'a str, Box<Answer>> {
    let Some((path, methods)) = paths.iter().find(|(path, _)| *path == request.uri().path()) else {
        let all: Vec<&str> = paths.iter().map(|(path, _)| *path).collect();
        let what = format!("there is nothing here; there is {}", all.join(", "));
        return Err(Box::new(text(StatusCode::NOT_FOUND, &what)));
    };
    if methods.contains(request.method()) {
        return Ok(path);
    }
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let methods = methods.join(", ");
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{path} is asked by {methods}"));
    if let Ok(value) = HeaderValue::try_from(methods) {
        answer.headers_mut().insert(ALLOW, value);
    }
    Err(Box::new(answer))
}

/// The value of a parameter in a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    percent_decoded(value)
}

/// Clients write `=` and `,` in a query as they are, or escaped (`curl --data-urlencode`).
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// A probe's answer: the kubelet looks at the status, people read.
fn probed(answer: Result<String, String>) -> Answer {
    match answer {
        Ok(said) => text(StatusCode::OK, &said),
        Err(said) => text(StatusCode::SERVICE_UNAVAILABLE, &said),
    }
}

fn text(status: StatusCode, line: &str) -> Answer {
    answer(status, TEXT, format!("{line}\n"))
}

fn json(value: &Value) -> Answer {
    answer(StatusCode::OK, JSON, format!("{value:#}\n"))
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_from_the_query() {
        assert_eq!(parameter("level=debug", "level").as_deref(), Some("debug"));
        assert_eq!(parameter("x=1&level=info,h2=debug", "level").as_deref(), Some("info,h2=debug"));
        assert_eq!(parameter("level=info%2Ch2%3ddebug", "level").as_deref(), Some("info,h2=debug"));
        for bad in ["", "lev=debug", "level=%", "level=%4", "level=%zz", "level=%+1", "level=%ff", "level=%ä"]
        {
            assert_eq!(parameter(bad, "level"), None, "{bad}");
        }
    }
}
