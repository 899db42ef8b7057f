//! One endpoint of those that are equally near.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use fastrand::Rng;
use tulle_model::traffic::{Balancing, TrafficPolicy};
use tulle_state::{Endpoints, Group, Select, Workload};

use crate::{Destination, destination::Known, endpoint::Endpoint};

/// What says which endpoint something is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preference {
    /// What has the same is alike.
    pub hash: Option<u64>,
    /// The [name](tulle_state::endpoint_name) of the one that had to do with it before. It keeps it as long as it is well.
    pub endpoint: Option<u64>,
}

/// Chooses an endpoint as a policy says.
pub struct Picker<'a> {
    known: Arc<Known>,
    policy: &'a TrafficPolicy,
    preference: Preference,
    now: Duration,
    turn: u64,
    /// Endpoints may be left alone, and some are.
    spares: bool,
    random: Rng,
}

impl<'a> Picker<'a> {
    pub(crate) fn new(
        destination: &Destination,
        known: Arc<Known>,
        policy: &'a TrafficPolicy,
        preference: Preference,
        now: Duration,
    ) -> Self {
        let until = Duration::from_micros(destination.ejecting_until.load(Relaxed));
        let least = policy
            .outliers
            .as_ref()
            .map(|outliers| outliers.least_healthy);
        let spares = now < until && least.is_some_and(|least| !is_panic(&known, least, now));
        let turn = match policy.balancing {
            Balancing::RoundRobin => destination.turn.fetch_add(1, Relaxed),
            Balancing::LeastRequest | Balancing::Random | Balancing::Hash(_) => 0,
        };
        Self {
            known,
            policy,
            preference,
            now,
            turn,
            spares,
            random: Rng::new(),
        }
    }

    /// Those that are left alone are as good as others from now on: there are no others. Whether there are any.
    pub fn spares_none(&mut self) -> bool {
        std::mem::take(&mut self.spares)
    }

    fn is_left_alone(&self, workload: &Workload) -> bool {
        let is_ejected = |endpoint: &Endpoint| endpoint.is_ejected(self.now);
        self.spares && self.endpoint(workload).is_some_and(is_ejected)
    }

    fn endpoint(&self, workload: &Workload) -> Option<&Endpoint> {
        self.known.endpoints.get(&workload.uid).map(AsRef::as_ref)
    }

    /// How long it takes to get to something more, in terms of what it has to do.
    fn load(&self, workload: &Workload) -> f64 {
        let endpoint = self.endpoint(workload);
        let active = endpoint.map_or(0, |endpoint| endpoint.active.load(Relaxed));
        f64::from(active) + 1.0
    }

    /// Whether one gets what chance has given it: new ones get less.
    fn takes(&mut self, workload: &Workload) -> bool {
        let Some(warmup) = &self.policy.warmup else {
            return true;
        };
        let endpoint = self.known.endpoints.get(&workload.uid);
        let share = endpoint.map_or(1.0, |endpoint| endpoint.share(warmup, self.now));
        share >= 1.0 || self.random.f64() < share
    }

    fn at_random<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        let mut last = None;
        for _ in 0..TRIES {
            let workload = group.any(&mut self.random, usable)?;
            if self.takes(workload) {
                return Some(workload);
            }
            last = Some(workload);
        }
        // All are new.
        last
    }

    fn in_turn<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        let mut last = None;
        for turn in 0..TRIES {
            let workload = group.in_turn(self.turn.wrapping_add(turn), usable)?;
            if self.takes(workload) {
                return Some(workload);
            }
            last = Some(workload);
        }
        last
    }

    /// By weight two at random, of which the one that has less to do. No more than a look at two, and yet far better than one at random.
    fn of_two<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        let one = self.at_random(group, usable)?;
        let other = self.at_random(group, usable)?;
        Some(match self.load(other) < self.load(one) {
            true => other,
            false => one,
        })
    }
}

impl Select for Picker<'_> {
    fn settled<'e>(
        &mut self,
        endpoints: &'e Endpoints,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'e Arc<Workload>> {
        let found = endpoints.by_name(self.preference.endpoint?)?;
        (usable(found) && !self.is_left_alone(found)).then_some(found)
    }

    fn select<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        let known = Arc::clone(&self.known);
        let (spares, now) = (self.spares, self.now);
        let usable: &dyn Fn(&Workload) -> bool = match spares {
            false => usable,
            true => &move |workload: &Workload| {
                let endpoint = known.endpoints.get(&workload.uid);
                usable(workload) && !endpoint.is_some_and(|endpoint| endpoint.is_ejected(now))
            },
        };
        match (&self.policy.balancing, self.preference.hash) {
            (Balancing::LeastRequest, _) => self.of_two(group, usable),
            (Balancing::RoundRobin, _) => self.in_turn(group, usable),
            (Balancing::Hash(_), Some(hash)) => group.by_hash(hash, usable),
            // What has nothing to be known by is like nothing else.
            (Balancing::Random | Balancing::Hash(_), _) => self.at_random(group, usable),
        }
    }
}

