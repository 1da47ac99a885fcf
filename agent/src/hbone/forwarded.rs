//! The `forwarded` header (RFC 7239): which app's connection a stream carries.

use std::net::{IpAddr, SocketAddr};

/// `for="10.0.0.1:4711"`, `for="[fd00::1]:4711"`.
pub fn format_forwarded(source: SocketAddr) -> String {
    format!("for=\"{source}\"")
}

/// The `for` address and port of the first hop. IPv4-mapped addresses come out as IPv4.
///
/// `None` where there is none, or none that a connection can come from: the port is missing or 0, the address names a zone
/// (`%eth0`), or it is a loopback, multicast, broadcast or unspecified address.
pub fn parse_forwarded(value: &str) -> Option<SocketAddr> {
    let first = value.split(',').next()?;
    let named = first.split(';').find_map(|pair| {
        let (name, node) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then(|| node.trim_matches('"'))
    })?;
    let named: SocketAddr = named.parse().ok().filter(|_| !named.contains('%'))?;
    let (ip, port) = (named.ip().to_canonical(), named.port());
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let is_of_nobody = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_broadcast;
    (port != 0 && !is_of_nobody).then_some(SocketAddr::new(ip, port))
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
        let mapped = parse_forwarded("for=\"[::ffff:10.88.1.2]:43210\"");
        assert_eq!(mapped, Some("10.88.1.2:43210".parse().unwrap()), "a mapped address is its IPv4 address");
    }

    #[test]
    fn what_names_no_address_and_port_is_none() {
        for value in ["", "for=unknown", "for=10.0.0.1", "by=\"10.0.0.1:80\"", "for=\"[::1]\"", ";;=,"] {
            assert_eq!(parse_forwarded(value), None, "{value}");
        }
        // proves: SEC-3
        for address in [
            "10.0.0.1:0",
            "[fd00::1]:0",
            "[fe80::1%7]:80",
            "[fe80::1%0]:80",
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(parse_forwarded(&format!("for=\"{address}\"")), None, "{address}");
        }
        assert!(parse_forwarded("proto=http;For=\"10.0.0.1:80\", for=\"10.0.0.2:80\"").is_some());
    }
}
