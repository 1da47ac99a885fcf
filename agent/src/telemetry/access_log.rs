//! One line of JSON for each connection, once it is over.

use super::authorization::AuthorizationLog;
use super::connection::ConnectionSecurity;
use super::lines::Lines;
use crate::mesh::{PodName, SpiffeId};
use prometheus::IntCounter;
use serde::{Serialize, Serializer};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What is told of a connection. Bytes are meant as in the metrics: sent is from the server to the client.
#[derive(Debug, Serialize)]
pub struct AccessLogEntry<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub start: OffsetDateTime,
    pub duration_ms: u64,
    /// `source` or `destination`.
    #[serde(serialize_with = "reporter")]
    pub reporter: super::Reporter,
    /// The pod whose end is told of.
    #[serde(serialize_with = "text")]
    pub pod: &'a PodName,
    pub direction: Direction,
    pub source_address: SocketAddr,
    pub source_principal: Option<&'a SpiffeId>,
    pub source_workload: Option<&'a str>,
    /// What the app asked for.
    pub destination_address: SocketAddr,
    /// Where the connection went; `None` where it did not get that far.
    pub upstream_address: Option<SocketAddr>,
    pub destination_principal: Option<&'a SpiffeId>,
    pub destination_workload: Option<&'a str>,
    /// The Service's host name, where the app asked for one.
    pub destination_service: Option<&'a str>,
    pub connection_security_policy: ConnectionSecurity,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Envoy's; `-` where nothing went wrong.
    pub response_flags: &'a str,
    pub error: Option<&'a str>,
    /// What the destination's policies said, at the destination's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<&'a AuthorizationLog>,
    /// What the kernel says of a direct connection when it is over: the smoothed round trip time, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtt_us: Option<u32>,
    /// The segments that the pod's end of a direct connection has sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
}

/// A connection's direction, seen from the pod whose end is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Outbound,
    Inbound,
}

/// The way to the log; clones lead to the same.
#[derive(Clone)]
pub struct AccessLog(Lines);

impl AccessLog {
    /// Starts the thread that writes to `output`. Lines that come faster than they are written are dropped and
    /// counted by `dropped`: a reader that stalls must not stall the pods.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(output: impl Write + Send + 'static, dropped: IntCounter) -> io::Result<Self> {
        Lines::start("access-log", output, dropped).map(Self)
    }

    /// Writes a line soon, or drops it. Never waits.
    pub fn log(&self, entry: &AccessLogEntry<'_>) {
        match serde_json::to_vec(entry) {
            Ok(mut line) => {
                line.push(b'\n');
                self.0.write(line);
            }
            Err(_) => self.0.drop_line(),
        }
    }

    /// Waits until what was logged is written, for the end of the process; at most `timeout`, since the reader
    /// may have stalled. Says whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.0.flush(timeout)
    }
}

fn rfc3339<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    // Microseconds are what a log is read for.
    let time = time.replace_microsecond(time.microsecond()).unwrap_or(*time);
    serializer.serialize_str(&time.format(&Rfc3339).map_err(serde::ser::Error::custom)?)
}

fn reporter<S: Serializer>(reporter: &super::Reporter, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reporter.as_str())
}

fn text<S: Serializer>(name: &PodName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Reporter;
    use crate::telemetry::lines::WAITING_LINES;
    use serde_json::{Value, json};
    use std::sync::{Arc, Barrier, Mutex};

    fn entry(pod: &PodName) -> AccessLogEntry<'_> {
        AccessLogEntry {
            start: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap(),
            duration_ms: 12,
            reporter: Reporter::Source,
            pod,
            direction: Direction::Outbound,
            source_address: "10.0.0.1:40000".parse().unwrap(),
            source_principal: None,
            source_workload: Some("cart"),
            destination_address: "[fd00:96::1]:80".parse().unwrap(),
            upstream_address: None,
            destination_principal: None,
            destination_workload: None,
            destination_service: None,
            connection_security_policy: ConnectionSecurity::MutualTls,
            bytes_sent: 1,
            bytes_received: 2,
            response_flags: "UH",
            error: Some("service shop/db\nhas none"),
            authorization: None,
            srtt_us: None,
            retransmits: None,
        }
    }

    fn pod() -> PodName {
        PodName { namespace: "shop".into(), name: "cart-0".into() }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // proves: TEL-2
    #[test]
    fn a_connection_is_one_line_of_json() {
        let output = Output::default();
        let log = AccessLog::start(output.clone(), counter()).unwrap();
        log.log(&entry(&pod()));
        log.log(&entry(&pod()));
        assert!(log.flush(Duration::from_secs(5)));
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(
            line,
            json!({
                "start": "2023-11-14T22:13:20.123456Z", "duration_ms": 12, "reporter": "source", "pod": "shop/cart-0",
                "direction": "outbound", "source_address": "10.0.0.1:40000", "source_principal": null,
                "source_workload": "cart", "destination_address": "[fd00:96::1]:80", "upstream_address": null,
                "destination_principal": null, "destination_workload": null, "destination_service": null,
                "connection_security_policy": "mutual_tls", "bytes_sent": 1, "bytes_received": 2,
                "response_flags": "UH", "error": "service shop/db\nhas none",
            })
        );
    }

    /// Stalls in its first write until the test lets it go.
    struct Stalled(Arc<Barrier>, bool);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !std::mem::replace(&mut self.1, true) {
                self.0.wait();
                self.0.wait();
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
        let (barrier, dropped) = (Arc::new(Barrier::new(2)), counter());
        let log = AccessLog::start(Stalled(barrier.clone(), false), dropped.clone()).unwrap();
        log.log(&entry(&pod()));
        barrier.wait();
        for _ in 0..WAITING_LINES + 10 {
            log.log(&entry(&pod()));
        }
        assert_eq!(dropped.get(), 10);
        barrier.wait();
        while !log.flush(Duration::from_secs(5)) {}
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_reader_that_is_gone_ends_the_log_and_nothing_else() {
        let dropped = counter();
        let log = AccessLog::start(Gone, dropped.clone()).unwrap();
        log.log(&entry(&pod()));
        assert!(log.flush(Duration::from_secs(5)));
        log.log(&entry(&pod()));
    }
}
