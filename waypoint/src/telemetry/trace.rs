//! Which trace a request is part of: what its client says of that, and what its endpoint is told.
//!
//! Spec: Trace Context; B3 propagation, both of its forms; `waypoint-l7.md` §5.6.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::plan::Traces;

/// A request's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) id: u128,
    /// Of the waypoint's own part.
    pub(crate) span: u64,
    /// Of what called it.
    pub(crate) parent: Option<u64>,
    /// Somebody is told of it.
    pub(crate) is_sampled: bool,
    /// It was said by W3C.
    is_w3c: bool,
}

/// How a client says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    W3c,
    B3,
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    of: Option<(u128, u64)>,
    /// Whether it is told to somebody, if that is decided.
    is_sampled: Option<bool>,
    form: Form,
}

impl Trace {
    /// Of a request with these headers, which tell endpoints of it from now on.
    pub(crate) fn begin(traces: &Traces, headers: &mut HeaderMap) -> Self {
        let said = said(headers);
        let (id, parent) = match said.and_then(|said| said.of) {
            Some((id, parent)) => (id, Some(parent)),
            None => (fastrand::u128(1..), None),
        };
        let decided = said.and_then(|said| said.is_sampled);
        let trace = Self {
            id,
            span: fastrand::u64(1..),
            parent,
            is_sampled: decided.unwrap_or_else(|| fastrand::u32(..MILLION) < traces.sampling),
            is_w3c: said.is_some_and(|said| said.form == Form::W3c),
        };
        if traces.is_passed_on {
            trace.tell(headers);
        }
        trace
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let Self { id, span, .. } = self;
        let sampled = u8::from(self.is_sampled);
        if !self.is_w3c {
            // It is about a place in another trace.
            headers.remove(STATE);
        }
        put(
            headers,
            PARENT,
            format!("00-{id:032x}-{span:016x}-{sampled:02x}"),
        );
        // In whatever other words it came, so that all say the same.
        if headers.contains_key(B3) {
            let parent = self.parent.map(|parent| format!("-{parent:016x}"));
            let parent = parent.unwrap_or_default();
            put(
                headers,
                B3,
                format!("{id:032x}-{span:016x}-{sampled}{parent}"),
            );
        }
        if B3S.iter().any(|name| headers.contains_key(name)) {
            put(headers, B3_TRACE, format!("{id:032x}"));
            put(headers, B3_SPAN, format!("{span:016x}"));
            put(headers, B3_SAMPLED, sampled.to_string());
            headers.remove(B3_FLAGS);
            match self.parent {
                Some(parent) => put(headers, B3_PARENT, format!("{parent:016x}")),
                None => drop(headers.remove(B3_PARENT)),
            }
        }
    }
}

/// The trace that a client says a request is part of; empty if it says none.
pub(super) fn id_of(headers: &HeaderMap) -> String {
    let of = said(headers).and_then(|said| said.of);
    of.map_or_else(String::new, |(id, _)| format!("{id:032x}"))
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// What is said by W3C counts, then by B3 in one header, then in several. What cannot be understood is not said.
fn said(headers: &HeaderMap) -> Option<Said> {
    let one = |name| {
        let mut values = headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    };
    one(PARENT)
        .and_then(w3c)
        .or_else(|| one(B3).and_then(b3))
        .or_else(|| b3s(one(B3_TRACE), one(B3_SPAN), one(B3_SAMPLED), one(B3_FLAGS)))
}

/// Trace Context §3.2. Of a later version, what is known of this one counts.
fn w3c(text: &str) -> Option<Said> {
    let mut parts = text.split('-');
    let version = parts.next().filter(|part| part.len() == 2)?;
    let version = hex(version, 2)?;
    let (id, parent) = (parts.next()?, parts.next()?);
    let flags = hex(parts.next()?, 2)?;
    let is_more = parts.next().is_some();
    if version == 0xff || (version == 0 && is_more) {
        return None;
    }
    Some(Said {
        of: Some((hex(id, 32)?, u64::try_from(hex(parent, 16)?).ok()?)).filter(is_one),
        is_sampled: Some(flags & 1 == 1),
        form: Form::W3c,
    })
    .filter(|said| said.of.is_some())
}

/// `TRACE-SPAN`, `TRACE-SPAN-SAMPLED`, `TRACE-SPAN-SAMPLED-PARENT`, or `SAMPLED` alone.
fn b3(text: &str) -> Option<Said> {
    let parts: Vec<&str> = text.split('-').collect();
    let said = |of, is_sampled| Said {
        of,
        is_sampled,
        form: Form::B3,
    };
    match *parts.as_slice() {
        [sampled] => Some(said(None, Some(decided(sampled)?))),
        [id, span] => Some(said(Some(ids(id, span)?), None)),
        [id, span, sampled] | [id, span, sampled, _] => {
            Some(said(Some(ids(id, span)?), Some(decided(sampled)?)))
        }
        _ => None,
    }
}

fn b3s(
    id: Option<&str>,
    span: Option<&str>,
    sampled: Option<&str>,
    flags: Option<&str>,
) -> Option<Said> {
    let is_sampled = match flags {
        Some("1") => Some(true),
        _ => sampled.and_then(decided),
    };
    let of = id.zip(span).and_then(|(id, span)| ids(id, span));
    (of.is_some() || is_sampled.is_some()).then_some(Said {
        of,
        is_sampled,
        form: Form::B3,
    })
}

fn decided(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// An id of a trace may have half of its digits.
fn ids(id: &str, span: &str) -> Option<(u128, u64)> {
    let id = hex(id, 32).or_else(|| hex(id, 16))?;
    let span = u64::try_from(hex(span, 16)?).ok()?;
    Some((id, span)).filter(is_one)
}

/// Nothing has a zero for a name.
fn is_one((id, span): &(u128, u64)) -> bool {
    *id != 0 && *span != 0
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_number = text.len() == digits && text.bytes().all(is_digit);
    is_number
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

const MILLION: u32 = 1_000_000;
const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const B3S: [HeaderName; 4] = [B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS];

#[cfg(test)]
mod tests;
