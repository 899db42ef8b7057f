//! Any interleaving of commits, polls and reconnects ends with the store's content at the client, and at no time is
//! an address sent before the policies that it names.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// Changes in one transaction.
    Commit(Vec<Change>),
    /// The client takes up to this many responses.
    Poll(usize),
    /// Time passes.
    Wait(u64),
    /// The connection breaks. Responses that were under way are lost.
    Reconnect,
}

#[derive(Debug, Clone)]
enum Change {
    PutPod(u8, u8, Vec<u8>),
    RemovePod(u8),
    PutPolicy(u8, bool),
    RemovePolicy(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..6_u8, 0..3_u8, vec(0..4_u8, 0..2)).prop_map(|(n, c, p)| Change::PutPod(n, c, p)),
        1 => (0..6_u8).prop_map(Change::RemovePod),
        2 => (0..4_u8, any::<bool>()).prop_map(|(n, dry)| Change::PutPolicy(n, dry)),
        1 => (0..4_u8).prop_map(Change::RemovePolicy),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => vec(change(), 0..5).prop_map(Step::Commit),
        4 => (0..4_usize).prop_map(Step::Poll),
        2 => (0..10_u64).prop_map(Step::Wait),
        1 => Just(Step::Reconnect),
    ]
}

fn apply(transaction: &mut Transaction, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::PutPod(name, capacity, policies) => {
                let policies: Vec<String> = policies.iter().map(|p| format!("p{p}")).collect();
                let policies: Vec<&str> = policies.iter().map(String::as_str).collect();
                let pod = Workload {
                    capacity: capacity.into(),
                    ..pod(&format!("w{name}"), &policies)
                };
                transaction.put_address(pod.into());
            }
            Change::RemovePod(name) => transaction.remove_address(uid(&format!("w{name}"))),
            Change::PutPolicy(name, dry_run) => {
                let mut policy = deny("shop", &format!("p{name}"), &[]);
                policy.dry_run = dry_run;
                transaction.put_policy(policy);
            }
            Change::RemovePolicy(name) => transaction.remove_policy(format!("shop/p{name}")),
        }
    }
}

/// A harness that knows which policies existed when the responses in the outbox were made.
struct Observed {
    h: Harness,
    policies: BTreeMap<String, u64>,
}

impl Observed {
    /// One step of the stream. A truncated log ends the stream, and the client comes back.
    fn poll(&mut self) -> Next {
        if self.h.stream.outbox.is_empty() {
            self.policies = self.policies_in_store();
        }
        let next = self.h.stream.poll(&self.h.store.read(), self.h.now);
        match next {
            Ok(Next::Send(response)) => {
                self.deliver(&response);
                Next::Again
            }
            Ok(next) => next,
            Err(LogTruncated) => {
                self.h.reconnect();
                Next::Again
            }
        }
    }

    fn policies_in_store(&self) -> BTreeMap<String, u64> {
        let state = self.h.store.read();
        let all = state.table(POLICY).live_after(0);
        all.map(|(_, name, entry)| (name.as_ref().to_owned(), entry.version))
            .collect()
    }

    fn deliver(&mut self, response: &EncodedResponse) {
        let bytes = response.encode_to_vec();
        let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
        self.h.client.apply(&response);
        let bodies = response
            .resources
            .iter()
            .filter_map(|r| r.resource.as_ref());
        for body in bodies.filter(|body| body.type_url == ADDRESS.url()) {
            let Ok(Address::Workload(workload)) = decode::address(&body.value) else {
                panic!("not a workload");
            };
            for key in &workload.authorization_policies {
                self.assert_sent(&key.to_string());
            }
        }
    }

    fn assert_sent(&self, policy: &str) {
        let Some(version) = self.policies.get(policy) else {
            return;
        };
        let held = self.h.client.policies.get(policy);
        let held = held.unwrap_or_else(|| panic!("{policy} was not sent yet"));
        assert_eq!(
            crate::store::parse_version(&held.0),
            Some(*version),
            "{policy} is out of date"
        );
    }

    fn settle(&mut self) {
        loop {
            match self.poll() {
                Next::WaitUntil(when) => self.h.now = when,
                Next::Idle => return,
                Next::Send(_) | Next::Again => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_interleaving_converges(
        steps in vec(step(), 0..40),
        removal_log in 1..6_usize,
        page in prop_oneof![Just(1_usize), Just(400), Just(1 << 20)],
    ) {
        let mut h = Harness::with(StoreConfig { removal_log }, page);
        h.commit(|_| {});
        h.subscribe_all();
        let mut observed = Observed { h, policies: BTreeMap::new() };
        for step in steps {
            match step {
                Step::Commit(changes) => observed.h.commit(|t| apply(t, changes)),
                Step::Poll(times) => (0..times).for_each(|_| drop(observed.poll())),
                Step::Wait(ms) => observed.h.now += Duration::from_millis(ms),
                Step::Reconnect => observed.h.reconnect(),
            }
        }
        observed.settle();
        observed.h.assert_in_step();
    }
}
