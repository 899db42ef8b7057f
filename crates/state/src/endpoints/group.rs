//! Endpoints that are equally near, and one of them.

use std::sync::{Arc, OnceLock};

use fastrand::Rng;

use super::{Endpoints, ring::Ring};
use crate::workload::Workload;

/// Chooses one of several endpoints that are equally near.
pub trait Select {
    /// One that is settled already, wherever it is; `None` if none is, or that one must not be used.
    fn settled<'e>(
        &mut self,
        _endpoints: &'e Endpoints,
        _usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'e Arc<Workload>> {
        None
    }

    /// One of those that are usable; `None` if it finds none.
    fn select<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>>;
}

/// By weight, at random.
impl Select for Rng {
    fn select<'g>(
        &mut self,
        group: &'g Group,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&'g Arc<Workload>> {
        group.any(self, usable)
    }
}

/// Endpoints that are equally good except for their weight.
#[derive(Debug, Default)]
pub struct Group {
    members: Box<[Arc<Workload>]>,
    /// Sum of the weights up to and including each member; empty when all weigh the same.
    cumulative: Box<[u64]>,
    /// Made when it is first asked for.
    ring: OnceLock<Ring>,
}

impl Group {
    /// All of them.
    pub fn members(&self) -> &[Arc<Workload>] {
        &self.members
    }

    /// One at random, by weight. A few tries, then a look at each: both are fair among the usable ones, so the mix is.
    pub fn any(
        &self,
        random: &mut Rng,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&Arc<Workload>> {
        for _ in 0..TRIES {
            let workload = self.at(random.u64(0..self.weight().max(1)))?;
            if usable(workload) {
                return Some(workload);
            }
        }
        let (mut chosen, mut total) = (None, 0_u64);
        for workload in self.members.iter().filter(|workload| usable(workload)) {
            let weight = u64::from(workload.capacity);
            total += weight;
            if random.u64(0..total) < weight {
                chosen = Some(workload);
            }
        }
        chosen
    }

    /// The one whose turn it is, by weight: turns that follow each other are far apart, so that none gets several in a row.
    pub fn in_turn(&self, turn: u64, usable: &dyn Fn(&Workload) -> bool) -> Option<&Arc<Workload>> {
        let start = match self.cumulative.is_empty() {
            true => turn.checked_rem(self.weight())?,
            // The fraction of the multiples of the golden ratio.
            false => scaled(turn.wrapping_mul(GOLDEN), self.weight()),
        };
        if let Some(workload) = self.at(start).filter(|workload| usable(workload)) {
            return Some(workload);
        }
        // The turns of those that cannot be used are shared by all others.
        let all = || self.members.iter().filter(|workload| usable(workload));
        let number = turn.checked_rem(all().count() as u64)?;
        all().nth(usize::try_from(number).ok()?)
    }

    /// The one that is responsible for what has this hash, or if it is not usable, the next that is.
    pub fn by_hash(&self, hash: u64, usable: &dyn Fn(&Workload) -> bool) -> Option<&Arc<Workload>> {
        let ring = self.ring.get_or_init(|| Ring::new(&self.members));
        let members = || ring.from(hash).filter_map(|index| self.members.get(index));
        let near = members().take(NEAR).find(|member| usable(member));
        if near.is_some() {
            return near;
        }
        // A whole ring is far more than all members.
        let any = self.members.iter().any(|member| usable(member));
        any.then(|| members().find(|member| usable(member)))
            .flatten()
    }

    fn weight(&self) -> u64 {
        let all = self.members.len() as u64;
        self.cumulative.last().copied().unwrap_or(all)
    }

    fn at(&self, point: u64) -> Option<&Arc<Workload>> {
        self.members.get(self.index(point))
    }

    /// Whose part of the weight a point is in.
    fn index(&self, point: u64) -> usize {
        match self.cumulative.is_empty() {
            true => usize::try_from(point).unwrap_or(usize::MAX),
            false => self.cumulative.partition_point(|sum| *sum <= point),
        }
    }
}

/// A part of `whole`, where `point` is the part in 2⁶⁴ths.
fn scaled(point: u64, whole: u64) -> u64 {
    let product = u128::from(point) * u128::from(whole);
    u64::try_from(product >> 64).unwrap_or_default()
}

impl FromIterator<Arc<Workload>> for Group {
    fn from_iter<I: IntoIterator<Item = Arc<Workload>>>(members: I) -> Self {
        let members: Box<[Arc<Workload>]> = members.into_iter().collect();
        let first = members.first().map(|member| member.capacity);
        let cumulative = if members.iter().all(|m| Some(m.capacity) == first) {
            Box::default()
        } else {
            let sums = members.iter().scan(0_u64, |sum, member| {
                *sum += u64::from(member.capacity);
                Some(*sum)
            });
            sums.collect()
        };
        Self {
            members,
            cumulative,
            ring: OnceLock::new(),
        }
    }
}

/// Enough to find a usable endpoint where half are usable, in 15 of 16 cases.
const TRIES: usize = 4;
/// Places of a ring that are looked at before it is asked whether any member is usable.
const NEAR: usize = 64;
/// 2⁶⁴ over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::endpoints::tests::weighing;

