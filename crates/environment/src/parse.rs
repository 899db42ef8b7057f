//! Values in the forms operators write them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use tulle_runtime::http::Listen;

/// `90s`, `1h30m`, `500ms`; a number alone is seconds.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
        let number: u32 = number.parse().ok()?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            "d" => Duration::from_secs(24 * 3600),
            _ => return None,
        };
        sum = sum.checked_add(unit.checked_mul(number)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// A Kubernetes quantity of processors, rounded up: `2`, `1.5`, `500m`.
pub(crate) fn processors(text: &str) -> Option<NonZeroUsize> {
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u32>().ok()?,
        None => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let digits = fraction.len();
            if digits == 0 || digits > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let fraction = fraction.parse::<u32>().ok()? * 10u32.pow(3 - digits as u32);
            whole
                .parse::<u32>()
                .ok()?
                .checked_mul(1000)?
                .checked_add(fraction)?
        }
    };
    NonZeroUsize::new(usize::try_from(millis.div_ceil(1000)).ok()?)
}

/// A port of all addresses, or an address and port.
pub fn listen(text: &str) -> Option<Listen> {
    match text.parse() {
        Ok(port) => Some(Listen::Any(port)),
        Err(_) => text.parse::<SocketAddr>().ok().map(Listen::Address),
    }
}

/// The same on loopback addresses only.
pub fn loopback(listen: Listen) -> Option<Listen> {
    match listen {
        Listen::Any(port) | Listen::Loopback(port) => Some(Listen::Loopback(port)),
        Listen::Address(address) => address.ip().is_loopback().then_some(listen),
    }
}

/// A packet mark, decimal or `0x…`; zero means no mark and is refused.
pub fn mark(text: &str) -> Option<u32> {
    let mark = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    mark.filter(|&mark| mark != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("5", Some(5_000)),
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("5x", None),
            ("-5s", None),
            ("1.5s", None),
            ("5 s", None),
            ("5s3", None),
            ("5000000000h", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn processors_are_rounded_up() {
        for (text, expected) in [
            ("1", Some(1)),
            ("500m", Some(1)),
            ("1001m", Some(2)),
            ("1.5", Some(2)),
            ("2.000", Some(2)),
            ("0.001", Some(1)),
            ("0", None),
            ("0m", None),
            ("", None),
            ("m", None),
            ("1.", None),
            ("1.-5", None),
            ("two", None),
            ("1.0001", None),
        ] {
            let expected = expected.and_then(NonZeroUsize::new);
            assert_eq!(processors(text), expected, "{text}");
        }
    }

    #[test]
    fn listening_is_on_a_port_or_an_address() {
        let address = Listen::Address("127.0.0.1:80".parse().unwrap());
        assert_eq!(listen("80"), Some(Listen::Any(80)));
        assert_eq!(listen("127.0.0.1:80"), Some(address));
        for text in ["", "65536", "localhost:80", "127.0.0.1", "::1"] {
            assert_eq!(listen(text), None, "{text}");
        }
        assert_eq!(loopback(address), Some(address));
        assert_eq!(loopback(Listen::Any(80)), Some(Listen::Loopback(80)));
        let all = Listen::Address("0.0.0.0:80".parse().unwrap());
        assert_eq!(loopback(all), None);
    }

    #[test]
    fn marks_are_decimal_or_hexadecimal() {
        assert_eq!(mark("1337"), Some(0x539));
        assert_eq!(mark("0x539"), Some(0x539));
        assert_eq!(mark("0"), None);
        assert_eq!(mark("539x"), None);
    }
}
