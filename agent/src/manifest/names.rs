//! What Kubernetes accepts as a name. Names end up in SPIFFE identities, so nothing else gets through.

/// A DNS-1123 label, as namespaces have: at most 63 of `a-z`, `0-9` and `-`, no dash at either end.
pub fn is_label(s: &str) -> bool {
    s.len() <= 63 && is_part(s)
}

/// A DNS-1123 subdomain, as pods and service accounts have: parts joined by dots, at most 253 characters.
/// (Kubernetes limits the length of the whole, not that of a part.)
pub fn is_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_part)
}

fn is_part(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.bytes().all(allowed) && !s.starts_with('-') && !s.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_accepts() {
        for good in ["a", "0", "shop", "shop-1", &"a".repeat(63)] {
            assert!(is_label(good) && is_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", "ä", "a\n", "a%2fb"] {
            assert!(!is_label(bad) && !is_subdomain(bad), "{bad}");
        }
        assert!(is_subdomain("web-0.v1") && !is_label("web-0.v1"));
        assert!(is_subdomain(&"a".repeat(253)) && !is_label(&"a".repeat(64)));
        for bad in [".a", "a.", "a..b", "a.-b", &"a".repeat(254)] {
            assert!(!is_subdomain(bad), "{bad}");
        }
    }
}
