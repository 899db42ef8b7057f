use std::{borrow::Cow, collections::BTreeMap};

use tulle_facts::{Fact, Value};
use tulle_model::{
    ServiceKey,
    http::BackendService,
    telemetry::{Collector, CollectorProtocol, TelemetryKey, TelemetryScope},
};
use tulle_proto::trace as wire;

use super::*;
use crate::telemetry::Counted;

/// A request for `/a`, answered with 503.
struct Seen;

impl Facts for Seen {
    fn value(&self, fact: Fact) -> Option<Value<'_>> {
        match fact {
            Fact::Path => Some(Value::Text(Cow::Borrowed("/a"))),
            Fact::ResponseCode => Some(Value::Number(503)),
            _ => None,
        }
    }
}

fn collectors() -> Collectors {
    Collectors::new(Counted::default(), wire::Resource::default()).0
}

fn said(tracing: Tracing) -> Telemetry {
    Telemetry {
        key: TelemetryKey::new("shop", "a"),
        scope: TelemetryScope::Namespace,
        tracing,
        metrics: Vec::new(),
        logging: None,
    }
}

fn otel() -> Option<CollectorRef> {
    Some(CollectorRef::Collector(Collector {
        name: "otel".into(),
        service: BackendService {
            key: ServiceKey::new("obs", "otel"),
            port: Some(4317),
            subset: None,
        },
        timeout: std::time::Duration::from_secs(1),
        protocol: CollectorProtocol::Grpc,
    }))
}

#[test]
fn the_narrowest_that_says_something_counts() {
    let wide = said(Tracing {
        collector: otel(),
        sampling: Some(5),
        with_parties: Some(false),
        ..Tracing::default()
    });
    let narrow = said(Tracing {
        sampling: Some(7),
        ..Tracing::default()
    });
    let plan = Plan::new(&[&wide, &narrow], &collectors());
    let traces = plan.traces.unwrap();
    assert!(traces.is_passed_on && !traces.with_parties);
    assert_eq!(traces.sampling, 7);
    assert!(
        Plan::new(&[&narrow], &collectors()).traces.is_none(),
        "nobody is named"
    );
    let usual = Plan::new(
        &[&said(Tracing {
            collector: otel(),
            ..Tracing::default()
        })],
        &collectors(),
    );
    assert_eq!(usual.traces.unwrap().sampling, SAMPLING);
}

#[test]
fn who_cannot_be_told_is_nobody_else() {
    let wide = said(Tracing {
        collector: otel(),
        ..Tracing::default()
    });
    for narrow in [
        Tracing {
            collector: Some(CollectorRef::Unusable),
            ..Tracing::default()
        },
        Tracing {
            silent: Some(true),
            ..Tracing::default()
        },
    ] {
        let narrow = said(narrow);
        let plan = Plan::new(&[&wide, &narrow], &collectors());
        // Nor do endpoints learn of a parent that nobody knows.
        assert!(plan.traces.is_none());
    }
}

#[test]
fn tags_are_known_before_or_read() {
    let tags = [
        ("a", SpanTag::Literal("b".to_owned())),
        (
            "home",
            SpanTag::Environment {
                name: "PATH".to_owned(),
                otherwise: None,
            },
        ),
        (
            "none",
            SpanTag::Environment {
                name: "TULLE_NO_SUCH".to_owned(),
                otherwise: None,
            },
        ),
        (
            "other",
            SpanTag::Environment {
                name: "TULLE_NO_SUCH".to_owned(),
                otherwise: Some("x".to_owned()),
            },
        ),
        (
            "header",
            SpanTag::Format {
                format: "%REQ(x-a)%".to_owned(),
                otherwise: None,
            },
        ),
        (
            "broken",
            SpanTag::Format {
                format: "%".to_owned(),
                otherwise: None,
            },
        ),
    ];
    let plan = Plan::new(
        &[&said(Tracing {
            collector: otel(),
            tags: Some(tags.map(|(name, tag)| (name.to_owned(), tag)).into()),
            ..Tracing::default()
        })],
        &collectors(),
    );
    assert!(plan.keeps.request && !plan.keeps.response);
    let tags = plan.traces.unwrap().tags;
    let names: Vec<_> = tags.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "header", "home", "other"]);
}

fn lines(logging: &[Option<Vec<LogLine>>]) -> Plan {
    let said: Vec<_> = logging
        .iter()
        .map(|logging| Telemetry {
            logging: logging.clone(),
            ..said(Tracing::default())
        })
        .collect();
    Plan::new(&said.iter().collect::<Vec<_>>(), &collectors())
}

#[test]
fn lines_are_those_of_the_narrowest() {
    let filtered = |filter: &str| {
        Some(vec![LogLine {
            filter: Some(filter.to_owned()),
            format: None,
        }])
    };
    assert!(matches!(lines(&[None, None]).lines, Lines::Usual));
    let of = |plan: Plan| match plan.lines {
        Lines::Usual => panic!("as usual"),
        Lines::These(lines) => lines,
    };
    assert!(of(lines(&[filtered("true"), Some(Vec::new()), None])).is_empty());
    let found = of(lines(&[Some(Vec::new()), filtered("response.code >= 500")]));
    assert!(found[0].filter.as_ref().unwrap().holds(&Seen));
    // One that would tell of other requests than was meant is none.
    assert!(of(lines(&[filtered("later.on")])).is_empty());
}

#[test]
fn labels_are_made_left_out_and_replaced() {
    let change = |metric, labels: &[(&str, Option<&str>)], disabled| MetricChange {
        metric,
        disabled,
        labels: labels
            .iter()
            .map(|(name, says)| ((*name).to_owned(), says.map(ToOwned::to_owned)))
            .collect::<BTreeMap<_, _>>(),
    };
    let changes = Changes::new(
        [
            change(
                None,
                &[("path", Some("request.path")), ("flag", None)],
                None,
            ),
            change(
                Some(Metric::Requests),
                &[("code", Some("'all'")), ("none", Some("request.host"))],
                None,
            ),
            change(Some(Metric::Durations), &[], Some(true)),
            change(Some(Metric::Opened), &[], Some(true)),
            change(Some(Metric::Opened), &[], Some(false)),
        ]
        .iter(),
    );
    let usual = [("code", "503"), ("flag", "-")];
    let usual = usual.map(|(name, value)| (name.into(), value.to_owned()));
    let told = |metric| {
        let wanted = changes.labels(metric, &usual, &Seen)?;
        let labels = wanted.labels.iter();
        let labels = labels.map(|(name, value)| format!("{name}={value}"));
        Some(labels.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(
        told(Metric::Requests).as_deref(),
        Some("code=all none=unknown path=/a")
    );
    assert_eq!(
        told(Metric::RequestBytes).as_deref(),
        Some("code=503 path=/a")
    );
    assert_eq!(told(Metric::Durations), None);
    assert!(told(Metric::Opened).is_some());
    let overflow = changes
        .labels(Metric::RequestBytes, &usual, &Seen)
        .unwrap()
        .overflow;
    assert_eq!(overflow[1], ("path".into(), OTHERS.to_owned()));
}
