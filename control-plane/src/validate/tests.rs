use super::*;
use crate::testing;

mod istio;
mod routes;

/// The problems of an object, each as `fault path`, sorted.
fn told(kind: &str, spec: &str) -> Vec<String> {
    let version = testing::api_version(kind);
    let yaml =
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{spec}}}\n");
    let object = testing::objects(&yaml).remove(0);
    let problems = problems(&object).unwrap();
    let mut told: Vec<String> = problems
        .iter()
        .map(|Problem { fault, finding }| format!("{fault:?} {}", finding.field))
        .collect();
    told.sort();
    told
}

/// Each specification with what is told of it, separated by commas.
fn table(kind: &str, cases: &[(&str, &str)]) {
    for (spec, expected) in cases {
        assert_eq!(told(kind, spec).join(", "), *expected, "{kind} {spec}");
    }
}

#[test]
fn what_could_not_be_understood_is_said_and_nothing_else() {
    let object = Declared {
        unreadable: Some("expected a list".to_owned()),
        ..tulle_manifest::DestinationRule::default()
    };
    let problems = problems(&object.into()).unwrap();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].fault, Fault::Invalid);
    let message = &problems[0].finding.message;
    assert_eq!(message, "cannot be understood: expected a list");
}

#[test]
fn kinds_of_others_have_no_problems_here() {
    let pod = testing::pod("metadata: {name: a}\n");
    assert_eq!(problems(&pod.into()), None);
}

#[test]
fn what_refuses_is_told_however_much_there_is_that_does_not() {
    let rules = vec![
        "{route: [{destination: {host: a}}], mirrorPercentage: {value: 1}}";
        MOST_PROBLEMS + 8
    ];
    let spec = format!("hosts: [a], http: [{}, {{route: []}}]", rules.join(", "));
    let told = told("VirtualService", &spec);
    assert_eq!(told.len(), MOST_PROBLEMS);
    let last = format!("Invalid spec.http[{}]", MOST_PROBLEMS + 8);
    assert!(told.contains(&last), "{told:?}");
}
