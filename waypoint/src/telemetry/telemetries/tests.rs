use tulle_model::telemetry::Tracing;
use tulle_proto::trace as wire;

use super::*;
use crate::telemetry::Counted;

fn telemetry(namespace: &str, name: &str, scope: TelemetryScope) -> Telemetry {
    Telemetry {
        key: TelemetryKey::new(namespace, name),
        scope,
        tracing: Tracing::default(),
        metrics: Vec::new(),
        logging: None,
    }
}

fn targets(kind: TargetKind, name: &str) -> TelemetryScope {
    TelemetryScope::Targets(vec![PolicyTarget::new(kind, name)])
}

/// What is said about service `web` of namespace `shop` behind waypoint `w` of namespace `edge`.
fn about(all: &[Telemetry]) -> Vec<String> {
    let said = all.iter().fold(Telemetries::default(), |said, one| {
        said.with(one.key.clone(), Some(one.clone()))
    });
    let of = |namespace: &str, kind, name: &str| (namespace.into(), PolicyTarget::new(kind, name));
    let targets = [
        of("edge", TargetKind::Gateway, "w"),
        of("edge", TargetKind::GatewayClass, "istio-waypoint"),
        of("shop", TargetKind::Service, "web"),
        of("shop", TargetKind::ServiceEntry, "web"),
    ];
    let about = said.about("edge", &targets);
    about.iter().map(|one| one.key.name.to_string()).collect()
}

#[test]
fn what_is_narrower_comes_later() {
    let all = [
        telemetry("shop", "service", targets(TargetKind::Service, "web")),
        telemetry("edge", "gateway", targets(TargetKind::Gateway, "w")),
        telemetry(
            "istio-system",
            "class",
            targets(TargetKind::GatewayClass, "istio-waypoint"),
        ),
        telemetry("shop", "namespace", TelemetryScope::Namespace),
        telemetry("edge", "waypoint", TelemetryScope::Namespace),
        telemetry("istio-system", "mesh", TelemetryScope::Mesh),
        telemetry("", "settings", TelemetryScope::Settings),
    ];
    let expected = [
        "settings",
        "mesh",
        "waypoint",
        "namespace",
        "class",
        "gateway",
        "service",
    ];
    assert_eq!(about(&all), expected);
}

#[test]
fn what_is_about_others_is_left_out() {
    let all = [
        telemetry("edge", "other-service", targets(TargetKind::Service, "web")),
        telemetry("shop", "other-gateway", targets(TargetKind::Gateway, "w")),
        telemetry(
            "istio-system",
            "other-class",
            targets(TargetKind::GatewayClass, "tulle-waypoint"),
        ),
        telemetry("bank", "other-namespace", TelemetryScope::Namespace),
    ];
    assert!(about(&all).is_empty());
    // Of two that are as wide, the first by name is the stronger.
    let two = ["b", "a"].map(|name| telemetry("shop", name, targets(TargetKind::Service, "web")));
    assert_eq!(about(&two), ["b", "a"]);
}

#[test]
fn destinations_share_what_is_made_of_the_same() {
    let (collectors, _) = Collectors::new(Counted::default(), wire::Resource::default());
    let nothing = Telemetries::default();
    assert!(Arc::ptr_eq(
        &nothing.plan("a", &[], &collectors),
        &nothing.plan("b", &[], &collectors)
    ));
    let mesh = telemetry("istio-system", "mesh", TelemetryScope::Mesh);
    let said = nothing.with(mesh.key.clone(), Some(mesh.clone()));
    let made = said.plan("a", &[], &collectors);
    assert!(Arc::ptr_eq(&made, &said.plan("b", &[], &collectors)));
    assert!(!Arc::ptr_eq(&made, &said.usual));
    let gone = said.with(mesh.key, None);
    assert!(Arc::ptr_eq(&gone.plan("a", &[], &collectors), &gone.usual));
}
