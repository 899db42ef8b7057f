//! The endpoints of one service, prepared for choosing among them.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use tulle_model::{Health, HealthPolicy, LoadBalancing, LoadBalancingMode, RoutingScope, Uid};

use twox_hash::XxHash64;

use super::workload::{Place, Workload};
pub use group::{Group, Select};

mod group;
mod ring;

/// All endpoints of a service, and those that may be chosen, grouped by preference.
///
/// Choosing costs a random number and a binary search. Groups depend on where the client runs; all clients of a node
/// run at the same place, so they are computed once, by the first client.
#[derive(Debug, Default)]
pub struct Endpoints {
    members: Members,
    choosable: Group,
    load_balancing: LoadBalancing,
    ranked: OnceLock<Box<Ranked>>,
    /// Names of those that may be chosen, in order, each with its index. Made when it is first asked for.
    names: OnceLock<Box<[(u64, u32)]>>,
}

/// What an endpoint is called where nobody is to learn its UID: the same in all proxies.
pub fn endpoint_name(uid: &Uid) -> u64 {
    XxHash64::oneshot(0, uid.as_str().as_bytes())
}

/// Endpoints in order of their UID.
pub(crate) type Members = Arc<[Arc<Workload>]>;

/// What happened to endpoints of one service: the new value, or none for a removal.
pub(crate) type MemberChanges = BTreeMap<Uid, Option<Arc<Workload>>>;

impl Endpoints {
    pub(crate) fn new(members: Members, load_balancing: &LoadBalancing) -> Self {
        let health_policy = load_balancing.health_policy;
        let choosable = members
            .iter()
            .filter(|workload| is_choosable(workload, health_policy))
            .cloned()
            .collect();
        Self {
            members,
            choosable,
            load_balancing: load_balancing.clone(),
            ranked: OnceLock::new(),
            names: OnceLock::new(),
        }
    }

    /// Every endpoint, healthy or not, in order of UID.
    pub fn members(&self) -> &[Arc<Workload>] {
        &self.members
    }

    /// Those that clients may choose, in order of UID.
    pub fn choosable(&self) -> &[Arc<Workload>] {
        self.choosable.members()
    }

    /// Of those that clients may choose, the one of this [name](endpoint_name).
    pub fn by_name(&self, name: u64) -> Option<&Arc<Workload>> {
        let names = self.names.get_or_init(|| {
            let names = self.choosable().iter().zip(0..);
            let mut names: Vec<(u64, u32)> = names
                .map(|(workload, index)| (endpoint_name(&workload.uid), index))
                .collect();
            names.sort_unstable();
            names.into()
        });
        let place = names.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        let (_, index) = names.get(place)?;
        self.choosable().get(usize::try_from(*index).ok()?)
    }

    pub(crate) fn shared_members(&self) -> Members {
        Arc::clone(&self.members)
    }

    /// Lets `selector` choose an endpoint for `source` among those that are `usable`, within the best group where it finds one.
    pub fn choose<S: Select + ?Sized>(
        &self,
        source: &Workload,
        selector: &mut S,
        usable: impl Fn(&Workload) -> bool,
    ) -> Option<&Arc<Workload>> {
        let scopes = &self.load_balancing.routing_preference;
        if let Some(settled) = selector.settled(self, &usable)
            && (self.load_balancing.mode != LoadBalancingMode::Strict
                || scopes.iter().all(|scope| agrees(*scope, source, settled)))
        {
            return Some(settled);
        }
        let ranks = match self.load_balancing.mode {
            LoadBalancingMode::Strict | LoadBalancingMode::Failover if !scopes.is_empty() => {
                self.ranked.get_or_init(|| Box::new(self.rank(source)))
            }
            LoadBalancingMode::Standard
            | LoadBalancingMode::Passthrough
            | LoadBalancingMode::Strict
            | LoadBalancingMode::Failover => return selector.select(&self.choosable, &usable),
        };
        if ranks.seen_from.is_where(source) {
            return ranks.choose(selector, &usable);
        }
        let uid = self.rank(source).choose(selector, &usable)?.uid.clone();
        self.member(&uid)
    }

    fn member(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        let index = self.members.binary_search_by(|m| m.uid.cmp(uid)).ok()?;
        self.members.get(index)
    }

