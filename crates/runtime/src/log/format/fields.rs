//! Fields and values in each form.

use std::error::Error;
use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::VisitOutput;

/// The field that is the text of a line.
const MESSAGE: &str = "message";

/// Writes the message and nothing else.
pub(super) struct Message<'a> {
    out: &'a mut String,
    json: bool,
}

impl<'a> Message<'a> {
    pub(super) fn plain(out: &'a mut String) -> Self {
        Self { out, json: false }
    }

    pub(super) fn json(out: &'a mut String) -> Self {
        Self { out, json: true }
    }
}

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == MESSAGE {
            // Only memory is written to here and below, and a cut line is all that a failure can do.
            let _ = match self.json {
                true => write!(JsonText(self.out), "{value:?}"),
                false => write!(PlainText(self.out), "{value:?}"),
            };
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// `name=value name=value`, without the message.
pub(super) struct PlainFields<'a, W> {
    out: &'a mut W,
    separator: Option<char>,
    result: fmt::Result,
}

impl<'a, W: Write> PlainFields<'a, W> {
    /// After something, from which `separator` sets the first field apart.
    pub(super) fn new(out: &'a mut W, separator: char) -> Self {
        Self {
            out,
            separator: Some(separator),
            result: Ok(()),
        }
    }

    pub(super) fn first(out: &'a mut W) -> Self {
        Self {
            out,
            separator: None,
            result: Ok(()),
        }
    }

    fn put(&mut self, field: &Field, value: impl FnOnce(&mut W) -> fmt::Result) {
        if field.name() == MESSAGE || self.result.is_err() {
            return;
        }
        let separator = self.separator.replace(' ');
        self.result = (|| {
            if let Some(separator) = separator {
                self.out.write_char(separator)?;
            }
            self.out.write_str(name(field))?;
            self.out.write_char('=')?;
            value(self.out)
        })();
    }
}

impl<W: Write> Visit for PlainFields<'_, W> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |out| quoted(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, |out| write!(PlainText(out), "{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, |out| quoted(out, &Chain(value).to_string()));
    }
}

impl<W: Write> VisitOutput<fmt::Result> for PlainFields<'_, W> {
    fn finish(self) -> fmt::Result {
        self.result
    }
}

/// `"name":value,"name":value`, without the message.
pub(super) struct JsonFields<'a, W> {
    out: &'a mut W,
    comma: bool,
    result: fmt::Result,
}

impl<'a, W: Write> JsonFields<'a, W> {
    pub(super) fn first(out: &'a mut W) -> Self {
        Self {
            out,
            comma: false,
            result: Ok(()),
        }
    }

    pub(super) fn after_others(out: &'a mut W) -> Self {
        Self {
            out,
            comma: true,
            result: Ok(()),
        }
    }

    fn put(&mut self, field: &Field, value: impl FnOnce(&mut W) -> fmt::Result) {
        if field.name() == MESSAGE || self.result.is_err() {
            return;
        }
        let comma = std::mem::replace(&mut self.comma, true);
        self.result = (|| {
            self.out.write_str(if comma { ",\"" } else { "\"" })?;
            JsonText(self.out).write_str(name(field))?;
            self.out.write_str("\":")?;
            value(self.out)
        })();
    }

    fn put_text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.put(field, |out| {
            out.write_char('"')?;
            JsonText(out).write_fmt(value)?;
            out.write_char('"')
        });
    }
}

impl<W: Write> Visit for JsonFields<'_, W> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.put(field, |out| write!(out, "{value:?}"));
        } else {
            self.put_text(field, format_args!("{value}"));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, |out| {
            out.write_str(itoa::Buffer::new().format(value))
        });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |out| {
            out.write_str(itoa::Buffer::new().format(value))
        });
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, |out| write!(out, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |out| {
            out.write_char('"')?;
            JsonText(out).write_str(value)?;
            out.write_char('"')
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put_text(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put_text(field, format_args!("{}", Chain(value)));
    }
}

impl<W: Write> VisitOutput<fmt::Result> for JsonFields<'_, W> {
    fn finish(self) -> fmt::Result {
        self.result
    }
}

/// Names that are Rust keywords are written `r#type` in the source.
fn name(field: &Field) -> &'static str {
    field.name().strip_prefix("r#").unwrap_or(field.name())
}

/// An error and what caused it.
struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Whether text can be written as it is: most is, and looking at bytes is cheaper than at characters. All are looked at,
/// which a processor does for many at once as long as none of them decides whether to go on.
fn is_simple(text: &str) -> bool {
    let special = |byte: u8| !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\');
    let found = text
        .bytes()
        .fold(0, |found, byte| found | u8::from(special(byte)));
    found == 0
}

/// A string as in the source of a program.
fn quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    if !is_simple(text) {
        return write!(PlainText(out), "{text:?}");
    }
    out.write_char('"')?;
    out.write_str(text)?;
    out.write_char('"')
}

/// Text without control characters.
struct PlainText<'a, W>(&'a mut W);

impl<W: Write> Write for PlainText<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text, char::is_control, |out, special| {
            write!(out, "{}", special.escape_default())
        })
    }
}

/// The inside of a JSON string.
struct JsonText<'a, W>(&'a mut W);

impl<W: Write> Write for JsonText<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let special = |c: char| c == '"' || c == '\\' || c.is_control();
        escape(self.0, text, special, |out, special| match special {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            other => write!(out, "\\u{:04x}", u32::from(other)),
        })
    }
}

/// Writes text with its special characters replaced.
fn escape<W: Write>(
    out: &mut W,
    text: &str,
    special: impl Fn(char) -> bool,
    replace: impl Fn(&mut W, char) -> fmt::Result,
) -> fmt::Result {
    if is_simple(text) {
        return out.write_str(text);
    }
    for part in text.split_inclusive(&special) {
        match part.char_indices().next_back() {
            Some((at, last)) if special(last) => {
                out.write_str(part.get(..at).unwrap_or_default())?;
                replace(out, last)?;
            }
            _ => out.write_str(part)?,
        }
    }
    Ok(())
}
