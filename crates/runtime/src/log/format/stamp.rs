//! The time of a line.

use std::cell::Cell;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// A second, and what it is called: `2026-01-31T12:00:00`.
#[derive(Clone, Copy)]
struct Second {
    unix: i64,
    text: [u8; 19],
}

thread_local! {
    static LAST: Cell<Second> = const {
        Cell::new(Second {
            unix: i64::MIN,
            text: [0; 19],
        })
    };
}

/// Appends the time now, in UTC, to the microsecond: `2026-01-31T12:00:00.000042Z`.
pub(super) fn push_now(out: &mut String) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    push(
        out,
        i64::try_from(since.as_secs()).unwrap_or_default(),
        since.subsec_micros(),
    );
}

/// Many lines fall into one second, and a calendar costs more than the rest of a line's start.
fn push(out: &mut String, unix: i64, micros: u32) {
    let mut second = LAST.get();
    if second.unix != unix {
        second = Second {
            unix,
            text: name(unix),
        };
        LAST.set(second);
    }
    out.push_str(str::from_utf8(&second.text).unwrap_or_default());
    out.push('.');
    let mut left = micros;
    for place in [100_000, 10_000, 1_000, 100, 10, 1] {
        out.push(char::from_digit(left / place, 10).unwrap_or('0'));
        left %= place;
    }
    out.push('Z');
}

fn name(unix: i64) -> [u8; 19] {
    let time = OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let month = u8::from(month);
    let mut text = String::with_capacity(19);
    // Writing to memory does not fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    );
    text.as_bytes().try_into().unwrap_or([b'0'; 19])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(unix: i64, micros: u32) -> String {
        let mut out = String::new();
        push(&mut out, unix, micros);
        out
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (951_782_400, 20_300, "2000-02-29T00:00:00.020300Z"),
            (1_769_860_800, 42, "2026-01-31T12:00:00.000042Z"),
            (0, 7, "1970-01-01T00:00:00.000007Z"),
        ] {
            assert_eq!(text(unix, micros), expected);
        }
    }

    #[test]
    fn now_is_now() {
        use time::format_description::well_known::Rfc3339;
        let before = OffsetDateTime::now_utc() - time::Duration::MICROSECOND;
        let mut out = String::new();
        push_now(&mut out);
        let now = OffsetDateTime::parse(&out, &Rfc3339).unwrap();
        assert!(before <= now && now <= OffsetDateTime::now_utc(), "{out}");
    }
}
