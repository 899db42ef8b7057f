use super::*;

fn route(spec: &str, status: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: r, namespace: shop, generation: 3, uid: u-3}}\nspec: {{{spec}}}\n{status}\n---\n"
    )
}

/// What is to be told of the route, as `parent: type=status reason`.
fn told_of_route(yaml: &str) -> Vec<String> {
    let wanted = wanted(&index(yaml)).into_iter();
    let routes =
        wanted.filter(|wanted| matches!(wanted.id.kind, Kind::HTTPRoute | Kind::GRPCRoute));
    let parents = routes.flat_map(|wanted| wanted.parents);
    let told = parents.flat_map(|parent| {
        let name = parent.parent_ref.name.clone();
        let conditions = parent.conditions.into_iter();
        conditions.map(
            move |StatusCondition {
                      kind,
                      status,
                      reason,
                      ..
                  }| { format!("{name}: {kind}={status} {reason}") },
        )
    });
    told.collect()
}

const SERVICE: &str = "{group: '', kind: Service, name: s}";
const UNBOUND: &str = "s: ResolvedWaypoints=False NoWaypoint";

#[test]
fn a_route_says_whether_it_is_in_order_whether_its_backends_are_there_and_who_serves_it() {
    let unbound = BOUND.replace("istio.io/use-waypoint: w", "a: b");
    let good = "rules: [{backendRefs: [{name: s, port: 80}]}]";
    let bad = "rules: [{backendRefs: [{name: none, port: 80}]}]";
    let wrong = "rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]";
    let both = "rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: s, port: 80}]}]";
    let world = [WAYPOINT, BOUND].concat();
    for (world, parent, rules, expected) in [
        (
            &world,
            SERVICE,
            good,
            vec![
                "s: Accepted=True Accepted",
                "s: ResolvedRefs=True ResolvedRefs",
                "s: ResolvedWaypoints=True ResolvedWaypoints",
            ],
        ),
        (
            &unbound,
            SERVICE,
            bad,
            vec![
                "s: Accepted=True Accepted",
                "s: ResolvedRefs=False BackendNotFound",
                UNBOUND,
            ],
        ),
        (
            &unbound,
            SERVICE,
            wrong,
            vec![
                "s: Accepted=False UnsupportedValue",
                "s: ResolvedRefs=True ResolvedRefs",
                UNBOUND,
            ],
        ),
        (
            &unbound,
            SERVICE,
            both,
            vec![
                "s: Accepted=False IncompatibleFilters",
                "s: ResolvedRefs=True ResolvedRefs",
                UNBOUND,
            ],
        ),
        (
            &unbound,
            "{group: '', kind: Service, name: x}",
            good,
            vec![
                "x: Accepted=False NoMatchingParent",
                "x: ResolvedRefs=True ResolvedRefs",
            ],
        ),
        (
            &world,
            "{name: w}",
            good,
            vec![
                "w: Accepted=False NotAllowedByListeners",
                "w: ResolvedRefs=True ResolvedRefs",
            ],
        ),
        (&world, "{name: somebody-elses}", good, vec![]),
        (
            &BOUND.to_owned(),
            SERVICE,
            good,
            vec![
                "s: Accepted=True Accepted",
                "s: ResolvedRefs=True ResolvedRefs",
                "s: ResolvedWaypoints=False WaypointIsNotReady",
            ],
        ),
    ] {
        let http = route(&format!("parentRefs: [{parent}], {rules}"), "");
        assert_eq!(
            told_of_route(&format!("{world}{http}")),
            expected,
            "{parent} {rules}"
        );
    }
    let grpc = route(
        &format!("parentRefs: [{SERVICE}], rules: [{{filters: [{{type: CORS}}]}}]"),
        "",
    );
    let grpc = grpc.replace("HTTPRoute", "GRPCRoute");
    assert_eq!(
        told_of_route(&format!("{unbound}{grpc}"))[0],
        "s: Accepted=False UnsupportedValue"
    );
}

#[test]
fn a_route_that_is_in_order_says_what_of_it_has_no_effect() {
    let spec = format!("parentRefs: [{SERVICE}], hostnames: [a.example]");
    let index = index(&[WAYPOINT, BOUND, &route(&spec, "")].concat());
    let wanted = wanted(&index);
    let parents = wanted.iter().flat_map(|wanted| &wanted.parents);
    let accepted = parents
        .flat_map(|parent| &parent.conditions)
        .next()
        .unwrap();
    assert!(accepted.message.starts_with("in order; "), "{accepted:?}");
    assert!(
        accepted.message.contains("spec.hostnames: no effect"),
        "{accepted:?}"
    );
    assert_eq!(accepted.observed_generation, 3);
}

#[test]
fn entries_of_parents_that_are_there_are_not_wanted_and_those_of_others_are_none_of_ours() {
    let spec = format!("parentRefs: [{SERVICE}, {SERVICE}]");
    let first = wanted(&index(&[WAYPOINT, BOUND, &route(&spec, "")].concat()));
    let first = first
        .into_iter()
        .find(|wanted| wanted.id.kind == Kind::HTTPRoute)
        .unwrap();
    assert_eq!(first.parents.len(), 1, "named twice, it is one");
    assert_eq!((first.uid.as_str(), first.generation), ("u-3", 3));
    let conditions = first.parents[0].conditions.iter().map(|condition| {
        let StatusCondition { kind, status, reason, message, .. } = condition;
        format!(
            "{{type: {kind}, status: '{status}', reason: {reason}, message: '{message}', observedGeneration: 3, \
             lastTransitionTime: '2026-01-01T00:00:00Z'}}"
        )
    });
    let conditions = conditions.collect::<Vec<_>>().join(", ");
    let ours = format!(
        "{{parentRef: {SERVICE}, controllerName: {CONTROLLER}, conditions: [{conditions}]}}"
    );
    let other =
        format!("{{parentRef: {SERVICE}, controllerName: example.com/other, conditions: []}}");
    let with = |parents: &str| {
        let status = format!("status: {{parents: [{parents}]}}");
        let yaml = [WAYPOINT, BOUND, &route(&spec, &status)].concat();
        let wanted = wanted(&index(&yaml)).into_iter();
        wanted
            .filter(|wanted| wanted.id.kind == Kind::HTTPRoute)
            .collect::<Vec<_>>()
    };
    assert_eq!(with(&format!("{other}, {ours}")), []);
    // One condition has turned: only that one has no time.
    let turned = with(&ours.replacen("'True'", "'False'", 1)).remove(0);
    let times = turned.parents[0].conditions.iter();
    let times: Vec<bool> = times
        .map(|condition| condition.last_transition_time.is_empty())
        .collect();
    assert_eq!(times, [true, false, false]);
    // A parent that is no longer named is no longer told of.
    let gone = ours.replace("name: s", "name: gone");
    assert_eq!(with(&format!("{gone}, {ours}")).remove(0).parents.len(), 1);
}
