//! Which address of a workload to use.

use std::net::IpAddr;

use tulle_model::IpFamilies;

use tulle_state::Workload;

/// The address that was dialled if it is one of the workload's, else one that is allowed, preferably of the family
/// that was dialled.
pub(super) fn choose(workload: &Workload, dialled: IpAddr, families: IpFamilies) -> Option<IpAddr> {
    if workload.addresses.contains(&dialled) {
        return Some(dialled);
    }
    let allowed = || workload.addresses.iter().filter(|ip| families.allows(**ip));
    let same_family = allowed().find(|ip| ip.is_ipv4() == dialled.is_ipv4());
    same_family.or_else(|| allowed().next()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_testkit::sample;

    use crate::test_data;

    #[test]
    fn dialled_then_family_then_any() {
        use IpFamilies::{Automatic, Dual, Ipv4Only, Ipv6Only};
        let (v4, v6) = ("10.0.0.1", "fd00::1");
        for (addresses, dialled, families, expected) in [
            (vec![v4, v6], "10.2.0.1", Automatic, Some(v4)),
            (vec![v4, v6], "fd00:2::1", Automatic, Some(v6)),
            (vec![v6, v4], "10.2.0.1", Dual, Some(v4)),
            (vec![v4], "fd00:2::1", Automatic, Some(v4)),
            (vec![v4, v6], "10.2.0.1", Ipv6Only, Some(v6)),
            (vec![v4], "10.2.0.1", Ipv6Only, None),
            (vec![v4, v6], v6, Ipv4Only, Some(v6)),
            (
                vec![v4, "10.0.0.2"],
                "10.0.0.2",
                Automatic,
                Some("10.0.0.2"),
            ),
            (vec![], "10.2.0.1", Automatic, None),
        ] {
            let mut pod = sample::pod("a", v4);
            pod.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let actual = choose(&test_data::known(pod), dialled.parse().unwrap(), families);
            assert_eq!(
                actual,
                expected.map(|e| e.parse().unwrap()),
                "{addresses:?} {dialled}"
            );
        }
    }
}
