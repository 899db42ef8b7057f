use std::sync::Arc;

use tulle_manifest::source::Change;
use tulle_model::{PolicyTarget, TargetKind};
use tulle_xds::store::Transaction;

use super::*;
use crate::{mesh::Mesh, testing::objects};

const OTEL: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: obs}
spec: {clusterIP: 10.96.0.9, ports: [{port: 4317}]}
";
const SETTINGS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    extensionProviders:
    - {name: otel, opentelemetry: {service: otel.obs.svc.cluster.local, port: 4317}}
    - name: web
      opentelemetry:
        service: obs/otel.obs.svc.cluster.local
        port: 4317
        http: {path: /v1/traces, timeout: 3s, headers: [{name: X-Key, value: a}]}
    - {name: lost, opentelemetry: {service: nobody.obs.svc.cluster.local, port: 4317}}
    - {name: broken, opentelemetry: {service: otel.obs.svc.cluster.local, port: 0}}
    - name: lines
      envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: \"%RESPONSE_CODE%\"}}
    - name: labels
      envoyFileAccessLog: {logFormat: {labels: {code: \"%RESPONSE_CODE%\"}}, omitEmptyValues: true}
    - {name: file, envoyFileAccessLog: {path: /tmp/x}}
    - {name: zipkin, zipkin: {service: x, port: 1}}
";

fn index() -> Index {
    let mut index = Index::new(Arc::new(Mesh::default()));
    apply(&mut index, &format!("{SETTINGS}{OTEL}"));
    index
}

/// A Telemetry of a namespace.
fn telemetry(namespace: &str, spec: &str) -> Change {
    let yaml = format!(
        "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: a, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    );
    Change::Upsert(objects(&yaml).remove(0))
}

fn apply(index: &mut Index, yaml: &str) -> Transaction {
    index.apply(objects(yaml).into_iter().map(Change::Upsert).collect())
}

/// What is told because of a Telemetry of namespace `shop` that says this.
fn of(index: &mut Index, spec: &str) -> Telemetry {
    index.apply(vec![telemetry("shop", spec)]);
    told(index)[&TelemetryKey::new("shop", "a")].clone()
}

fn text(text: &str) -> Option<LogFormat> {
    Some(LogFormat::Text(text.to_owned()))
}

#[test]
fn who_is_told_is_looked_up() {
    let mut index = index();
    let collector = |index: &mut Index, name: &str| {
        let spec = format!("tracing: [{{providers: [{{name: {name}}}]}}]");
        of(index, &spec).tracing.collector
    };
    let Some(CollectorRef::Collector(otel)) = collector(&mut index, "otel") else {
        panic!("nobody is told");
    };
    assert_eq!(
        otel.service.key.to_string(),
        "obs/otel.obs.svc.cluster.local"
    );
    assert_eq!(
        (otel.service.port, otel.protocol),
        (Some(4317), CollectorProtocol::Grpc)
    );
    let Some(CollectorRef::Collector(web)) = collector(&mut index, "web") else {
        panic!("nobody is told");
    };
    assert_eq!(web.timeout, Duration::from_secs(3));
    assert!(
        matches!(web.protocol, CollectorProtocol::Http { path, headers } if path == "/v1/traces" && headers["x-key"] == "a")
    );
    // Nobody else is told instead of one who cannot be.
    for unusable in ["lost", "broken", "lines", "zipkin", "nobody"] {
        let told = collector(&mut index, unusable);
        assert_eq!(told, Some(CollectorRef::Unusable), "{unusable}");
    }
    let none = of(&mut index, "tracing: [{randomSamplingPercentage: 0.5}]");
    assert_eq!(
        (none.tracing.collector, none.tracing.sampling),
        (None, Some(5000))
    );
}

#[test]
fn one_whose_service_comes_is_told_then() {
    let mut index = Index::new(Arc::new(Mesh::default()));
    apply(&mut index, SETTINGS);
    let told = of(&mut index, "tracing: [{providers: [{name: otel}]}]");
    assert_eq!(told.tracing.collector, Some(CollectorRef::Unusable));
    let transaction = apply(&mut index, OTEL);
    let names = transaction
        .configurations
        .iter()
        .map(|(name, _)| name.as_str());
    let names: Vec<_> = names
        .filter(|name| name.starts_with("telemetry/"))
        .collect();
    assert_eq!(names, ["telemetry/shop/a"]);
}

#[test]
fn scopes_go_from_wide_to_narrow() {
    let mut index = index();
    assert_eq!(of(&mut index, "").scope, TelemetryScope::Namespace);
    let spec = "targetRefs: [{kind: Service, name: web}, {kind: Later, name: x}]";
    let web = vec![PolicyTarget::new(TargetKind::Service, "web")];
    assert_eq!(of(&mut index, spec).scope, TelemetryScope::Targets(web));
    // What selects is for node proxies and the like, and what is not in order for nobody.
    for left_out in [
        "selector: {matchLabels: {a: b}}",
        "tracing: [{randomSamplingPercentage: 101}]",
        "later: 1",
    ] {
        let changed = index.apply(vec![telemetry("shop", left_out)]);
        assert!(
            changed.configurations.iter().all(|(_, one)| one.is_none()),
            "{left_out}"
        );
    }
    index.apply(vec![telemetry("istio-system", "")]);
    let told = told(&index);
    let scopes: Vec<_> = told.values().map(|one| &one.scope).collect();
    assert_eq!(scopes, [&TelemetryScope::Mesh]);
}

#[test]
fn the_oldest_of_a_namespace_counts() {
    let mut index = index();
    let of = |name: &str, second: u32| {
        format!(
            "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-01T00:00:0{second}Z'}}\nspec: {{}}\n"
        )
    };
    apply(
        &mut index,
        &format!("{}{}{}", of("a", 2), of("b", 1), of("c", 3)),
    );
    let names: Vec<_> = told(&index).into_keys().map(|key| key.name).collect();
    assert_eq!(names, ["b".into()]);
    let late = index
        .objects()
        .telemetries()
        .values()
        .find(|one| one.metadata.name == "c")
        .unwrap();
    assert!(is_outdone(&index, late));
}

#[test]
fn lines_are_as_providers_say() {
    let mut index = index();
    let lines =
        |index: &mut Index, spec: &str| of(index, &format!("accessLogging: {spec}")).logging;
    let usual = Some(vec![LogLine::default()]);
    assert_eq!(of(&mut index, "").logging, None);
    assert_eq!(lines(&mut index, "[{}]"), usual);
    assert_eq!(lines(&mut index, "[{providers: [{name: envoy}]}]"), usual);
    let two = lines(
        &mut index,
        "[{providers: [{name: lines}, {name: labels}], filter: {expression: 'response.code > 399'}}]",
    );
    let filter = Some("response.code > 399".to_owned());
    let labels = LogFormat::Labels {
        labels: [("code".to_owned(), "%RESPONSE_CODE%".to_owned())].into(),
        leaves_out: true,
    };
    let expected = [text("%RESPONSE_CODE%"), Some(labels)].map(|format| LogLine {
        filter: filter.clone(),
        format,
    });
    assert_eq!(two, Some(expected.into()));
    for nothing in [
        "[{disabled: true}]",
        "[{providers: [{name: file}]}]",
        "[{providers: [{name: otel}]}]",
        "[{providers: [{name: lines}]}, {providers: [{name: lines}], disabled: true}]",
    ] {
        assert_eq!(lines(&mut index, nothing), Some(Vec::new()), "{nothing}");
    }
    // Said of the other side.
    assert_eq!(
        lines(&mut index, "[{disabled: true, match: {mode: CLIENT}}]"),
        None
    );
}

#[test]
fn metrics_change_as_written() {
    let mut index = index();
    let changes = of(
        &mut index,
        "metrics: [{overrides: [
        {tagOverrides: {host: {value: request.host}, response_flags: {operation: REMOVE}}},
        {match: {metric: REQUEST_SIZE}, disabled: true},
        {match: {metric: REQUEST_COUNT, mode: CLIENT}, disabled: true},
        {match: {customMetric: own}, disabled: true}]},
        {providers: [{name: otel}], overrides: [{disabled: true}]}]",
    )
    .metrics;
    let labels = [("host", Some("request.host")), ("response_flags", None)];
    let labels = labels.map(|(name, says)| (name.to_owned(), says.map(ToOwned::to_owned)));
    let expected = [
        MetricChange {
            metric: None,
            disabled: None,
            labels: labels.into(),
        },
        MetricChange {
            metric: Some(Metric::RequestBytes),
            disabled: Some(true),
            labels: BTreeMap::new(),
        },
    ];
    assert_eq!(changes, expected);
}

#[test]
fn settings_are_the_widest() {
    let mut index = index();
    assert!(told(&index).is_empty(), "they say nothing of it");
    let settings = |more: &str| SETTINGS.replace("  mesh: |\n", &format!("  mesh: |\n{more}"));
    apply(
        &mut index,
        &settings(
            "    defaultProviders: {tracing: [otel], accessLogging: [lines]}\n    defaultConfig: {tracing: {sampling: 100}}\n",
        ),
    );
    let said = told(&index).into_values().next().unwrap();
    assert_eq!(said.scope, TelemetryScope::Settings);
    assert!(matches!(
        said.tracing.collector,
        Some(CollectorRef::Collector(_))
    ));
    assert_eq!(said.tracing.sampling, Some(1_000_000));
    assert_eq!(said.logging.unwrap()[0].format, text("%RESPONSE_CODE%"));
    apply(
        &mut index,
        &settings(
            "    accessLogFormat: '{\"code\": \"%RESPONSE_CODE%\"}'\n    accessLogEncoding: JSON\n",
        ),
    );
    let said = told(&index).into_values().next().unwrap();
    let Some(LogFormat::Labels { labels, .. }) = &said.logging.unwrap()[0].format else {
        panic!("no labels");
    };
    assert_eq!(labels["code"], "%RESPONSE_CODE%");
}

#[test]
fn what_cannot_be_understood_leaves_lines_as_usual() {
    let mut index = index();
    for more in [
        "accessLogFormat: '%LATER%'",
        "accessLogFormat: '%LATER%'\n    accessLogEncoding: JSON",
    ] {
        let settings = SETTINGS.replace("  mesh: |\n", &format!("  mesh: |\n    {more}\n"));
        apply(&mut index, &settings);
        assert!(told(&index).is_empty(), "{more}");
    }
}

#[test]
fn what_is_not_done_is_told() {
    let mut index = index();
    let spec = "tracing: [{providers: [{name: lost}], useRequestIdForTraceSampling: true}], \
        metrics: [{providers: [{name: otel}, {name: prometheus}], overrides: [{match: {customMetric: own}}]}], \
        accessLogging: [{providers: [{name: envoy}, {name: file}]}]";
    index.apply(vec![telemetry("shop", spec)]);
    let object = index.objects().telemetries().values().next().unwrap();
    let found: Vec<_> = undone(&index, object)
        .into_iter()
        .map(|found| found.field)
        .collect();
    assert_eq!(
        found,
        [
            "spec.tracing[0].providers[0]",
            "spec.tracing[0].useRequestIdForTraceSampling",
            "spec.metrics[0].providers[0]",
            "spec.metrics[0].overrides[0].match.customMetric",
            "spec.accessLogging[0].providers[1]",
        ]
    );
}
