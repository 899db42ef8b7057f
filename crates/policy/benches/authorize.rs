//! Cost of one decision with as many policies as anybody has.
#![expect(clippy::unwrap_used, reason = "the text parsed here is a constant")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use tulle_model::{
    Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, SpiffeId, StringMatch,
};
use tulle_policy::{CompiledPolicy, Connection, PolicySet};

fn authorize(c: &mut Criterion) {
    let identity: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let connection = Connection {
        identity: Some(&identity),
        source_ip: [10, 0, 0, 1].into(),
        destination_ip: [10, 0, 0, 2].into(),
        destination_port: 8080,
    };
    for policies in [1, 100, 10_000] {
        let set = PolicySet::new((0..policies).map(deny_policy), Vec::new());
        c.bench_function(&format!("authorize/{policies}-deny-x10-rules"), |b| {
            b.iter(|| black_box(&set).check(black_box(&connection)));
        });
    }
}

/// Ten rules, none of which matches; principals of the same length and beginning as the caller's.
fn deny_policy(number: usize) -> Arc<CompiledPolicy> {
    let rule = |rule: usize| {
        let principal = format!("cluster.local/ns/shop/sa/c{number:02}{rule}");
        Rule {
            clauses: vec![Clause {
                matches: vec![Match {
                    principals: vec![StringMatch::Exact(principal.into())],
                    ..Match::default()
                }],
            }],
        }
    };
    Arc::new(CompiledPolicy::compile(&Authorization {
        key: PolicyKey::new("istio-system", format!("deny-{number}")),
        scope: Scope::Global,
        action: Action::Deny,
        rules: (0..10).map(rule).collect(),
        dry_run: false,
        authorizer: None,
    }))
}

criterion_group!(benches, authorize);
criterion_main!(benches);
