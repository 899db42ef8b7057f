//! Samples of a metrics page.

use anyhow::{Context, Result};

/// The samples of a metrics page at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<Sample>);

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, with suffixes such as `_total`.
    pub name: String,
    /// The labels in the order written.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find_map(|(label, value)| (label == name).then_some(value.as_str()))
    }
}

impl Metrics {
    /// Reads the Prometheus or OpenMetrics text format.
    ///
    /// # Errors
    /// When a line is neither a comment nor a sample.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples =
            lines.map(|line| sample(line).with_context(|| format!("not a sample: {line}")));
        samples.collect::<Result<_>>().map(Self)
    }

    /// The samples of a name that have all these labels.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            let has = |&(label, value): &(&str, &str)| sample.label(label) == Some(value);
            sample.name == name && labels.iter().all(has)
        })
    }

    /// The sum of the samples of a name that have all these labels; 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(name_end)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    Some(Sample {
        name: name.into(),
        labels,
        value: rest.split_ascii_whitespace().next()?.parse().ok()?,
    })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.strip_prefix(',').unwrap_or(rest);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name.into(), value));
        rest = after;
    }
}

/// A value up to its closing quote, with `\\`, `\"` and `\n` resolved, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let text = "# HELP a x\n# TYPE a counter\na_total{x=\"1\",y=\"q\\\"u, o}te\"} 2\na_total{x=\"2\"} 3.5 1700\nb 1e3\n# EOF\n";
        let metrics = Metrics::parse(text).unwrap();
        assert_eq!(metrics.sum("a_total", &[]), 5.5);
        assert_eq!(
            metrics.sum("a_total", &[("x", "1"), ("y", "q\"u, o}te")]),
            2.0
        );
        assert_eq!(metrics.sum("a_total", &[("x", "3")]), 0.0);
        assert_eq!(metrics.sum("b", &[]), 1000.0);
        assert!(Metrics::parse("nonsense").is_err());
        assert!(Metrics::parse("a{x=\"1} 2").is_err());
    }
}
