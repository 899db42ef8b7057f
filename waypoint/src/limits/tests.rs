use std::time::Duration;

use tulle_model::{PolicyTarget, StringMatch, TargetKind};

use super::*;

fn limit(name: &str, requests: u32) -> limit::Limit {
    limit::Limit {
        name: name.into(),
        about: HttpMatch::default(),
        dry_run: false,
        tells: false,
        resource_exhausted: false,
        counted: Counted::Here(LocalLimit {
            requests,
            per: Duration::from_secs(3600),
            burst: 1,
            by: Vec::new(),
        }),
    }
}

fn made(limits: Vec<limit::Limit>, before: Option<&Limits>) -> Limits {
    let target = PolicyTarget::new(TargetKind::Service, "web");
    let policy = LimitPolicy {
        key: PolicyKey::for_target("shop", "p", &target),
        limits: Ok(limits),
    };
    Limits::new(policy, before)
}

fn passes(limits: &Limits, number: usize) -> bool {
    let Limits::Known(limits) = limits else {
        panic!("{limits:?}");
    };
    let Count::Here(local) = &limits[number].count else {
        panic!("{limits:?}");
    };
    local.buckets.take(None, Duration::ZERO).from.is_some()
}

#[test]
fn a_limit_that_stays_counts_on() {
    let before = made(vec![limit("a", 1), limit("b", 1), limit("c", 1)], None);
    for number in 0..3 {
        assert!(passes(&before, number));
    }
    let tried_out = limit::Limit {
        dry_run: true,
        ..limit("a", 1)
    };
    let after = made(vec![limit("d", 1), tried_out, limit("b", 2)], Some(&before));
    assert!(passes(&after, 0), "a new one");
    assert!(!passes(&after, 1), "counts what it counted");
    assert!(passes(&after, 2), "another limit of the same name");
}

#[test]
fn limits_are_known_by_their_policy() {
    let limits = made(vec![limit("a", 1)], None);
    assert_eq!(format!("{limits:?}"), "Known([shop/p/a])");
    let key = PolicyKey::new("shop", "p");
    let not_in_order = LimitPolicy {
        key,
        limits: Err("no".to_owned()),
    };
    assert!(matches!(
        Limits::new(not_in_order, Some(&limits)),
        Limits::Broken
    ));
}

#[test]
fn a_limit_is_about_what_it_says() {
    let about = HttpMatch {
        methods: vec![StringMatch::Exact("GET".into())],
        ..HttpMatch::default()
    };
    let some = limit::Limit {
        about,
        ..limit("a", 1)
    };
    let Limits::Known(limits) = made(vec![some, limit("b", 1)], None) else {
        panic!("not known");
    };
    assert!(limits[0].about.is_some() && limits[1].about.is_none());
}
