//! The name under which istiod knows this cluster.

use http::HeaderValue;
use std::fmt;
use std::str::FromStr;

/// The metadata of a call that has it.
pub const CLUSTER_ID: &str = "clusterid";

/// Istio's cluster id: istiod's environment variable `CLUSTER_ID`, the value `global.multiCluster.clusterName` of its chart. istiod looks
/// up by it at which API server a token is to be checked and on which node a pod runs. A call without it can impersonate nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterId(HeaderValue);

impl ClusterId {
    /// What an installation of Istio has that says nothing else.
    pub const DEFAULT: &'static str = "Kubernetes";

    /// As the metadata of a call has it.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl FromStr for ClusterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_good = (1..=253).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let header = HeaderValue::from_str(text).ok().filter(|_| is_good);
        header.map(Self).ok_or_else(|| {
            format!(
                "a cluster id is 1 to 253 visible ASCII characters without a space, for example {}",
                Self::DEFAULT
            )
        })
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_is_one_word_and_is_sent_as_it_is() {
        for good in [ClusterId::DEFAULT, "east-1", "gke_shop_europe-west1_a", &"a".repeat(253)] {
            let id: ClusterId = good.parse().unwrap();
            assert_eq!(id.to_string(), good);
            assert_eq!(id.header(), good);
        }
        for bad in ["", "two words", "line\n", "größe", &"a".repeat(254)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad:?}");
        }
    }
}
