//! The compiled evaluator agrees with one that follows the words of the specification.
#![expect(clippy::unwrap_used, reason = "the texts parsed here are constants")]

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tulle_model::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, ServiceAccountMatch, SpiffeId,
    StringMatch,
};
use tulle_policy::{CompiledPolicy, Connection, Denied, Permit, PermitReason, PolicySet};

/// A connection that owns its parts.
#[derive(Clone, Debug)]
struct Facts {
    identity: Option<SpiffeId>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl Facts {
    fn connection(&self) -> Connection<'_> {
        Connection {
            identity: self.identity.as_ref(),
            source_ip: self.source,
            destination_ip: self.destination,
            destination_port: self.port,
        }
    }
}

mod naive {
    use super::*;

    pub(super) fn decide(policies: &[Authorization], facts: &Facts) -> Result<(), &'static str> {
        let enforced = |action| {
            policies
                .iter()
                .filter(move |p| p.action == action && !p.dry_run)
        };
        if enforced(Action::Deny).any(|p| policy(p, facts)) {
            return Err("deny");
        }
        if enforced(Action::Allow).count() == 0 || enforced(Action::Allow).any(|p| policy(p, facts))
        {
            return Ok(());
        }
        Err("not allowed")
    }

    pub(super) fn policy(policy: &Authorization, facts: &Facts) -> bool {
        policy
            .rules
            .iter()
            .any(|r| r.clauses.iter().all(|c| clause(c, policy.action, facts)))
    }

    fn clause(clause: &Clause, action: Action, facts: &Facts) -> bool {
        clause.matches.is_empty() || clause.matches.iter().any(|m| one(m, action, facts))
    }

    fn one(m: &Match, action: Action, facts: &Facts) -> bool {
        if m.malformed {
            return action == Action::Deny;
        }
        let namespace = facts.identity.as_ref().map_or("", |id| id.namespace());
        let principal = facts.identity.as_ref().map(SpiffeId::principal);
        let results = [
            list(&m.namespaces, |s| s.matches(namespace)),
            list(&m.not_namespaces, |s| s.matches(namespace)).map(|r| !r),
            list(&m.principals, |s| {
                principal.as_ref().is_some_and(|p| s.matches(p))
            }),
            list(&m.not_principals, |s| {
                principal.as_ref().is_some_and(|p| s.matches(p))
            })
            .map(|r| !r),
            list(&m.service_accounts, |a| account(a, facts)),
            list(&m.not_service_accounts, |a| account(a, facts)).map(|r| !r),
            list(&m.source_ips, |n| n.contains(&facts.source)),
            list(&m.not_source_ips, |n| n.contains(&facts.source)).map(|r| !r),
            list(&m.destination_ips, |n| n.contains(&facts.destination)),
            list(&m.not_destination_ips, |n| n.contains(&facts.destination)).map(|r| !r),
            list(&m.destination_ports, |p| *p == facts.port),
            list(&m.not_destination_ports, |p| *p == facts.port).map(|r| !r),
        ];
        results.iter().any(Option::is_some) && results.iter().flatten().all(|r| *r)
    }

    fn account(wanted: &ServiceAccountMatch, facts: &Facts) -> bool {
        facts.identity.as_ref().is_some_and(|id| {
            id.namespace() == &*wanted.namespace && id.service_account() == &*wanted.service_account
        })
    }

    /// None if the list is absent, otherwise whether any entry holds.
    fn list<T>(entries: &[T], holds: impl Fn(&T) -> bool) -> Option<bool> {
        (!entries.is_empty()).then(|| entries.iter().any(holds))
    }
}

const IDS: [&str; 3] = [
    "spiffe://td/ns/a/sa/x",
    "spiffe://td/ns/b/sa/x",
    "spiffe://u/ns/a/sa/y",
];

