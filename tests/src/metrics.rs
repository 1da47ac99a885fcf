//! Prometheus' text format, read back.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// Everything one scrape gave.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line| sample(line).with_context(|| format!("not a sample of Prometheus: {line:?}"));
        Ok(Self(lines.map(sample).collect::<Result<_>>()?))
    }

    /// The samples of that name that have all of `labels`.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == *value)
        })
    }

    /// The sum of the samples of that name that have all of `labels`; 0 where there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }
}

impl Sample {
    /// The label's value; empty where the sample has none (to Prometheus it is the same).
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = label_value(after)?;
            labels.insert(key.trim().to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Unescapes up to the closing quote; gives what follows it.
fn label_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (end, '"') => return Some((value, &text[end + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, plain) => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_escapes_and_without_labels_are_read() {
        let text = "# HELP a b\na 1\nb{x=\"1,}\\\"\",y=\"\\\\\\n\"} 2.5\nb{x=\"2\",} +Inf 17\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a", &[]), 1.0);
        assert_eq!(metrics.sum("b", &[("x", "1,}\""), ("y", "\\\n")]), 2.5);
        assert_eq!(metrics.sum("b", &[("x", "2"), ("z", "")]), f64::INFINITY);
        assert_eq!(metrics.sum("b", &[("x", "3")]), 0.0);
        assert!(Metrics::parse("b{x=\"1} 2").is_err());
    }
}
