//! Regular expressions.
//!
//! The API means RE2: linear time, the whole value, classes such as `\d` of ASCII. Of what RE2 has and our engine has not (`\C`, `\Q`),
//! compiling complains.

use regex::bytes::{Regex, RegexBuilder};

/// Compiles a pattern that must match a whole value.
///
/// # Errors
/// Why it cannot be.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    // By itself first: `a)(b` is none, although it is one within parentheses.
    part(pattern)?;
    part(&format!(r"\A(?:{pattern})\z"))
}

/// Compiles a pattern that may match a part of a value.
///
/// # Errors
/// Why it cannot be.
pub fn part(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > LONGEST + ANCHORS {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    // Without Unicode classes are those of RE2; with it, there are properties.
    let has_properties = pattern.contains("\\p") || pattern.contains("\\P");
    let compiled = RegexBuilder::new(pattern)
        .unicode(has_properties)
        .size_limit(LARGEST)
        .nest_limit(DEEPEST)
        .build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "takes too much memory".to_owned(),
        error => {
            // The last line says what is wrong; those before draw where.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let what = last.trim_start_matches("error: ").to_owned();
            format!("is no regular expression: {what}")
        }
    })
}

/// The longest value that the API permits.
const LONGEST: usize = 4096;
/// What [`compile`] puts around it.
const ANCHORS: usize = 8;
/// Bytes of a compiled pattern. RE2 is given 32 768 instructions.
const LARGEST: usize = 256 << 10;
const DEEPEST: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_re2() {
        for (pattern, value, expected) in [
            ("a|ab", "ab", true),
            ("a", "xa", false),
            (r"\d+", "12", true),
            (r"\d+", "१२", false),
            (r"\p{L}+", "é", true),
            ("[^/]+", "a\u{e9}", true),
            ("", "", true),
        ] {
            let compiled = compile(pattern).unwrap();
            assert_eq!(
                compiled.is_match(value.as_bytes()),
                expected,
                "{pattern} {value}"
            );
        }
    }

    #[test]
    fn what_is_none_is_said_why() {
        for (pattern, expected) in [
            ("(", "is no regular expression: unclosed group"),
            ("a)(b", "is no regular expression: unopened group"),
            ("(?=a)", "is no regular expression: look-around"),
            (r"(a)\1", "is no regular expression: backreferences"),
            (r"\Qa\E", "is no regular expression: unrecognized escape"),
            ("((a{500}){500}){500}", "takes too much memory"),
            (&"a".repeat(5000), "is longer than"),
        ] {
            let why = compile(pattern).unwrap_err();
            assert!(why.starts_with(expected), "{pattern}: {why}");
        }
        assert!(compile(&"(".repeat(100)).is_err());
    }
}
