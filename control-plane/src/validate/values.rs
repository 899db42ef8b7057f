//! Values that occur in several kinds.

use std::{net::IpAddr, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use tulle_manifest::{PolicySelector, TargetRef, virtual_service::Percent};

use super::Check;

impl Check {
    /// A duration as the Gateway API writes it: 1 to 4 numbers of at most 5 digits, each with its unit, such as `1h30m` or `500ms`.
    ///
    /// Spec: GEP-2257.
    pub(super) fn gateway_duration(
        &mut self,
        field: &str,
        text: &Option<String>,
    ) -> Option<Duration> {
        let text = text.as_deref()?;
        let read = gateway_duration(text);
        if read.is_none() {
            self.invalid(
                field,
                format!("{text:?} is no duration such as 1m30s or 500ms"),
            );
        }
        read
    }

    /// A duration as Istio writes it: numbers with units, such as `1.5s`, at least `least`.
    pub(super) fn istio_duration(&mut self, field: &str, text: &Option<String>, least: Duration) {
        let Some(text) = text.as_deref() else {
            return;
        };
        match istio_duration(text) {
            None => self.invalid(
                field,
                format!("{text:?} is no duration such as 1.5s or 250ms"),
            ),
            Some(read) if read < least => {
                self.invalid(field, format!("{text:?} is shorter than {least:?}"));
            }
            Some(_) => {}
        }
    }

    /// The name of a header.
    pub(super) fn header_name(&mut self, field: &str, name: &str) {
        if HeaderName::from_bytes(name.as_bytes()).is_err() || name.len() > 256 {
            self.invalid(field, format!("{name:?} is no name of a header"));
        }
    }

    /// What a header is set to.
    pub(super) fn header_value(&mut self, field: &str, value: &str) {
        if HeaderValue::from_str(value).is_err() {
            self.invalid(field, "has characters that no header can have");
        }
    }

    /// Names of headers that pages may send, or see; `*` for all.
    pub(super) fn cors_headers(&mut self, field: &str, names: &[String]) {
        self.each(field, names, |check, name| {
            if name != "*" {
                check.header_name("", name);
            }
        });
    }

    /// Methods that pages may use; `*` for all.
    pub(super) fn cors_methods(&mut self, field: &str, methods: &[String]) {
        self.each(field, methods, |check, method| {
            if Method::from_bytes(method.as_bytes()).is_err() {
                check.invalid("", format!("{method:?} is no method"));
            }
        });
    }

    /// A port, if there is one.
    pub(super) fn port(&mut self, field: &str, port: Option<i64>) {
        self.within(field, port, 1, 65_535);
    }

    /// A service that is asked, and its port; its namespace may be written before the host.
    pub(super) fn service(&mut self, service: &str, port: Option<i64>) {
        if self.required("service", service) {
            let host = service.split_once('/').map_or(service, |(_, host)| host);
            self.host("service", host, false);
        }
        match port {
            Some(_) => self.port("port", port),
            None => self.invalid("port", "is missing"),
        }
    }

    /// A host name, or a wildcard where one may be.
    pub(super) fn host(&mut self, field: &str, host: &str, wildcard: bool) {
        let name = match wildcard {
            true => host.strip_prefix("*.").unwrap_or(host),
            false => host,
        };
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_all = wildcard && host == "*";
        if !is_all && (host.len() > 253 || !name.split('.').all(label)) {
            self.invalid(field, format!("{host:?} is no host name"));
        }
    }

    /// A path that requests are sent to.
    pub(super) fn path(&mut self, field: &str, path: &str) {
        if !path.starts_with('/') || path.contains(['?', '#']) || path.len() > 1024 {
            let message =
                format!("{path:?} is no absolute path, without query, of at most 1024 bytes");
            self.invalid(field, message);
        }
    }

    /// An address, or a range of them.
    pub(super) fn range(&mut self, field: &str, range: &str) {
        if range.parse::<IpAddr>().is_err() && range.parse::<IpNet>().is_err() {
            self.invalid(
                field,
                format!("{range:?} is neither an address nor a range"),
            );
        }
    }

    /// A share.
    pub(super) fn percent(&mut self, field: &str, percent: &Option<Percent>) {
        let at_most = percent.as_ref().map(|percent| percent.value);
        self.share(field, at_most);
    }

    /// The same, as a plain number.
    pub(super) fn share(&mut self, field: &str, value: Option<f64>) {
        if let Some(value) = value.filter(|value| !(0.0..=100.0).contains(value)) {
            self.invalid(field, format!("{value} is not within 0 to 100"));
        }
    }

    /// Weights of which at least one counts.
    pub(super) fn weights(&mut self, field: &str, weights: impl Iterator<Item = i64> + Clone) {
        let mut all = weights.clone();
        if all.any(|weight| !(0..=1_000_000).contains(&weight)) {
            self.invalid(field, "weights are 0 to 1000000");
        } else if weights.clone().next().is_some() && weights.sum::<i64>() == 0 {
            self.ignored(field, "nothing is sent anywhere: all weights are 0");
        }
    }
}

/// What a policy for waypoints is for. Whether that is there is asked elsewhere.
pub(super) fn targets(
    check: &mut Check,
    selector: Option<&PolicySelector>,
    one: Option<&TargetRef>,
    several: &[TargetRef],
) {
    check.alternatives(&[
        ("selector", selector.is_some()),
        ("targetRef", one.is_some()),
        ("targetRefs", !several.is_empty()),
    ]);
    check.at_most("targetRefs", several, 16);
    let named = |check: &mut Check, target: &TargetRef| {
        check.required("kind", &target.kind);
        check.required("name", &target.name);
        if target.namespace.is_some() {
            check.invalid("namespace", "a target is of the policy's own namespace");
        }
    };
    if let Some(one) = one {
        check.at("targetRef", |check| named(check, one));
    }
    check.each("targetRefs", several, named);
}

/// A duration as the Gateway API writes it.
pub(crate) fn gateway_duration(text: &str) -> Option<Duration> {
    let parts = parts(text).filter(|parts| {
        (1..=4).contains(&parts.len())
            && parts.iter().all(|(number, unit)| {
                number.len() <= 5
                    && !number.contains('.')
                    && matches!(*unit, "h" | "m" | "s" | "ms")
            })
    });
    sum(&parts?)
}

/// A duration as Istio writes it.
pub(crate) fn istio_duration(text: &str) -> Option<Duration> {
    match text {
        "0" => Some(Duration::ZERO),
        text => sum(&parts(text)?),
    }
}

/// Numbers and their units.
fn parts(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut rest = text;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(unit.unwrap_or(after.len()));
        parts.push((number, unit));
        rest = after;
    }
    (!parts.is_empty()).then_some(parts)
}

