//! What is told of requests arrives as it was sent.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use tulle_model::{
    PolicyTarget, ServiceKey, TargetKind,
    http::BackendService,
    telemetry::{
        Collector, CollectorProtocol, CollectorRef, LogFormat, LogLine, Metric, MetricChange,
        SpanTag, Telemetry, TelemetryKey, TelemetryScope, Tracing,
    },
};
use tulle_proto::mesh as wire;

use crate::{Configuration, ConfigurationName, decode, encode};

fn texts(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    let of = of.iter();
    of.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn everything() -> Telemetry {
    let tags = [
        ("a", SpanTag::Literal("b".to_owned())),
        (
            "b",
            SpanTag::Environment {
                name: "HOME".to_owned(),
                otherwise: Some(String::new()),
            },
        ),
        (
            "c",
            SpanTag::Format {
                format: "%REQ(a)%".to_owned(),
                otherwise: None,
            },
        ),
    ];
    Telemetry {
        key: TelemetryKey::new("shop", "all"),
        scope: TelemetryScope::Targets(vec![PolicyTarget::new(TargetKind::Service, "web")]),
        tracing: Tracing {
            collector: Some(CollectorRef::Collector(Collector {
                name: "otel".into(),
                service: BackendService {
                    key: ServiceKey::new("obs", "otel.obs.svc.cluster.local"),
                    port: Some(4318),
                    subset: None,
                },
                timeout: Duration::from_secs(3),
                protocol: CollectorProtocol::Http {
                    path: "/v1/traces".to_owned(),
                    headers: texts(&[("authorization", "x")]),
                },
            })),
            sampling: Some(0),
            silent: Some(true),
            kept_back: Some(false),
            with_parties: Some(true),
            tags: Some(tags.map(|(name, tag)| (name.to_owned(), tag)).into()),
        },
        metrics: [None, Some(Metric::Requests), Some(Metric::Received)]
            .map(|metric| MetricChange {
                metric,
                disabled: Some(metric.is_none()),
                labels: [("a", Some("b")), ("c", None)]
                    .map(|(name, says)| (name.to_owned(), says.map(ToOwned::to_owned)))
                    .into(),
            })
            .into(),
        logging: Some(vec![
            LogLine::default(),
            LogLine {
                filter: Some("true".to_owned()),
                format: Some(LogFormat::Text("x".to_owned())),
            },
            LogLine {
                filter: None,
                format: Some(LogFormat::Labels {
                    labels: texts(&[("a", "%DURATION%")]),
                    leaves_out: true,
                }),
            },
        ]),
    }
}

fn arrives(telemetry: Telemetry) {
    let sent = Configuration::Telemetry(Box::new(telemetry));
    assert_eq!(
        decode::configuration(&encode::configuration(&sent)),
        Ok(sent.clone())
    );
    let name = sent.name();
    assert_eq!(ConfigurationName::parse(&name.to_string()), Some(name));
}

#[test]
fn all_of_it_arrives() {
    arrives(everything());
    for scope in [
        TelemetryScope::Settings,
        TelemetryScope::Mesh,
        TelemetryScope::Namespace,
    ] {
        let mut little = Telemetry {
            key: TelemetryKey::new("", "mesh"),
            scope,
            tracing: Tracing::default(),
            metrics: Vec::new(),
            logging: None,
        };
        arrives(little.clone());
        // That nobody can be told is another thing than that nobody is named, and no line another than nothing said of lines.
        little.tracing.collector = Some(CollectorRef::Unusable);
        little.logging = Some(Vec::new());
        arrives(little);
    }
}

#[test]
fn what_is_of_the_future_is_refused() {
    let spoilt = |spoil: fn(&mut wire::Telemetry)| {
        let sent = Configuration::Telemetry(Box::new(everything()));
        let mut message = wire::Configuration::decode(&*encode::configuration(&sent)).unwrap();
        let Some(wire::configuration::Kind::Telemetry(telemetry)) = &mut message.kind else {
            panic!("another kind");
        };
        spoil(telemetry);
        decode::configuration(&message.encode_to_vec())
    };
    assert!(spoilt(|_| {}).is_ok());
    let spoils: [fn(&mut wire::Telemetry); 7] = [
        |of| of.scope = 9,
        |of| of.scope = 0,
        |of| of.targets[0].kind = "Later".to_owned(),
        |of| of.metrics[0].metric = 99,
        |of| {
            of.tracing
                .as_mut()
                .unwrap()
                .collector
                .as_mut()
                .unwrap()
                .protocol = None
        },
        |of| {
            of.tracing
                .as_mut()
                .unwrap()
                .collector
                .as_mut()
                .unwrap()
                .port = 70_000
        },
        |of| {
            let tags = &mut of.tracing.as_mut().unwrap().tags.as_mut().unwrap().tags;
            tags.insert("d".to_owned(), wire::SpanTag::default());
        },
    ];
    for spoil in spoils {
        assert!(spoilt(spoil).is_err());
    }
}
