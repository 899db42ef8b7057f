use tulle_model::SpiffeId;

use super::*;

/// Who connects in a table of cases.
#[derive(Clone, Copy, Debug)]
enum Who {
    Plaintext,
    Cart,
    Stranger,
}

impl Who {
    fn id(self) -> Option<SpiffeId> {
        match self {
            Self::Plaintext => None,
            Self::Cart => Some("spiffe://td/ns/shop/sa/cart".parse().unwrap()),
            Self::Stranger => Some("spiffe://other/ns/evil/sa/mallory".parse().unwrap()),
        }
    }
}

fn policy(action: Action, rules: Vec<Rule>) -> CompiledPolicy {
    CompiledPolicy::compile(&Authorization {
        key: PolicyKey::new("ns", "name"),
        scope: Scope::Global,
        action,
        rules,
        dry_run: false,
        authorizer: None,
    })
}

fn one_match(one: Match) -> Vec<Rule> {
    vec![Rule {
        clauses: vec![Clause { matches: vec![one] }],
    }]
}

fn holds(policy: &CompiledPolicy, who: Who) -> bool {
    policy.matches(&Connection {
        identity: who.id().as_ref(),
        source_ip: "10.0.0.1".parse().unwrap(),
        destination_ip: "10.0.1.2".parse().unwrap(),
        destination_port: 8080,
    })
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

fn prefix(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Prefix(text.into())]
}

fn suffix(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Suffix(text.into())]
}

fn account(namespace: &str, service_account: &str) -> Vec<ServiceAccountMatch> {
    vec![ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: service_account.into(),
    }]
}

fn nets(text: &str) -> Vec<IpNet> {
    vec![text.parse().unwrap()]
}

#[test]
fn every_kind_of_condition_for_plaintext_a_friend_and_a_stranger() {
    let presence = || vec![StringMatch::Presence];
    let none = Match::default;
    #[rustfmt::skip]
    let cases: Vec<(&str, Match, [bool; 3])> = vec![
        // name, match, holds for [plaintext, cart, stranger]
        ("namespace exact", Match { namespaces: exact("shop"), ..none() }, [false, true, false]),
        ("namespace prefix", Match { namespaces: prefix("sh"), ..none() }, [false, true, false]),
        ("namespace suffix", Match { namespaces: suffix("op"), ..none() }, [false, true, false]),
        ("namespace presence", Match { namespaces: presence(), ..none() }, [false, true, true]),
        ("namespace empty prefix", Match { namespaces: prefix(""), ..none() }, [true, true, true]),
        ("namespace case", Match { namespaces: exact("Shop"), ..none() }, [false, false, false]),
        ("not namespace exact", Match { not_namespaces: exact("shop"), ..none() }, [true, false, true]),
        ("not namespace presence", Match { not_namespaces: presence(), ..none() }, [true, false, false]),
        ("principal exact", Match { principals: exact("td/ns/shop/sa/cart"), ..none() }, [false, true, false]),
        ("principal with scheme", Match { principals: exact("spiffe://td/ns/shop/sa/cart"), ..none() }, [false, false, false]),
        ("principal prefix", Match { principals: prefix("td/"), ..none() }, [false, true, false]),
        ("principal prefix over a boundary", Match { principals: prefix("td/ns/shop/sa/c"), ..none() }, [false, true, false]),
        ("principal suffix", Match { principals: suffix("/sa/cart"), ..none() }, [false, true, false]),
        ("principal longer than the identity", Match { principals: prefix("td/ns/shop/sa/cart2"), ..none() }, [false, false, false]),
        ("principal dot is a dot", Match { principals: exact("td/ns/shop/sa/c.rt"), ..none() }, [false, false, false]),
        ("principal presence", Match { principals: presence(), ..none() }, [false, true, true]),
        ("principal empty prefix", Match { principals: prefix(""), ..none() }, [false, true, true]),
        ("not principal exact", Match { not_principals: exact("td/ns/shop/sa/cart"), ..none() }, [true, false, true]),
        ("not principal presence", Match { not_principals: presence(), ..none() }, [true, false, false]),
        ("account", Match { service_accounts: account("shop", "cart"), ..none() }, [false, true, false]),
        ("account of another namespace", Match { service_accounts: account("evil", "cart"), ..none() }, [false, false, false]),
        ("empty account", Match { service_accounts: account("", ""), ..none() }, [false, false, false]),
        ("not account", Match { not_service_accounts: account("shop", "cart"), ..none() }, [true, false, true]),
        ("source in", Match { source_ips: nets("10.0.0.0/24"), ..none() }, [true, true, true]),
        ("source out", Match { source_ips: nets("10.0.1.0/24"), ..none() }, [false, false, false]),
        ("source of another family", Match { source_ips: nets("::/0"), ..none() }, [false, false, false]),
        ("not source in", Match { not_source_ips: nets("10.0.0.0/24"), ..none() }, [false, false, false]),
        ("not source out", Match { not_source_ips: nets("10.0.1.0/24"), ..none() }, [true, true, true]),
        ("destination in", Match { destination_ips: nets("10.0.1.2/32"), ..none() }, [true, true, true]),
        ("destination out", Match { destination_ips: nets("10.0.0.1/32"), ..none() }, [false, false, false]),
        ("not destination in", Match { not_destination_ips: nets("0.0.0.0/0"), ..none() }, [false, false, false]),
        ("port", Match { destination_ports: vec![80, 8080], ..none() }, [true, true, true]),
        ("other port", Match { destination_ports: vec![80], ..none() }, [false, false, false]),
        ("not port", Match { not_destination_ports: vec![8080], ..none() }, [false, false, false]),
        ("not other port", Match { not_destination_ports: vec![80], ..none() }, [true, true, true]),
        ("kinds are ANDed", Match { namespaces: exact("shop"), destination_ports: vec![80], ..none() }, [false, false, false]),
        ("list and its twin", Match { namespaces: presence(), not_namespaces: exact("shop"), ..none() }, [false, false, true]),
        ("no condition", none(), [false, false, false]),
    ];
    for (name, one, expected) in cases {
        for action in [Action::Allow, Action::Deny] {
            let policy = policy(action, one_match(one.clone()));
            let actual = [Who::Plaintext, Who::Cart, Who::Stranger].map(|who| holds(&policy, who));
            assert_eq!(actual, expected, "{name} ({action:?})");
        }
    }
}