    fn rank(&self, source: &Workload) -> Ranked {
        let strict = self.load_balancing.mode == LoadBalancingMode::Strict;
        let scopes = &self.load_balancing.routing_preference;
        let mut groups: BTreeMap<usize, Vec<Arc<Workload>>> = BTreeMap::new();
        for workload in self.choosable.members() {
            let rank = if strict {
                usize::from(scopes.iter().all(|scope| agrees(*scope, source, workload)))
            } else {
                rank(scopes, source, workload)
            };
            if rank > 0 || !strict {
                groups.entry(rank).or_default().push(Arc::clone(workload));
            }
        }
        Ranked {
            seen_from: Position::of(source),
            groups: groups
                .into_values()
                .rev()
                .map(|members| members.into_iter().collect())
                .collect(),
        }
    }
}

impl PartialEq for Endpoints {
    fn eq(&self, other: &Self) -> bool {
        self.members == other.members && self.load_balancing == other.load_balancing
    }
}

/// Applies changes to a sorted list.
pub(crate) fn change_members(members: &[Arc<Workload>], changes: MemberChanges) -> Members {
    let mut merged = Vec::with_capacity(members.len() + changes.len());
    let mut changes = changes.into_iter().peekable();
    for member in members {
        while let Some((_, added)) = changes.next_if(|(uid, _)| *uid < member.uid) {
            merged.extend(added);
        }
        match changes.next_if(|(uid, _)| *uid == member.uid) {
            Some((_, changed)) => merged.extend(changed),
            None => merged.push(Arc::clone(member)),
        }
    }
    merged.extend(changes.filter_map(|(_, added)| added));
    merged.into()
}

/// How many preferences agree, counted from the first until one does not.
///
/// NETWORK in first place is special: agreeing there outweighs everything else, and not agreeing does not end the
/// count, so that the nearest endpoint of another network is still preferred to a farther one.
fn rank(scopes: &[RoutingScope], source: &Workload, workload: &Workload) -> usize {
    let (bonus, scopes) = match scopes {
        [RoutingScope::Network, rest @ ..] => {
            let same = agrees(RoutingScope::Network, source, workload);
            (if same { scopes.len() } else { 0 }, rest)
        }
        _ => (0, scopes),
    };
    let agreeing = scopes
        .iter()
        .take_while(|scope| agrees(**scope, source, workload));
    bonus + agreeing.count()
}

fn agrees(scope: RoutingScope, a: &Workload, b: &Workload) -> bool {
    let (here, there) = (&a.place.locality, &b.place.locality);
    match scope {
        RoutingScope::Region => here.region == there.region,
        RoutingScope::Zone => here.zone == there.zone,
        RoutingScope::Subzone => here.subzone == there.subzone,
        RoutingScope::Node => a.place.node == b.place.node,
        RoutingScope::Cluster => a.cluster_id == b.cluster_id,
        RoutingScope::Network => a.network == b.network,
    }
}

fn is_choosable(workload: &Workload, policy: HealthPolicy) -> bool {
    let healthy = match policy {
        HealthPolicy::OnlyHealthy => workload.health == Health::Healthy,
        HealthPolicy::AllowAll => true,
    };
    let reachable = !workload.addresses.is_empty()
        || workload.hostname.is_some()
        || workload.network_gateway.is_some();
    healthy && reachable && workload.capacity > 0
}

/// Groups by preference, best first.
#[derive(Debug)]
struct Ranked {
    seen_from: Position,
    groups: Vec<Group>,
}

impl Ranked {
    fn choose<S: Select + ?Sized>(
        &self,
        selector: &mut S,
        usable: &dyn Fn(&Workload) -> bool,
    ) -> Option<&Arc<Workload>> {
        let mut groups = self.groups.iter();
        groups.find_map(|group| selector.select(group, usable))
    }
}

/// What preferences look at.
#[derive(Debug)]
struct Position {
    place: Arc<Place>,
    network: Arc<str>,
    cluster_id: Arc<str>,
}

impl Position {
    fn of(workload: &Workload) -> Self {
        Self {
            place: Arc::clone(&workload.place),
            network: Arc::clone(&workload.network),
            cluster_id: Arc::clone(&workload.cluster_id),
        }
    }

    fn is_where(&self, workload: &Workload) -> bool {
        self.place == workload.place
            && self.network == workload.network
            && self.cluster_id == workload.cluster_id
    }
}

#[cfg(test)]
mod tests;
