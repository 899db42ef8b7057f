//! What is told of the requests to a destination, of all that is said about that.

use std::collections::BTreeMap;

use tracing::warn;
use tulle_facts::{Expression, Facts, Format, Kept};
use tulle_model::telemetry::{
    CollectorRef, LogFormat, LogLine, Metric, MetricChange, SpanTag, Telemetry, Tracing,
};

use super::{
    collectors::{Collectors, Spans},
    labels::Label,
    standard::Wanted,
};

/// What is told.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Traces are not as they came.
    pub(crate) traces: Option<Traces>,
    /// Metrics are not as usual.
    pub(super) changes: Option<Changes>,
    pub(super) lines: Lines,
    /// What has to be kept of requests for that.
    pub(crate) keeps: Kept,
}

/// Which requests are traced, and who is told.
#[derive(Debug)]
pub(crate) struct Traces {
    pub(crate) spans: Spans,
    /// Millionths of requests that nobody has decided about before.
    pub(crate) sampling: u32,
    /// Endpoints learn of it.
    pub(crate) is_passed_on: bool,
    /// Spans say who the mesh knows the two sides as.
    pub(crate) with_parties: bool,
    pub(crate) tags: Vec<(String, Tag)>,
}

/// What a span says besides.
#[derive(Debug)]
pub(crate) enum Tag {
    Literal(String),
    Format(Format, Option<String>),
}

/// Which lines are written.
#[derive(Debug, Default)]
pub(super) enum Lines {
    /// One for each, as usual.
    #[default]
    Usual,
    These(Vec<Line>),
}

/// A line, of requests of which something is true.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) filter: Option<Expression>,
    /// As usual, if absent.
    pub(super) format: Option<Format>,
}

/// How metrics differ from what they would be.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<u8, Change>);

/// How one differs.
#[derive(Debug, Default)]
struct Change {
    disabled: bool,
    /// What they say; those that say nothing are not there.
    labels: BTreeMap<String, Option<Expression>>,
}

impl Plan {
    /// Of all that is said, from the widest to the narrowest.
    pub(crate) fn new(said: &[&Telemetry], collectors: &Collectors) -> Self {
        let traces = traces(said, collectors);
        let changes = Changes::new(said.iter().flat_map(|said| &said.metrics));
        let lines = said.iter().rev().find_map(|said| said.logging.as_deref());
        let mut plan = Self {
            traces,
            changes: (!changes.0.is_empty()).then_some(changes),
            lines: lines.map_or(Lines::Usual, |lines| {
                Lines::These(lines.iter().filter_map(line).collect())
            }),
            keeps: Kept::default(),
        };
        plan.keeps = plan.needs();
        plan
    }

    fn needs(&self) -> Kept {
        let tags = self.traces.iter().flat_map(|traces| &traces.tags);
        let tags = tags.map(|(_, tag)| match tag {
            Tag::Literal(_) => Kept::default(),
            Tag::Format(format, _) => format.keeps(),
        });
        let changes = self.changes.iter().flat_map(|changes| changes.0.values());
        let labels = changes.flat_map(|change| change.labels.values().flatten());
        let lines = match &self.lines {
            Lines::Usual => [].as_slice(),
            Lines::These(lines) => lines,
        };
        let filters = lines.iter().filter_map(|line| line.filter.as_ref());
        let formats = lines.iter().filter_map(|line| line.format.as_ref());
        let all = tags.chain(labels.chain(filters).map(Expression::keeps));
        all.chain(formats.map(Format::keeps))
            .fold(Kept::default(), Kept::or)
    }
}

/// Each thing as the narrowest says that says anything of it. If nobody is told, nothing is made of traces: endpoints would be told of
/// parents that nobody knows.
fn traces(said: &[&Telemetry], collectors: &Collectors) -> Option<Traces> {
    let narrowest = |says: fn(&Tracing) -> bool| said.iter().rev().find(|said| says(&said.tracing));
    let of = |says| narrowest(says).map(|said| &said.tracing);
    let silent = of(|tracing| tracing.silent.is_some()).and_then(|tracing| tracing.silent);
    let collector = match of(|tracing| tracing.collector.is_some())?
        .collector
        .as_ref()?
    {
        CollectorRef::Collector(one) if silent != Some(true) => one,
        CollectorRef::Collector(_) | CollectorRef::Unusable => return None,
    };
    let sampling = of(|tracing| tracing.sampling.is_some()).and_then(|tracing| tracing.sampling);
    let kept_back = of(|tracing| tracing.kept_back.is_some()).and_then(|of| of.kept_back);
    let with_parties = of(|tracing| tracing.with_parties.is_some()).and_then(|of| of.with_parties);
    let tags = of(|tracing| tracing.tags.is_some()).and_then(|tracing| tracing.tags.as_ref());
    let tags = tags.into_iter().flatten();
    Some(Traces {
        spans: collectors.spans(collector),
        sampling: sampling.unwrap_or(SAMPLING),
        is_passed_on: kept_back != Some(true),
        with_parties: with_parties != Some(false),
        tags: tags
            .filter_map(|(name, written)| Some((name.clone(), tag(written)?)))
            .collect(),
    })
}

