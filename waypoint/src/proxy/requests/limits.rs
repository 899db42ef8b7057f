//! How long a request may take.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// The limit that the client itself has set (gRPC over HTTP/2: `Timeout`), if it is one.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&number.len()) || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Tells the endpoint what is left of it.
pub(super) fn put_grpc_timeout(headers: &mut HeaderMap, until: Instant) {
    if !headers.contains_key(GRPC_TIMEOUT) {
        return;
    }
    let left = until.saturating_duration_since(Instant::now());
    // Eight digits are permitted.
    let milliseconds = left.as_millis().clamp(1, 99_999_999);
    if let Ok(value) = HeaderValue::try_from(format!("{milliseconds}m")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

const GRPC_TIMEOUT: &str = "grpc-timeout";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_of_grpc_have_units() {
        for (text, expected) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3000)),
            ("250m", Some(250)),
            ("5000u", Some(5)),
            ("7000000n", Some(7)),
            ("99999999H", Some(99_999_999 * 3_600_000_u128)),
            ("100000000S", None),
            ("1s", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, text.parse().unwrap());
            let read = grpc_timeout(&headers).map(|read| read.as_millis());
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_is_told_what_is_left() {
        let mut headers = HeaderMap::new();
        let until = Instant::now() + Duration::from_secs(2);
        put_grpc_timeout(&mut headers, until);
        assert!(headers.is_empty(), "nobody has asked");
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("9S"));
        put_grpc_timeout(&mut headers, until);
        assert_eq!(headers[GRPC_TIMEOUT], "2000m");
    }
}
