//! Any order of changes ends in the same state.

use std::collections::HashMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// One version of one resource, or its removal.
#[derive(Clone, Debug)]
enum Change {
    Workload(u8, Option<(u8, Vec<u8>, bool)>),
    Service(u8, Option<(Vec<u8>, bool)>),
    Policy(u8, Option<(u8, bool)>),
}

fn change() -> impl Strategy<Value = Change> {
    use proptest::option::of;
    let id = 0_u8..4;
    let workload = (0_u8..3, vec(0_u8..3, 0..3), any::<bool>());
    let service = (vec(0_u8..4, 0..3), any::<bool>());
    let policy = (0_u8..3, any::<bool>());
    prop_oneof![
        (id.clone(), of(workload)).prop_map(|(i, w)| Change::Workload(i, w)),
        (id.clone(), of(service)).prop_map(|(i, s)| Change::Service(i, s)),
        (id, of(policy)).prop_map(|(i, p)| Change::Policy(i, p)),
    ]
}

fn name_of(change: &Change) -> ResourceName {
    match change {
        Change::Workload(id, _) => ResourceName::Workload(Uid::new(format!("w{id}"))),
        Change::Service(id, _) => ResourceName::Service(key(&format!("s{id}"))),
        Change::Policy(id, _) => ResourceName::Policy(PolicyKey::new("shop", format!("p{id}"))),
    }
}

fn apply(draft: &mut Draft, change: &Change) {
    let resource = match change {
        Change::Workload(id, Some((ip, services, healthy))) => {
            let mut workload = pod(&format!("w{id}"), &format!("10.0.0.{ip}"));
            for service in services {
                workload = serving(workload, &format!("s{service}"), &[]);
            }
            if !healthy {
                workload.health = Health::Unhealthy;
            }
            Some(Resource::Workload(Box::new(workload)))
        }
        Change::Service(id, Some((vips, range))) => {
            let vips: Vec<_> = vips.iter().map(|v| format!("10.2.0.{v}")).collect();
            let vips: Vec<_> = vips.iter().map(String::as_str).collect();
            let mut service = service(&format!("s{id}"), &vips);
            if *range {
                service.vips.push(Vip::Range {
                    network: "".into(),
                    address: [10, 3, *id % 2, 0].into(),
                    prefix: 24,
                });
            }
            Some(Resource::Service(Box::new(service)))
        }
        Change::Policy(id, Some((scope, allow))) => {
            let scope =
                [Scope::Global, Scope::Namespace, Scope::WorkloadSelector][usize::from(*scope)];
            let action = if *allow { Action::Allow } else { Action::Deny };
            let policy = policy(&format!("p{id}"), scope, action);
            Some(Resource::Policy(Box::new(policy)))
        }
        Change::Workload(_, None) | Change::Service(_, None) | Change::Policy(_, None) => None,
    };
    match resource {
        Some(resource) => draft.upsert(resource),
        None => draft.remove(&name_of(change)),
    }
}

/// Policies of a workload decide alike; lists are not compared by equality of snapshots.
fn verdicts(snapshot: &Snapshot) -> Vec<Result<(), Denied>> {
    let mut uids: Vec<_> = snapshot.workloads().map(|w| w.uid.to_string()).collect();
    uids.sort();
    uids.iter().map(|uid| check(snapshot, uid)).collect()
}

proptest! {
    #[test]
    fn any_history_ends_where_its_last_values_lead(
        changes in vec(change(), 0..60),
        batch in select(vec![1_usize, 2, 7, 60]),
        seed in any::<u64>(),
    ) {
        let mut history = Draft::new(None);
        let mut seen = Snapshot::default();
        for batch in changes.chunks(batch) {
            batch.iter().for_each(|change| apply(&mut history, change));
            seen = history.finish().unwrap_or(seen);
        }
        let last: HashMap<_, _> = changes.iter().map(|change| (name_of(change), change)).collect();
        let mut last: Vec<_> = last.into_values().collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut last);
        let mut direct = Draft::new(None);
        last.into_iter().for_each(|change| apply(&mut direct, change));
        let direct = direct.finish().unwrap_or_default();
        prop_assert!(seen.is_equivalent(&direct), "{seen:#?}\n{direct:#?}");
        prop_assert_eq!(verdicts(&seen), verdicts(&direct));
    }
}