fn tag(written: &SpanTag) -> Option<Tag> {
    match written {
        SpanTag::Literal(text) => Some(Tag::Literal(text.clone())),
        SpanTag::Environment { name, otherwise } => {
            let value = std::env::var(name).ok();
            value.or_else(|| otherwise.clone()).map(Tag::Literal)
        }
        SpanTag::Format { format, otherwise } => match Format::text(format) {
            Ok(format) => Some(Tag::Format(format, otherwise.clone())),
            Err(error) => {
                warn!(%error, "a tag of spans that cannot be understood is left out");
                None
            }
        },
    }
}

/// `None` for one that cannot be understood: a line of other requests than was meant would tell what it is not to.
fn line(written: &LogLine) -> Option<Line> {
    let filter = written.filter.as_deref().map(Expression::new).transpose();
    let format = written.format.as_ref().map(|format| match format {
        LogFormat::Text(text) => Format::text(text),
        LogFormat::Labels { labels, leaves_out } => Format::labels(labels, *leaves_out),
    });
    match (filter, format.transpose()) {
        (Ok(filter), Ok(format)) => Some(Line { filter, format }),
        (filter, format) => {
            let why = filter.err().map(|error| error.to_string());
            let why = why.or(format.err().map(|error| error.to_string()));
            warn!(
                error = why,
                "a line of the access log that cannot be understood is left out"
            );
            None
        }
    }
}

impl Changes {
    fn new<'a>(written: impl Iterator<Item = &'a MetricChange>) -> Self {
        let mut changes = Self::default();
        for change in written {
            let labels = compiled(&change.labels);
            let one = change.metric.map(|metric| vec![metric]);
            for metric in one.unwrap_or(ALL.to_vec()) {
                let of = changes.0.entry(metric as u8).or_default();
                of.disabled = change.disabled.unwrap_or(of.disabled);
                of.labels.extend(labels.clone());
            }
        }
        changes
    }

    /// What a metric is told with, if it is there.
    pub(super) fn labels(
        &self,
        metric: Metric,
        usual: &[Label],
        facts: &dyn Facts,
    ) -> Option<Wanted> {
        match self.0.get(&(metric as u8)) {
            Some(change) if change.disabled => None,
            Some(change) if !change.labels.is_empty() => Some(change.apply(usual, facts)),
            Some(_) | None => Some(Wanted::usual(usual.to_vec())),
        }
    }
}

impl Change {
    /// What is told instead: other values in the places of the usual ones, and what is new behind them.
    fn apply(&self, usual: &[Label], facts: &dyn Facts) -> Wanted {
        let made = |says: &Expression| {
            let value = says.text(facts).unwrap_or_else(|| UNKNOWN.to_owned());
            cut(value)
        };
        let (mut labels, mut overflow) = (Vec::new(), Vec::new());
        for label @ (name, _) in usual {
            match self.labels.get(&**name) {
                None => {
                    labels.push(label.clone());
                    overflow.push(label.clone());
                }
                Some(Some(says)) => {
                    labels.push((name.clone(), made(says)));
                    overflow.push((name.clone(), OTHERS.to_owned()));
                }
                Some(None) => {}
            }
        }
        let is_new = |name: &&String| !usual.iter().any(|(usual, _)| **usual == **name);
        for name in self.labels.keys().filter(is_new) {
            if let Some(Some(says)) = self.labels.get(name) {
                labels.push((name.clone().into(), made(says)));
                overflow.push((name.clone().into(), OTHERS.to_owned()));
            }
        }
        Wanted {
            labels,
            is_bounded: !self.labels.values().any(Option::is_some),
            overflow,
        }
    }
}

/// What labels say, or that they are not there. One that cannot be understood is as usual.
fn compiled(written: &BTreeMap<String, Option<String>>) -> Vec<(String, Option<Expression>)> {
    let labels = written.iter().filter_map(|(name, says)| {
        let made = says.as_deref().map(Expression::new).transpose();
        match made {
            Ok(made) => Some((name.clone(), made)),
            Err(error) => {
                warn!(%error, label = name, "a label that cannot be understood is as usual");
                None
            }
        }
    });
    labels.collect()
}

fn cut(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(LONGEST) {
        value.truncate(end);
    }
    value
}

/// One percent.
const SAMPLING: u32 = 10_000;
const UNKNOWN: &str = "unknown";
/// Of those that came when there were too many already.
const OTHERS: &str = "other";
/// Characters of a label.
const LONGEST: usize = 256;
const ALL: [Metric; 10] = [
    Metric::Requests,
    Metric::Durations,
    Metric::RequestBytes,
    Metric::ResponseBytes,
    Metric::RequestMessages,
    Metric::ResponseMessages,
    Metric::Opened,
    Metric::Closed,
    Metric::Sent,
    Metric::Received,
];

#[cfg(test)]
mod tests;
