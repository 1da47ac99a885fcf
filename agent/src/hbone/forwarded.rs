//! The `forwarded` header (RFC 7239): which app's connection a stream carries.

use std::net::SocketAddr;

/// `for="10.0.0.1:4711"`, `for="[fd00::1]:4711"`.
pub fn format_forwarded(source: SocketAddr) -> String {
    format!("for=\"{source}\"")
}

/// The `for` address and port of the first hop; `None` when there is none or it has no port.
pub fn parse_forwarded(value: &str) -> Option<SocketAddr> {
    let first = value.split(',').next()?;
    first.split(';').find_map(|pair| {
        let (name, node) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| node.trim_matches('"').parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_written() {
        for address in ["10.88.1.2:43210", "[fd88:1::2]:43210"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(parse_forwarded(&format_forwarded(address)), Some(address));
        }
    }

    #[test]
    fn what_names_no_address_and_port_is_none() {
        for value in ["", "for=unknown", "for=10.0.0.1", "by=\"10.0.0.1:80\"", "for=\"[::1]\"", ";;=,"] {
            assert_eq!(parse_forwarded(value), None, "{value}");
        }
        assert!(parse_forwarded("proto=http;For=\"10.0.0.1:80\", for=\"10.0.0.2:80\"").is_some());
    }
}