/// Whether so few endpoints are well that leaving others alone would do more harm than good.
fn is_panic(known: &Known, least: u8, now: Duration) -> bool {
    if least == 0 {
        return false;
    }
    let all = known.endpoints.values();
    let well = all.filter(|endpoint| !endpoint.is_ejected(now)).count();
    well * 100 < known.endpoints.len() * usize::from(least)
}

/// Of endpoints that are new, before one of them is taken as if it were not.
const TRIES: u64 = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::time::Instant;
    use tulle_model::traffic::{HashOf, Warmup};
    use tulle_state::endpoint_name;

    use super::*;
    use crate::{
        Outcome,
        testing::{endpoints, outliers},
    };

    struct World {
        began: Instant,
        destination: Destination,
        endpoints: Arc<Endpoints>,
    }

    impl World {
        fn new(of: &[(&str, u32)]) -> Self {
            let began = Instant::now();
            Self {
                began,
                destination: Destination::new(began),
                endpoints: endpoints(of),
            }
        }

        fn at(&self, second: u64) -> Instant {
            self.began + Duration::from_secs(second)
        }

        fn pick(&self, policy: &TrafficPolicy, hash: Option<u64>, second: u64) -> Option<String> {
            let preference = Preference {
                hash,
                ..Preference::default()
            };
            self.pick_for(policy, preference, second)
        }

        fn pick_for(
            &self,
            policy: &TrafficPolicy,
            preference: Preference,
            second: u64,
        ) -> Option<String> {
            let now = self.at(second);
            let known = &self.destination;
            let mut picker = known.picker(&self.endpoints, policy, preference, now);
            let source = &self.endpoints.members()[0];
            let mut found = self.endpoints.choose(source, &mut picker, |_| true);
            if found.is_none() && picker.spares_none() {
                found = self.endpoints.choose(source, &mut picker, |_| true);
            }
            found.map(|workload| workload.uid.to_string())
        }

        /// How often each is chosen.
        fn shares(&self, policy: &TrafficPolicy, second: u64) -> BTreeMap<String, u32> {
            let mut shares = BTreeMap::new();
            for number in 0..1000 {
                let chosen = self.pick(policy, Some(number), second).unwrap();
                *shares.entry(chosen).or_default() += 1;
            }
            shares
        }

        fn fails(&self, policy: &TrafficPolicy, endpoint: &str, second: u64) -> Option<u64> {
            let uid = tulle_model::Uid::new(endpoint);
            let active = self.destination.begin(&uid).unwrap();
            let (failed, now) = (Outcome::Answered(503), self.at(second));
            let outliers = policy.outliers.as_ref()?;
            let ended = || self.destination.ended(&active, failed, outliers, now);
            ended();
            ended();
            ended().map(|lasts| lasts.as_secs())
        }
    }

    fn balanced(balancing: Balancing) -> TrafficPolicy {
        TrafficPolicy {
            balancing,
            ..TrafficPolicy::default()
        }
    }

    #[test]
    fn the_one_that_has_less_to_do() {
        let world = World::new(&[("a", 1), ("b", 1)]);
        let policy = balanced(Balancing::LeastRequest);
        world.shares(&policy, 0);
        let busy = tulle_model::Uid::new("a");
        let active: Vec<_> = (0..3).map(|_| world.destination.begin(&busy)).collect();
        let shares = world.shares(&policy, 0);
        // It is chosen where both of the two are that.
        assert!((180..320).contains(&shares["a"]), "{shares:?}");
        drop(active);
        let shares = world.shares(&policy, 0);
        assert!((420..580).contains(&shares["a"]), "{shares:?}");
    }

    #[test]
    fn turns_and_chance_go_by_weight() {
        let world = World::new(&[("a", 1), ("b", 3)]);
        for balancing in [
            Balancing::Random,
            Balancing::RoundRobin,
            Balancing::LeastRequest,
            Balancing::Hash(HashOf::SourceIp),
        ] {
            let shares = world.shares(&balanced(balancing.clone()), 0);
            // The hashes of numbers are not hashed again: they are all for one.
            let expected = match balancing {
                Balancing::Hash(_) => 0..1001,
                _ => 180..330,
            };
            let a = shares.get("a").copied().unwrap_or_default();
            assert!(expected.contains(&a), "{balancing:?} {shares:?}");
        }
        let even = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
        let turns = balanced(Balancing::RoundRobin);
        let first: Vec<_> = (0..3).map(|_| even.pick(&turns, None, 0)).collect();
        let again: Vec<_> = (0..3).map(|_| even.pick(&turns, None, 0)).collect();
        assert_eq!(first, again);
    }

    #[test]
    fn who_fails_is_left_alone_and_comes_back() {
        let world = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
        for balancing in [
            Balancing::Random,
            Balancing::RoundRobin,
            Balancing::LeastRequest,
            Balancing::Hash(HashOf::SourceIp),
        ] {
            let policy = TrafficPolicy {
                outliers: Some(outliers()),
                ..balanced(balancing)
            };
            let world = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
            world.shares(&policy, 0);
            assert_eq!(world.fails(&policy, "a", 1), Some(30));
            assert_eq!(world.destination.ejected(world.at(2)), 1);
            assert!(!world.shares(&policy, 2).contains_key("a"));
            assert_eq!(world.destination.ejected(world.at(31)), 0);
            // Where all are left alone, none is.
            for name in ["a", "b", "c"] {
                assert!(world.fails(&policy, name, 40).is_some());
            }
            assert!(world.pick(&policy, Some(1), 41).is_some());
        }
        let without = balanced(Balancing::Random);
        world.shares(&without, 0);
        assert_eq!(world.fails(&without, "a", 1), None);
    }

    #[test]
    fn what_is_settled_stays_while_its_endpoint_is_well() {
        let world = World::new(&[("a", 1), ("b", 1)]);
        let policy = TrafficPolicy {
            outliers: Some(outliers()),
            ..balanced(Balancing::Random)
        };
        let settled = Preference {
            hash: None,
            endpoint: Some(endpoint_name(&tulle_model::Uid::new("a"))),
        };
        let stays = |with: &str, second| {
            let pick = || world.pick_for(&policy, settled, second);
            assert!((0..50).all(|_| pick().as_deref() == Some(with)));
        };
        stays("a", 0);
        world.fails(&policy, "a", 1);
        stays("b", 2);
        stays("a", 31);
    }

    #[test]
    fn where_too_few_are_well_none_is_left_alone() {
        let world = World::new(&[("a", 1), ("b", 1), ("c", 1)]);
        let policy = TrafficPolicy {
            outliers: Some(tulle_model::traffic::Outliers {
                least_healthy: 50,
                ..outliers()
            }),
            ..balanced(Balancing::Random)
        };
        world.shares(&policy, 0);
        world.fails(&policy, "a", 1);
        assert_eq!(world.shares(&policy, 2).len(), 2);
        world.fails(&policy, "b", 2);
        assert_eq!(world.shares(&policy, 3).len(), 3);
    }

    #[test]
    fn new_ones_get_less() {
        let mut world = World::new(&[("a", 1), ("b", 1)]);
        let policy = TrafficPolicy {
            warmup: Some(Warmup {
                duration: Duration::from_secs(100),
                least: 100_000,
                aggression: 1000,
            }),
            ..balanced(Balancing::Random)
        };
        world.shares(&policy, 0);
        world.endpoints = endpoints(&[("a", 1), ("b", 1), ("c", 1)]);
        let shares = world.shares(&policy, 1000);
        assert!((20..90).contains(&shares["c"]), "{shares:?}");
        let shares = world.shares(&policy, 1050);
        assert!((140..260).contains(&shares["c"]), "{shares:?}");
        let shares = world.shares(&policy, 1100);
        assert!((270..400).contains(&shares["c"]), "{shares:?}");
    }

    #[test]
    fn what_endpoints_have_to_do_outlives_their_list() {
        let mut world = World::new(&[("a", 1), ("b", 1)]);
        let policy = balanced(Balancing::LeastRequest);
        world.shares(&policy, 0);
        let busy = tulle_model::Uid::new("a");
        let active: Vec<_> = (0..3).map(|_| world.destination.begin(&busy)).collect();
        world.endpoints = endpoints(&[("a", 1), ("c", 1)]);
        let shares = world.shares(&policy, 0);
        assert!(shares["a"] < shares["c"] / 2, "{shares:?}");
        assert!(
            world
                .destination
                .begin(&tulle_model::Uid::new("b"))
                .is_none()
        );
        drop(active);
    }
}
