//! How long something may take, as people write it.

use std::time::Duration;

/// Reads `90s`, `5m` or `1h`; a number alone is in seconds.
///
/// # Errors
/// What else it is.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text.strip_prefix(digits) {
        Some("s" | "") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => 0,
    };
    let seconds = digits.parse::<u32>().map_err(|_| wrong(text))?;
    match u64::from(seconds) * factor {
        0 => Err(wrong(text)),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is no time; write it like 90s, 5m or 1h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600)] {
            assert_eq!(limit(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "s", "0", "0s", "5d", "-1s", "1.5m", "5ms"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }
}
