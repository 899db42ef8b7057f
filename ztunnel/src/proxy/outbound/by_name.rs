//! Connections to workloads that are where a name leads.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    rc::Rc,
};

use smallvec::SmallVec;
use tulle_model::{IpFamilies, Uid};
use tulle_route::{Named, Outbound};
use tulle_telemetry::WorkloadLabels;

use super::{Failed, Hop, Local, Pod, Upstream, connect_hop};
use crate::{dns::Family, telemetry::NameLabels};

/// Connects to where a name leads; another of its addresses is tried when the first cannot be reached.
pub(super) async fn connect(
    pod: &Rc<Pod>,
    local: &Local,
    source: SocketAddr,
    dialled: SocketAddr,
    named: Named,
    exclude: &[Uid],
    attempts: &mut usize,
) -> Result<(Upstream, Hop), (Failed, Hop)> {
    let ways = ways(pod, local, dialled, &named, exclude).await;
    let nowhere = Hop::nowhere(named, dialled);
    let ways = match ways {
        Ok(ways) => ways,
        Err(failed) => {
            *attempts -= 1;
            return Err((failed, nowhere));
        }
    };
    let mut last = (Failed::Connect(io::ErrorKind::NotFound.into()), nowhere);
    for way in ways.into_iter().take(*attempts) {
        *attempts -= 1;
        match connect_hop(pod, local, source, way).await {
            Ok(connected) => return Ok(connected),
            Err((failed, hop)) if failed.is_retryable() => last = (failed, hop),
            Err(failed) => return Err(failed),
        }
    }
    Err(last)
}

/// The ways to the addresses of a name, at least one, in the order in which they are to be tried.
///
/// The question is this node's and not the pod's, as is the answer: all pods of the node share it.
async fn ways(
    pod: &Rc<Pod>,
    local: &Local,
    dialled: SocketAddr,
    named: &Named,
    exclude: &[Uid],
) -> Result<SmallVec<[Outbound; 1]>, Failed> {
    let shared = pod.shared();
    let labels = NameLabels {
        hostname: named.hostname.clone(),
        source: WorkloadLabels::of(&local.workload),
        source_principal: local.workload.identity.clone(),
    };
    let names = &shared.metrics.resolver.names;
    names.get_or_create(&labels).inc();
    let families = families(
        dialled.ip(),
        &local.workload.addresses,
        named.record.service.ip_families,
        pod.settings().ipv6,
    );
    let servers = &shared.name_servers;
    let resolved = shared.resolver.resolve(servers, &named.hostname, &families);
    let addresses = resolved.await.map_err(|error| Failed::Name {
        name: named.hostname.clone(),
        error,
    })?;
    let mut random = fastrand::Rng::new();
    let mut addresses: SmallVec<[IpAddr; 4]> = addresses.iter().copied().collect();
    random.shuffle(&mut addresses);
    // Meanwhile the mesh may have changed.
    let snapshot = shared.snapshots.load();
    let mut ways = SmallVec::new();
    let mut misled = None;
    for ip in addresses {
        match named.at(&snapshot, &local.workload, ip, exclude, &mut random) {
            Ok(way) => ways.push(way),
            Err(error) => misled = Some(error),
        }
    }
    match misled {
        Some(error) if ways.is_empty() => Err(error.into()),
        Some(_) | None => Ok(ways),
    }
}

/// The families that both ends have, as far as that is known; first the one that the app dialled.
fn families(
    dialled: IpAddr,
    own: &[IpAddr],
    service: IpFamilies,
    ipv6: bool,
) -> SmallVec<[Family; 2]> {
    let usable = |family: &Family| {
        let any: IpAddr = match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let has = own.is_empty() || own.iter().any(|ip| ip.is_ipv4() == any.is_ipv4());
        has && (ipv6 || any.is_ipv4()) && service.allows(any)
    };
    let order = match dialled.to_canonical() {
        IpAddr::V4(_) => [Family::Ipv4, Family::Ipv6],
        IpAddr::V6(_) => [Family::Ipv6, Family::Ipv4],
    };
    order.into_iter().filter(usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_that_are_asked_for() {
        use Family::{Ipv4, Ipv6};
        let (v4, v6, pod6) = ("10.0.0.1", "fd00::1", "fd00:1::1");
        for (dialled, own, service, ipv6, expected) in [
            (
                v4,
                vec![v4, pod6],
                IpFamilies::Automatic,
                true,
                vec![Ipv4, Ipv6],
            ),
            (v6, vec![v4, pod6], IpFamilies::Dual, true, vec![Ipv6, Ipv4]),
            (
                "::ffff:10.0.0.1",
                vec![],
                IpFamilies::Automatic,
                true,
                vec![Ipv4, Ipv6],
            ),
            (v6, vec![v4], IpFamilies::Automatic, true, vec![Ipv4]),
            (v4, vec![pod6], IpFamilies::Automatic, true, vec![Ipv6]),
            (v6, vec![v4, pod6], IpFamilies::Ipv4Only, true, vec![Ipv4]),
            (v4, vec![v4, pod6], IpFamilies::Ipv6Only, true, vec![Ipv6]),
            (v6, vec![v4, pod6], IpFamilies::Automatic, false, vec![Ipv4]),
            (v4, vec![v4], IpFamilies::Ipv6Only, true, vec![]),
        ] {
            let own: Vec<IpAddr> = own.iter().map(|ip| ip.parse().unwrap()).collect();
            let actual = families(dialled.parse().unwrap(), &own, service, ipv6);
            assert_eq!(actual.to_vec(), expected, "{dialled} {own:?} {service:?}");
        }
    }
}