#[test]
fn empty_lists() {
    let always = || Match {
        destination_ports: vec![8080],
        ..Match::default()
    };
    let never = || Match {
        destination_ports: vec![1],
        ..Match::default()
    };
    let clause = |matches: Vec<Match>| Clause { matches };
    let rule = |clauses: Vec<Clause>| Rule { clauses };
    #[rustfmt::skip]
    let cases = vec![
        ("no rule", vec![], false),
        ("no clause", vec![rule(vec![])], true),
        ("no match", vec![rule(vec![clause(vec![])])], true),
        ("match without condition", vec![rule(vec![clause(vec![Match::default()])])], false),
        ("empty match beside one that holds", vec![rule(vec![clause(vec![Match::default(), always()])])], true),
        ("OR in a clause", vec![rule(vec![clause(vec![never(), always()])])], true),
        ("AND of clauses", vec![rule(vec![clause(vec![always()]), clause(vec![never()])])], false),
        ("empty clause beside one that fails", vec![rule(vec![clause(vec![]), clause(vec![never()])])], false),
        ("OR of rules", vec![rule(vec![clause(vec![never()])]), rule(vec![clause(vec![always()])])], true),
        ("(fail or hold) and (hold or fail)", vec![rule(vec![clause(vec![never(), always()]), clause(vec![always(), never()])])], true),
    ];
    for (name, rules, expected) in cases {
        let policy = policy(Action::Allow, rules);
        assert_eq!(holds(&policy, Who::Cart), expected, "{name}");
    }
}

#[test]
fn malformed_match_never_widens_access() {
    let malformed = Match {
        namespaces: exact("shop"),
        malformed: true,
        ..Match::default()
    };
    for who in [Who::Plaintext, Who::Cart, Who::Stranger] {
        let allow = policy(Action::Allow, one_match(malformed.clone()));
        assert!(!holds(&allow, who), "{who:?} allowed");
        let deny = policy(Action::Deny, one_match(malformed.clone()));
        assert!(holds(&deny, who), "{who:?} not denied");
    }
}

#[test]
fn malformed_match_leaves_its_siblings_alone() {
    let malformed = Match {
        malformed: true,
        ..Match::default()
    };
    let cart = Match {
        namespaces: exact("shop"),
        ..Match::default()
    };
    let either = vec![Rule {
        clauses: vec![Clause {
            matches: vec![malformed, cart],
        }],
    }];
    let allow = policy(Action::Allow, either);
    assert!(holds(&allow, Who::Cart));
    assert!(!holds(&allow, Who::Stranger));
}

#[test]
fn mapped_addresses_compare_as_ipv4() {
    let policy = policy(
        Action::Allow,
        one_match(Match {
            source_ips: nets("10.0.0.0/8"),
            ..Match::default()
        }),
    );
    let connection = |source: &str| Connection {
        identity: None,
        source_ip: source.parse().unwrap(),
        destination_ip: "10.0.1.2".parse().unwrap(),
        destination_port: 1,
    };
    assert!(policy.matches(&connection("::ffff:10.1.2.3")));
    assert!(!policy.matches(&connection("::10.1.2.3")));
}
