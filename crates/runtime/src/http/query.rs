//! The parameters of a query.

use std::collections::BTreeMap;

/// Parses `a=b&c`. The first of a name counts; what is not UTF-8 once decoded is replaced.
pub(super) fn parse(query: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        parameters
            .entry(decode(name))
            .or_insert_with(|| decode(value));
    }
    parameters
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let value = hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0);
                bytes.push(value);
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_split_and_decoded() {
        for (query, expected) in [
            ("", &[][..]),
            ("reset", &[("reset", "")]),
            ("a=1&b=2&a=3&", &[("a", "1"), ("b", "2")]),
            (
                "level=access%3Ddebug%2cinfo",
                &[("level", "access=debug,info")],
            ),
            ("a=b+c%20d", &[("a", "b c d")]),
            (
                "a=%&b=%4&c=%zz&d=%+1",
                &[("a", "%"), ("b", "%4"), ("c", "%zz"), ("d", "% 1")],
            ),
            ("a=%ff", &[("a", "\u{fffd}")]),
            ("a==b", &[("a", "=b")]),
        ] {
            let parsed = parse(query);
            let parsed: Vec<_> = parsed.iter().map(|(k, v)| (&**k, &**v)).collect();
            assert_eq!(parsed, expected, "{query}");
        }
    }
}