fn sum(parts: &[(&str, &str)]) -> Option<Duration> {
    parts
        .iter()
        .try_fold(Duration::ZERO, |sum, (number, unit)| {
            let seconds = match *unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
            let number: f64 = number.parse().ok()?;
            let part = Duration::try_from_secs_f64(number * seconds).ok()?;
            sum.checked_add(part)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(look: impl FnOnce(&mut Check)) -> usize {
        let mut check = Check::new("spec");
        look(&mut check);
        check.problems.len()
    }

    #[test]
    fn durations() {
        for (text, gateway, istio) in [
            ("0s", true, true),
            ("0", false, true),
            ("1h30m", true, true),
            ("1h1m1s1ms", true, true),
            ("1h1h1h1h1h", false, true),
            ("500ms", true, true),
            ("100000s", false, true),
            ("1.5s", false, true),
            ("10", false, false),
            ("s", false, false),
            ("", false, false),
            ("-1s", false, false),
            ("1 s", false, false),
            ("1d", false, false),
            ("1.2.3s", false, false),
            ("1e400s", false, false),
        ] {
            let text = Some(text.to_owned());
            let problems = found(|check| {
                check.gateway_duration("d", &text);
            });
            assert_eq!(problems == 0, gateway, "{text:?}");
            let problems = found(|check| check.istio_duration("d", &text, Duration::ZERO));
            assert_eq!(problems == 0, istio, "{text:?}");
        }
        let long = Some("1h1m1s1ms".to_owned());
        let mut check = Check::new("spec");
        let read = check.gateway_duration("d", &long);
        assert_eq!(read, Some(Duration::from_millis(3_661_001)));
        let short = Some("1us".to_owned());
        let least = Duration::from_millis(1);
        assert_eq!(found(|check| check.istio_duration("d", &short, least)), 1);
    }

    #[test]
    fn hosts_and_paths() {
        for (host, plain, wildcard) in [
            ("a", true, true),
            ("a-b.c_d.example", true, true),
            ("*.example", false, true),
            ("*", false, true),
            ("a.*.example", false, false),
            ("", false, false),
            ("a..b", false, false),
            ("-a", false, false),
            ("a b", false, false),
            ("a/b", false, false),
        ] {
            assert_eq!(
                found(|check| check.host("h", host, false)) == 0,
                plain,
                "{host}"
            );
            assert_eq!(
                found(|check| check.host("h", host, true)) == 0,
                wildcard,
                "{host}"
            );
        }
        for (path, expected) in [("/", true), ("/a b", true), ("a", false), ("/a?b", false)] {
            assert_eq!(
                found(|check| check.path("p", path)) == 0,
                expected,
                "{path}"
            );
        }
    }
}
