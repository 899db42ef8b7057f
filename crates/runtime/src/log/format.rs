//! What a line looks like.
//!
//! ```text
//! 2026-01-31T12:00:00.000042Z<tab>info<tab>access<tab>connection complete<tab>src.addr=10.0.0.1:4711 bytes_sent=5
//! {"level":"info","time":"2026-01-31T12:00:00.000042Z","scope":"access","message":"connection complete",…}
//! ```
//!
//! Spans follow the target in plain text, as `access:name{fields}`, and are objects of their own in JSON. Values come
//! from peers: control characters are escaped, so that no value can forge a line.

use std::cell::Cell;
use std::fmt::{self, Write};
use std::str::FromStr;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use fields::{JsonFields, Message, PlainFields};

mod fields;
mod stamp;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Tab-separated: time, level, target, message, fields.
    Plain,
    /// An object per line.
    Json,
}

/// A format that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}: use plain or json")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Json => "json",
        })
    }
}

/// Formats events and the fields of spans.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineFormat {
    format: Format,
    hidden_prefix: &'static str,
}

impl LineFormat {
    pub(super) fn new(format: Format, hidden_prefix: &'static str) -> Self {
        Self {
            format,
            hidden_prefix,
        }
    }

    fn target<'a>(&self, target: &'a str) -> &'a str {
        match target.strip_prefix(self.hidden_prefix) {
            Some(rest) if !rest.is_empty() => rest,
            _ => target,
        }
    }

    fn plain<S>(&self, context: &Context<'_, S>, out: &mut String, event: &Event<'_>) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let metadata = event.metadata();
        stamp::push_now(out);
        for part in ["\t", level(metadata.level()), "\t"] {
            out.push_str(part);
        }
        out.push_str(self.target(metadata.target()));
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|s| s.from_root())
        {
            write!(out, ":{}", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<Self>>()
                && !fields.is_empty()
            {
                write!(out, "{{{fields}}}")?;
            }
        }
        out.push('\t');
        event.record(&mut Message::plain(out));
        let mut fields = PlainFields::new(out, '\t');
        event.record(&mut fields);
        fields.finish()?;
        out.push('\n');
        Ok(())
    }

    fn json<S>(&self, context: &Context<'_, S>, out: &mut String, event: &Event<'_>) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let metadata = event.metadata();
        for part in ["{\"level\":\"", level(metadata.level()), "\",\"time\":\""] {
            out.push_str(part);
        }
        stamp::push_now(out);
        let target = self.target(metadata.target());
        for part in ["\",\"scope\":\"", target, "\",\"message\":\""] {
            out.push_str(part);
        }
        event.record(&mut Message::json(out));
        out.push('"');
        let mut fields = JsonFields::after_others(out);
        event.record(&mut fields);
        fields.finish()?;
        for span in context
            .event_scope()
            .into_iter()
            .flat_map(|s| s.from_root())
        {
            write!(out, ",\"{}\":{{", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<Self>>() {
                out.push_str(fields);
            }
            out.push('}');
        }
        out.push_str("}\n");
        Ok(())
    }
}

thread_local! {
    /// Memory for the next line. Taken while in use, so that a value that logs when it is formatted finds a new one.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Longest line whose memory is kept.
const KEPT_LINE: usize = 4096;

type Context<'a, S> = FmtContext<'a, S, LineFormat>;

impl<S> FormatEvent<S, Self> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &Context<'_, S>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // What is handed over is written through a trait object, which is dear for a hundred pieces and nothing for one.
        let mut line = LINE.take();
        line.clear();
        let written = match self.format {
            Format::Plain => self.plain(context, &mut line, event),
            Format::Json => self.json(context, &mut line, event),
        };
        let written = written.and_then(|()| out.write_str(&line));
        line.shrink_to(KEPT_LINE);
        LINE.set(line);
        written
    }
}

impl<'a> FormatFields<'a> for LineFormat {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'a>, fields: R) -> fmt::Result {
        match self.format {
            Format::Plain => fields.record_all(PlainFields::first(&mut out)),
            Format::Json => fields.record_all(JsonFields::first(&mut out)),
        }
    }

    fn add_fields(
        &self,
        current: &'a mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        let others = !current.fields.is_empty();
        let mut out = current.as_writer();
        match (self.format, others) {
            (Format::Plain, false) => fields.record_all(PlainFields::first(&mut out)),
            (Format::Plain, true) => fields.record_all(PlainFields::new(&mut out, ' ')),
            (Format::Json, false) => fields.record_all(JsonFields::first(&mut out)),
            (Format::Json, true) => fields.record_all(JsonFields::after_others(&mut out)),
        }
    }
}

/// Records everything and reports whether it could be written.
trait RecordAll {
    fn record_all<V: tracing::field::Visit + VisitOutput<fmt::Result>>(
        &self,
        visitor: V,
    ) -> fmt::Result;
}

impl<R: RecordFields> RecordAll for R {
    fn record_all<V: tracing::field::Visit + VisitOutput<fmt::Result>>(
        &self,
        mut visitor: V,
    ) -> fmt::Result {
        self.record(&mut visitor);
        visitor.finish()
    }
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// A line that says how many others are missing.
pub(super) fn dropped_lines(format: Format, count: u64, out: &mut Vec<u8>) {
    let mut time = String::new();
    stamp::push_now(&mut time);
    let line = match format {
        Format::Plain => format!("{time}\twarn\tlog\tlog lines dropped\tcount={count}\n"),
        Format::Json => format!(
            "{{\"level\":\"warn\",\"time\":\"{time}\",\"scope\":\"log\",\
             \"message\":\"log lines dropped\",\"count\":{count}}}\n"
        ),
    };
    out.extend_from_slice(line.as_bytes());
}