fn address() -> impl Strategy<Value = IpAddr> {
    select(vec!["10.0.0.1", "10.0.1.1", "fd00::1"]).prop_map(|a| a.parse().unwrap())
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        option::of(select(IDS.to_vec())),
        address(),
        address(),
        1_u16..4,
    )
        .prop_map(|(identity, source, destination, port)| Facts {
            identity: identity.map(|id| id.parse().unwrap()),
            source,
            destination,
            port,
        })
}

fn text() -> impl Strategy<Value = StringMatch> {
    let texts = vec![
        "",
        "a",
        "b",
        "td/ns/a/sa/x",
        "td/",
        "/sa/x",
        "u/ns/a/sa/y",
        "spiffe://td",
    ];
    prop_oneof![
        select(texts.clone()).prop_map(|t| StringMatch::Exact(t.into())),
        select(texts.clone()).prop_map(|t| StringMatch::Prefix(t.into())),
        select(texts).prop_map(|t| StringMatch::Suffix(t.into())),
        Just(StringMatch::Presence),
    ]
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (select(vec!["", "a", "b"]), select(vec!["", "x", "y"])).prop_map(|(n, s)| {
        ServiceAccountMatch {
            namespace: n.into(),
            service_account: s.into(),
        }
    })
}

fn net() -> impl Strategy<Value = IpNet> {
    select(vec![
        "0.0.0.0/0",
        "10.0.0.0/24",
        "10.0.1.1/32",
        "::/0",
        "fd00::/8",
    ])
    .prop_map(|n| n.parse().unwrap())
}

/// Usually absent, so that matches with few conditions, and with none, are common.
fn few<T: std::fmt::Debug + Clone>(
    entry: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<T>> {
    option::weighted(0.25, vec(entry, 1..3)).prop_map(Option::unwrap_or_default)
}

fn one_match() -> impl Strategy<Value = Match> {
    (
        (few(text()), few(text()), few(text()), few(text())),
        (few(account()), few(account())),
        (few(net()), few(net()), few(net()), few(net())),
        (few(1_u16..4), few(1_u16..4)),
        proptest::bool::weighted(0.05),
    )
        .prop_map(|(texts, accounts, nets, ports, malformed)| Match {
            namespaces: texts.0,
            not_namespaces: texts.1,
            principals: texts.2,
            not_principals: texts.3,
            service_accounts: accounts.0,
            not_service_accounts: accounts.1,
            source_ips: nets.0,
            not_source_ips: nets.1,
            destination_ips: nets.2,
            not_destination_ips: nets.3,
            destination_ports: ports.0,
            not_destination_ports: ports.1,
            http: None,
            malformed,
        })
}

fn policy() -> impl Strategy<Value = Authorization> {
    let clause = vec(one_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    (
        vec(rule, 0..3),
        any::<bool>(),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(rules, allow, dry_run)| Authorization {
            key: PolicyKey::new("ns", "p"),
            scope: Scope::Global,
            action: if allow { Action::Allow } else { Action::Deny },
            rules,
            dry_run,
            authorizer: None,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn one_policy(policy in policy(), facts in facts()) {
        let compiled = CompiledPolicy::compile(&policy);
        prop_assert_eq!(compiled.matches(&facts.connection()), naive::policy(&policy, &facts));
    }

    #[test]
    fn several_policies(policies in vec(policy(), 0..5), facts in facts()) {
        let compiled = policies.iter().map(|p| Arc::new(CompiledPolicy::compile(p)));
        let verdict = PolicySet::new(compiled, Vec::new()).check(&facts.connection());
        let simplified = match &verdict {
            Ok(Permit { reason: PermitReason::NoAllowPolicies | PermitReason::Allowed(_), .. }) => Ok(()),
            Err(Denied::Explicitly(_)) => Err("deny"),
            Err(Denied::NotAllowed) => Err("not allowed"),
            Err(Denied::PolicyMissing(_)) => Err("missing"),
        };
        prop_assert_eq!(simplified, naive::decide(&policies, &facts));
    }
}
