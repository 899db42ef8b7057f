//! The `traceparent` header: one id to find a connection by in the logs of both sides.
//!
//! Spec: W3C Trace Context §3.2.

use std::{fmt, num::NonZero};

use fastrand::Rng;

/// Name of the header.
pub const HEADER: &str = "traceparent";

/// A trace and a span within it. Nothing is sampled: the flags are always `00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: NonZero<u128>,
    /// The span.
    pub span_id: NonZero<u64>,
}

impl TraceParent {
    /// A new trace.
    pub fn new(random: &mut Rng) -> Self {
        Self {
            trace_id: NonZero::new(random.u128(1..)).unwrap_or(NonZero::<u128>::MIN),
            span_id: NonZero::new(random.u64(1..)).unwrap_or(NonZero::<u64>::MIN),
        }
    }

    /// Reads a header of exactly 55 characters; none if it is malformed.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let header = str::from_utf8(header).ok()?;
        let mut parts = header.split('-');
        let mut hex = |length: usize| {
            let part = parts.next()?;
            let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            let valid = part.len() == length && part.bytes().all(is_hex);
            u128::from_str_radix(part, 16).ok().filter(|_| valid)
        };
        let (version, trace, span, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if version == 0xff || header.len() != 55 {
            return None;
        }
        Some(Self {
            trace_id: NonZero::new(trace)?,
            span_id: NonZero::new(u64::try_from(span).ok()?)?,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-00", self.trace_id, self.span_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn a_new_one_reads_back() {
        let trace = TraceParent::new(&mut Rng::with_seed(1));
        let text = trace.to_string();
        assert_eq!(text.len(), 55);
        assert_eq!(TraceParent::parse(text.as_bytes()), Some(trace));
    }

    #[test]
    fn malformed() {
        let (trace, span) = ("a".repeat(32), "b".repeat(16));
        let zero = "0".repeat(32);
        for text in [
            format!("00-{trace}-{span}-0"),
            format!("00-{trace}-{span}-00-"),
            format!("ff-{trace}-{span}-00"),
            format!("00-{zero}-{span}-00"),
            format!("00-{}-{span}-00", "A".repeat(32)),
            format!("00-{span}-{trace}-00"),
            String::new(),
        ] {
            assert_eq!(TraceParent::parse(text.as_bytes()), None, "{text}");
        }
        let sampled = format!("00-{trace}-{span}-01");
        assert!(TraceParent::parse(sampled.as_bytes()).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in any::<Vec<u8>>()) {
            TraceParent::parse(&bytes);
        }
    }
}
