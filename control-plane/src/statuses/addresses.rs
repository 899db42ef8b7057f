//! Virtual addresses for hosts of service entries that have none.
//!
//! Nothing is remembered but what stands in the entries: what an older one has stays with it, and whoever has none is given the first
//! free address from a place that its name determines. So a restart changes nothing, and what is deleted is free again.
//!
//! Spec: `control-plane.md` §1.12.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tulle_manifest::{EntryAddress, ObjectKey, Resolution, ServiceEntry};

use crate::{
    index::age,
    objects::Objects,
    translate::{claimed_addresses, entry_hosts},
};

/// The addresses that entries should have been given, in the order in which they are written.
pub(super) fn given(objects: &Objects) -> BTreeMap<ObjectKey, Vec<EntryAddress>> {
    let entries = objects.service_entries();
    // A range takes nothing away: proxies look for an address itself before the ranges that it is in, and whoever writes one that holds
    // the whole pool would otherwise take what everybody else was given.
    let mut used: HashSet<IpAddr> = entries
        .values()
        .flat_map(|entry| claimed_addresses(entry))
        .collect();
    let eligible = entries.iter().filter(|(_, entry)| is_eligible(entry));
    let mut eligible: Vec<_> = eligible.collect();
    eligible.sort_by_cached_key(|(_, entry)| age(&entry.metadata));
    // First all that is kept, so that nobody is given what another has.
    let mut kept: BTreeMap<(&ObjectKey, &str, bool), IpAddr> = BTreeMap::new();
    for (key, entry) in &eligible {
        for EntryAddress { value, host } in &entry.status.addresses {
            let Some(value) = address(value) else {
                continue;
            };
            let is_ours = pool(value.is_ipv4()).contains(&value);
            let slot = (*key, host.as_str(), value.is_ipv4());
            if is_ours && !kept.contains_key(&slot) && used.insert(value) {
                kept.insert(slot, value);
            }
        }
    }
    let given = eligible.into_iter().map(|(key, entry)| {
        let mut hosts: Vec<&str> = entry_hosts(entry).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let addresses = hosts.into_iter().flat_map(|host| {
            [true, false].map(|is_v4| {
                let had = kept.get(&(key, host, is_v4)).copied();
                let value = had.or_else(|| free(key, host, is_v4, &mut used))?;
                Some(EntryAddress {
                    value: value.to_string(),
                    host: host.to_owned(),
                })
            })
        });
        (key.clone(), addresses.flatten().collect())
    });
    given.collect()
}

/// Whether the hosts of an entry are to be given addresses.
fn is_eligible(entry: &ServiceEntry) -> bool {
    let label = entry.metadata.labels.get(LABEL).map(String::as_str);
    entry.spec.addresses.is_empty()
        && entry.spec.resolution != Resolution::None
        && label != Some("false")
}

/// The first free address from the place that a host's name determines; `None` if all are taken.
fn free(key: &ObjectKey, host: &str, is_v4: bool, used: &mut HashSet<IpAddr>) -> Option<IpAddr> {
    let places = 0..TRIES;
    let start = hash(&format!("{key}/{host}"));
    let mut addresses = places.map(|step| place(is_v4, start.wrapping_add(step)));
    addresses.find(|address| used.insert(*address))
}

/// An address of the pool: neither the first nor the last one.
fn place(is_v4: bool, number: u64) -> IpAddr {
    match is_v4 {
        true => {
            let number = u32::try_from(number % HOSTS_V4).unwrap_or_default();
            Ipv4Addr::from_bits(POOL_V4.addr().to_bits() + 1 + number).into()
        }
        false => {
            let number = u128::from(number);
            Ipv6Addr::from_bits(POOL_V6.addr().to_bits() + 1 + number).into()
        }
    }
}

fn pool(is_v4: bool) -> IpNet {
    match is_v4 {
        true => POOL_V4.into(),
        false => POOL_V6.into(),
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// FNV-1a: the same in every version and on every machine, which the standard library's is not. Half of its bits, so that adding
/// a step never leaves the pool.
fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix) >> 32
}

