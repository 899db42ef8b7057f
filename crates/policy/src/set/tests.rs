use tulle_model::{Authorization, Clause, Match, Rule, Scope};

use super::*;

const HOLDS: u16 = 80;
const FAILS: u16 = 81;

fn policy(name: &str, action: Action, dry_run: bool, port: u16) -> Arc<CompiledPolicy> {
    let written = written(name, action, dry_run, port);
    Arc::new(CompiledPolicy::compile(&written))
}

fn asking(authorizer: &str, port: u16) -> Arc<CompiledPolicy> {
    Arc::new(CompiledPolicy::compile(&Authorization {
        authorizer: Some(authorizer.into()),
        ..written("asks", Action::Deny, false, port)
    }))
}

fn written(name: &str, action: Action, dry_run: bool, port: u16) -> Authorization {
    let one = Match {
        destination_ports: vec![port],
        ..Match::default()
    };
    Authorization {
        key: PolicyKey::new("ns", name),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule {
            clauses: vec![Clause { matches: vec![one] }],
        }],
        dry_run,
        authorizer: None,
    }
}

fn connection() -> Connection<'static> {
    Connection {
        identity: None,
        source_ip: [10, 0, 0, 1].into(),
        destination_ip: [10, 0, 0, 2].into(),
        destination_port: HOLDS,
    }
}

fn key(name: &str) -> PolicyKey {
    PolicyKey::new("ns", name)
}

#[test]
fn deny_goes_before_allow_and_allow_is_needed_once_it_exists() {
    let allow = |port| policy("allow", Action::Allow, false, port);
    let deny = |port| policy("deny", Action::Deny, false, port);
    let allowed = || Ok(PermitReason::Allowed(key("allow")));
    for (name, policies, expected) in [
        ("nothing", vec![], Ok(PermitReason::NoAllowPolicies)),
        (
            "deny misses",
            vec![deny(FAILS)],
            Ok(PermitReason::NoAllowPolicies),
        ),
        (
            "deny matches",
            vec![deny(HOLDS)],
            Err(Denied::Explicitly(key("deny"))),
        ),
        ("allow matches", vec![allow(HOLDS)], allowed()),
        ("allow misses", vec![allow(FAILS)], Err(Denied::NotAllowed)),
        (
            "one of two allows",
            vec![allow(FAILS), allow(HOLDS)],
            allowed(),
        ),
        (
            "both match",
            vec![allow(HOLDS), deny(HOLDS)],
            Err(Denied::Explicitly(key("deny"))),
        ),
        (
            "only allow matches",
            vec![deny(FAILS), allow(HOLDS)],
            allowed(),
        ),
    ] {
        let verdict = PolicySet::new(policies, Vec::new()).check(&connection());
        assert_eq!(verdict.map(|permit| permit.reason), expected, "{name}");
    }
}

#[test]
fn missing_policy_refuses_but_an_explicit_denial_is_named_first() {
    let missing = vec![key("gone")];
    let allow = policy("allow", Action::Allow, false, HOLDS);
    let deny = policy("deny", Action::Deny, false, HOLDS);
    let check = |policy| PolicySet::new([policy], missing.clone()).check(&connection());
    assert_eq!(check(allow), Err(Denied::PolicyMissing(key("gone"))));
    assert_eq!(check(deny), Err(Denied::Explicitly(key("deny"))));
}

#[test]
fn those_who_are_to_be_asked_are_told_once_and_refuse_where_nobody_can_be() {
    let set = |policies: Vec<_>| PolicySet::new(policies, Vec::new());
    let request = Request {
        host: "web",
        method: "GET",
        path: "/",
        remote_ip: [10, 0, 0, 1].into(),
        header: &|_| Vec::new(),
        token: &|_| Vec::new(),
    };
    let both = set(vec![
        asking("guard", HOLDS),
        asking("other", HOLDS),
        asking("guard", HOLDS),
        asking("nobody", FAILS),
    ]);
    let names = both.authorizers(&connection(), request);
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["guard", "other"]);
    // They have been asked by then.
    assert!(both.check_request(&connection(), request).is_ok());
    assert_eq!(
        both.check(&connection()),
        Err(Denied::Explicitly(key("asks")))
    );
    let none = set(vec![asking("nobody", FAILS)]);
    assert!(none.authorizers(&connection(), request).is_empty());
    assert!(none.check(&connection()).is_ok());
}

#[test]
fn dry_run_is_reported_and_not_enforced() {
    let set = PolicySet::new(
        [
            policy("would-deny", Action::Deny, true, HOLDS),
            policy("would-not-deny", Action::Deny, true, FAILS),
            policy("would-not-allow", Action::Allow, true, FAILS),
        ],
        Vec::new(),
    );
    let permit = set.check(&connection()).unwrap();
    assert_eq!(permit.reason, PermitReason::NoAllowPolicies);
    assert_eq!(permit.dry_run.denied_by.as_slice(), [key("would-deny")]);
    assert!(permit.dry_run.not_allowed);
    assert_eq!(set.dry_run(&connection()), permit.dry_run);
}

#[test]
fn dry_run_allow_does_not_satisfy_an_enforced_one() {
    let set = PolicySet::new(
        [
            policy("enforced", Action::Allow, false, FAILS),
            policy("would-allow", Action::Allow, true, HOLDS),
        ],
        Vec::new(),
    );
    assert_eq!(set.check(&connection()), Err(Denied::NotAllowed));
    let dry_run = set.dry_run(&connection());
    assert_eq!(dry_run.allowed_by.as_slice(), [key("would-allow")]);
    assert!(!dry_run.not_allowed);
}

#[test]
fn denials_read_well() {
    for (denied, text) in [
        (Denied::Explicitly(key("a")), "explicitly denied by ns/a"),
        (Denied::NotAllowed, "allow policies exist, but none allowed"),
        (
            Denied::PolicyMissing(key("a")),
            "policy ns/a applies but has not arrived",
        ),
    ] {
        assert_eq!(denied.to_string(), text);
    }
}

#[test]
fn sets_are_the_same_only_with_the_same_lists() {
    let list: Arc<PolicyList> = Arc::new(
        [policy("a", Action::Deny, false, HOLDS)]
            .into_iter()
            .collect(),
    );
    let set = PolicySet::from_lists([Arc::clone(&list)], []);
    assert!(set.is_same(&PolicySet::from_lists([Arc::clone(&list)], [])));
    assert!(!set.is_same(&PolicySet::from_lists([Arc::clone(&list)], [key("x")])));
    assert!(!set.is_same(&PolicySet::default()));
}

#[test]
fn what_is_audited_is_told_and_nothing_else() {
    let audit = |name, port| policy(name, Action::Audit, false, port);
    let set = PolicySet::new([audit("seen", HOLDS), audit("other", FAILS)], Vec::new());
    let permit = set.check(&connection()).unwrap();
    assert_eq!(permit.reason, PermitReason::NoAllowPolicies);
    assert_eq!(permit.dry_run.audited_by.as_slice(), [key("seen")]);
    assert!(permit.dry_run.denied_by.is_empty() && !permit.dry_run.is_empty());
}
