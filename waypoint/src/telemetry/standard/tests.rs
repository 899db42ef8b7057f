use tulle_facts::{Fact, Value};
use tulle_model::telemetry::{MetricChange, Telemetry, TelemetryKey, TelemetryScope, Tracing};
use tulle_proto::trace as wire;
use tulle_telemetry::WorkloadLabels;

use super::*;
use crate::telemetry::{Collectors, Counted, labels::Parties};

/// A request for this path.
struct For(String);

impl Facts for For {
    fn value(&self, fact: Fact) -> Option<Value<'_>> {
        (fact == Fact::Path).then(|| Value::Text(self.0.as_str().into()))
    }
}

fn kind(status: u16) -> RequestKind {
    RequestKind {
        parties: Parties {
            source: WorkloadLabels::default(),
            source_principal: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
            destination: WorkloadLabels::default(),
            destination_principal: None,
            service: None,
        },
        grpc: true,
        status,
        grpc_status: Some(0),
        flag: "-",
    }
}

fn plan(labels: &[(&str, Option<&str>)]) -> Plan {
    let labels = labels.iter();
    let said = Telemetry {
        key: TelemetryKey::new("a", "b"),
        scope: TelemetryScope::Mesh,
        tracing: Tracing::default(),
        metrics: vec![MetricChange {
            metric: None,
            disabled: None,
            labels: labels
                .map(|(name, says)| ((*name).to_owned(), says.map(ToOwned::to_owned)))
                .collect(),
        }],
        logging: None,
    };
    let (collectors, _) = Collectors::new(Counted::default(), wire::Resource::default());
    Plan::new(&[&said], &collectors)
}

fn scraped(standard: &Standard) -> Vec<String> {
    let mut registry = Registry::default();
    standard.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

fn of<'a>(scraped: &'a [String], metric: &str) -> Vec<&'a str> {
    let start = format!("{metric}{{");
    let lines = scraped.iter().filter(|line| line.starts_with(&start));
    lines.map(String::as_str).collect()
}

const MEASURED: Measured = Measured {
    milliseconds: 2.0,
    request_bytes: 30,
    response_bytes: 400,
    messages: (2, 3),
};

#[test]
fn requests_that_are_alike_are_one_series() {
    let standard = Standard::default();
    for status in [200, 200, 503] {
        standard.request(
            &Plan::default(),
            &kind(status),
            &For(String::new()),
            &MEASURED,
        );
    }
    let scraped = scraped(&standard);
    let requests = of(&scraped, "istio_requests_total");
    assert_eq!(requests.len(), 2);
    assert!(
        requests
            .iter()
            .any(|line| line.contains("response_code=\"200\"") && line.ends_with(" 2"))
    );
    assert!(
        requests
            .iter()
            .all(|line| line.contains("reporter=\"waypoint\""))
    );
    let bytes = of(&scraped, "istio_request_bytes_sum");
    assert!(
        bytes.iter().any(|line| line.ends_with(" 60.0")),
        "{bytes:?}"
    );
    assert_eq!(of(&scraped, "istio_response_bytes_sum").len(), 2);
    let messages = of(&scraped, "istio_response_messages_total");
    assert!(
        messages.iter().any(|line| line.ends_with(" 6")),
        "{messages:?}"
    );
}

#[test]
fn labels_that_are_gone_make_series_one() {
    let standard = Standard::default();
    let without = plan(&[("response_code", None)]);
    for status in [200, 503] {
        standard.request(&without, &kind(status), &For(String::new()), &MEASURED);
    }
    let all = scraped(&standard);
    let requests = of(&all, "istio_requests_total");
    assert_eq!(requests.len(), 1);
    assert!(requests[0].ends_with(" 2") && !requests[0].contains("response_code="));
}

#[test]
fn what_looks_as_usual_is_counted_as_usual() {
    let standard = Standard::default();
    let nothing = For(String::new());
    standard.request(&Plan::default(), &kind(200), &nothing, &MEASURED);
    let same = plan(&[("response_code", Some("'200'"))]);
    standard.request(&same, &kind(503), &nothing, &MEASURED);
    standard.request(&same, &kind(200), &nothing, &MEASURED);
    let all = scraped(&standard);
    let requests = of(&all, "istio_requests_total");
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].ends_with(" 3"), "{requests:?}");
}

#[test]
fn series_of_expressions_are_bounded() {
    let standard = Standard::default();
    let by_path = plan(&[("path", Some("request.path"))]);
    for number in 0..MOST + 500 {
        standard.request(&by_path, &kind(200), &For(format!("/{number}")), &MEASURED);
    }
    let all = scraped(&standard);
    let requests = of(&all, "istio_requests_total");
    assert!(requests.len() <= MOST, "{}", requests.len());
    let others: Vec<_> = requests
        .iter()
        .filter(|line| line.contains("path=\"other\""))
        .collect();
    assert_eq!(others.len(), 1);
    let (_, count) = others[0].rsplit_once(' ').unwrap();
    assert!(count.parse::<usize>().unwrap() >= 500);
}