/// Label of entries; with `false` their hosts are given nothing.
const LABEL: &str = "networking.istio.io/enable-autoallocate-ip";
/// Reserved for future use: nobody's.
const POOL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(240, 240, 0, 0), 16);
/// For benchmarks: routed nowhere.
const POOL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48);
/// Without the first and the last one.
const HOSTS_V4: u64 = (1 << 16) - 2;
/// Each place of the smaller pool once.
const TRIES: u64 = HOSTS_V4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn objects(yaml: &str) -> Objects {
        let mut objects = Objects::default();
        for object in testing::objects(yaml) {
            objects.upsert(object);
        }
        objects
    }

    fn entry(name: &str, created: &str, rest: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: {created}}}\n{rest}\n---\n"
        )
    }

    fn of(given: &BTreeMap<ObjectKey, Vec<EntryAddress>>, name: &str) -> Vec<String> {
        let addresses = given.get(&ObjectKey::new("shop", name));
        let addresses = addresses.into_iter().flatten();
        addresses
            .map(|address| format!("{} {}", address.host, address.value))
            .collect()
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-02-02T00:00:00Z";

    #[test]
    fn every_host_is_given_one_of_each_family_that_stays() {
        let plain = entry(
            "a",
            OLD,
            "spec: {hosts: [b.example, a.example], resolution: DNS}",
        );
        let first = given(&objects(&plain));
        let of_a = of(&first, "a");
        assert_eq!(of_a.len(), 4);
        assert!(
            of_a[0].starts_with("a.example 240.240.") && of_a[1].starts_with("a.example 2001:2::")
        );
        assert_eq!(given(&objects(&plain)), first, "by name alone");
        // Once it is written, that counts, wherever it is in the pool.
        let status = "\nstatus: {addresses: [{host: a.example, value: 240.240.9.9}, {host: gone.example, value: 240.240.9.8}]}";
        let kept = given(&objects(&plain.replace("DNS}", &format!("DNS}}{status}"))));
        assert_eq!(of(&kept, "a")[0], "a.example 240.240.9.9");
        assert_eq!(of(&kept, "a")[1..], of_a[1..]);
    }

    #[test]
    fn who_has_addresses_or_wants_none_is_given_none() {
        for rest in [
            "spec: {hosts: [a.example], resolution: DNS, addresses: [192.0.2.1]}",
            "spec: {hosts: [a.example], resolution: NONE}",
            "spec: {hosts: ['*.example'], resolution: DNS}",
        ] {
            assert!(
                of(&given(&objects(&entry("a", OLD, rest))), "a").is_empty(),
                "{rest}"
            );
        }
        let refusing = entry("a", OLD, "spec: {hosts: [a.example], resolution: DNS}");
        let refusing = refusing.replace(
            "namespace: shop,",
            "namespace: shop, labels: {networking.istio.io/enable-autoallocate-ip: 'false'},",
        );
        assert!(of(&given(&objects(&refusing)), "a").is_empty());
    }

    #[test]
    fn of_two_with_one_address_the_newer_is_given_another() {
        let taken = "spec: {hosts: [h.example], resolution: DNS}\n\
            status: {addresses: [{host: h.example, value: 240.240.1.1}]}";
        let both = format!("{}{}", entry("new", NEW, taken), entry("old", OLD, taken));
        let both = given(&objects(&both));
        assert_eq!(of(&both, "old")[0], "h.example 240.240.1.1");
        assert!(of(&both, "new")[0] != "h.example 240.240.1.1");

        // What somebody has written comes first.
        let written = entry(
            "w",
            NEW,
            "spec: {hosts: [w.example], resolution: DNS, addresses: [240.240.1.1]}",
        );
        let all = given(&objects(&format!("{written}{}", entry("old", OLD, taken))));
        assert!(of(&all, "old")[0] != "h.example 240.240.1.1");
        let one = written.replace("240.240.1.1", "240.240.1.1/32");
        let all = given(&objects(&format!("{one}{}", entry("old", OLD, taken))));
        assert!(of(&all, "old")[0] != "h.example 240.240.1.1");
        // But a range takes nothing away, however wide.
        for range in ["240.240.0.0/17", "240.0.0.0/4", "0.0.0.0/0"] {
            let range = written.replace("240.240.1.1", range);
            let all = given(&objects(&format!("{range}{}", entry("old", OLD, taken))));
            assert_eq!(of(&all, "old")[0], "h.example 240.240.1.1");
        }
        // Nor is anything kept that is not of the pool.
        let stray = taken.replace("240.240.1.1", "10.0.0.1");
        assert!(of(&given(&objects(&entry("s", OLD, &stray))), "s")[0].contains(" 240.240."));
    }

    #[test]
    fn a_full_pool_gives_no_more() {
        let mut used: HashSet<IpAddr> = (0..HOSTS_V4).map(|number| place(true, number)).collect();
        let key = ObjectKey::new("shop", "a");
        assert_eq!(free(&key, "h", true, &mut used), None);
        let last = place(true, HOSTS_V4 - 1);
        assert_eq!(last, "240.240.255.254".parse::<IpAddr>().unwrap());
        used.remove(&last);
        assert_eq!(free(&key, "h", true, &mut used), Some(last));
    }
}