    fn names<'a>(
        chosen: impl Iterator<Item = Option<&'a Arc<Workload>>>,
    ) -> BTreeMap<&'a str, u32> {
        let mut counts = BTreeMap::new();
        for workload in chosen {
            *counts.entry(workload.unwrap().uid.as_str()).or_default() += 1;
        }
        counts
    }

    fn group(weights: &[(&str, u32)]) -> Group {
        let members = weights.iter().map(|(uid, weight)| weighing(uid, *weight));
        members.collect()
    }

    #[test]
    fn turns_go_round() {
        let even = group(&[("a", 1), ("b", 1), ("c", 1)]);
        let all = |_: &Workload| true;
        let turns = (0..300).map(|turn| even.in_turn(turn, &all));
        let counts = names(turns);
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [100, 100, 100]);
        let first: Vec<_> = (0..4).map(|turn| even.in_turn(turn, &all)).collect();
        assert_ne!(first[0], first[1]);
        assert_eq!(first[0], first[3]);
        let uneven = group(&[("a", 1), ("b", 3)]);
        let counts = names((0..400).map(|turn| uneven.in_turn(turn, &all)));
        assert!((98..=102).contains(&counts["a"]), "{counts:?}");
        let without = |workload: &Workload| workload.uid.as_str() != "b";
        let counts = names((0..600).map(|turn| even.in_turn(turn, &without)));
        // What it does not take is for all others alike.
        assert!(counts["a"].abs_diff(counts["c"]) <= 2, "{counts:?}");
        assert_eq!(counts.len(), 2);
        assert_eq!(group(&[]).in_turn(7, &all), None);
    }

    #[test]
    fn what_is_alike_stays_where_it_is() {
        let hashes = || (0..10_000_u64).map(|number| number.wrapping_mul(GOLDEN));
        let all = |_: &Workload| true;
        let four = group(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let counts = names(hashes().map(|hash| four.by_hash(hash, &all)));
        for count in counts.values() {
            assert!((1_900..=3_100).contains(count), "{counts:?}");
        }
        // Only what the one that goes was responsible for moves, and to no other does more than its share.
        let three = group(&[("a", 1), ("b", 1), ("c", 1)]);
        let without = |workload: &Workload| workload.uid.as_str() != "d";
        for hash in hashes() {
            let (before, after) = (four.by_hash(hash, &all), three.by_hash(hash, &all));
            assert!(before == after || before.unwrap().uid.as_str() == "d");
            assert_eq!(four.by_hash(hash, &without), after);
        }
        let uneven = group(&[("a", 1), ("b", 3)]);
        let counts = names(hashes().map(|hash| uneven.by_hash(hash, &all)));
        assert!((1_900..=3_100).contains(&counts["a"]), "{counts:?}");
        assert_eq!(group(&[]).by_hash(7, &all), None);
    }
}
