//! Consistent hashing: each endpoint has places on a ring, and what has a hash is for the first behind that.
//!
//! Places depend on the names of endpoints alone, so that all proxies agree, whatever each has seen before.

use std::sync::Arc;

use twox_hash::XxHash64;

use crate::workload::Workload;

/// Places in order, each with the index of its endpoint.
#[derive(Debug)]
pub(super) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    pub(super) fn new(members: &[Arc<Workload>]) -> Self {
        let weights = members.iter().map(|member| u64::from(member.capacity));
        // As small as they can be with the same shares, so that the places of one do not depend on who else there is.
        let unit = weights.clone().fold(0, greatest_common_divisor).max(1);
        let all = EACH * weights.clone().sum::<u64>() / unit;
        let most = MOST * EACH * members.len() as u64;
        let mut places = Vec::new();
        for (index, (member, weight)) in members.iter().zip(weights).enumerate() {
            let own = EACH * weight / unit;
            let own = match all > most {
                true => (own * most / all).max(1),
                false => own,
            };
            let Ok(index) = u32::try_from(index) else {
                break;
            };
            let name = member.uid.as_str().as_bytes();
            places.extend((0..own).map(|number| (XxHash64::oneshot(number, name), index)));
        }
        places.sort_unstable();
        Self(places.into())
    }

    /// The indices of endpoints, from the one that is responsible for a hash on. Each may come several times.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.0.partition_point(|(place, _)| *place < hash);
        let (before, behind) = self.0.split_at_checked(first).unwrap_or_default();
        let places = behind.iter().chain(before);
        places.map(|(_, index)| usize::try_from(*index).unwrap_or(usize::MAX))
    }
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    match other {
        0 => one,
        other => greatest_common_divisor(other, one % other),
    }
}

/// Of an endpoint of the least weight: with that many, shares differ by a tenth.
const EACH: u64 = 128;
/// For each endpoint on average, times that: weights that have little in common would need far too many.
const MOST: u64 = 8;
