//! Plain data with one line each.

use std::net::IpAddr;

use tulle_model::{
    Action, AppProtocol, Authorization, Clause, Match, NetworkAddress, PolicyKey, PortMapping,
    Rule, Scope, Service, ServiceKey, ServicePort, SpiffeId, StringMatch, TrustDomain,
    TunnelProtocol, Vip, Workload,
};

/// An identity in the trust domain `cluster.local`.
pub fn spiffe(namespace: &str, service_account: &str) -> SpiffeId {
    SpiffeId::new(TrustDomain::default(), namespace, service_account)
        .expect("test names fit a SPIFFE ID")
}

/// A pod in the mesh: uid `Kubernetes//Pod/<namespace>/<name>`, service account of the same name, HBONE.
pub fn workload(namespace: &str, name: &str, address: &str) -> Workload {
    let uid = format!("Kubernetes//Pod/{namespace}/{name}");
    let plain = Workload::new(&uid, TrustDomain::default(), namespace, name)
        .expect("test names fit a SPIFFE ID");
    Workload {
        name: name.into(),
        addresses: vec![ip(address)],
        tunnel_protocol: TunnelProtocol::Hbone,
        workload_name: name.into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        ..plain
    }
}

/// A service `<name>.<namespace>.svc.cluster.local` with one address and one port, and `endpoints` turned into
/// endpoints of it.
pub fn service(
    namespace: &str,
    name: &str,
    vip: &str,
    (service_port, target_port): (u16, u16),
    endpoints: &mut [Workload],
) -> Service {
    let hostname = format!("{name}.{namespace}.svc.cluster.local");
    for endpoint in endpoints {
        let port = PortMapping {
            service_port,
            target_port,
        };
        let key = ServiceKey::new(namespace, hostname.as_str());
        endpoint.services.entry(key).or_default().push(port);
    }
    Service {
        vips: vec![Vip::Host(NetworkAddress::new("".into(), ip(vip)))],
        ports: vec![ServicePort {
            service_port,
            target_port,
            app_protocol: AppProtocol::Unknown,
        }],
        ..Service::new(name, namespace, &hostname)
    }
}

/// An ALLOW policy for a whole namespace: only `sources` may connect.
pub fn allow(namespace: &str, name: &str, sources: &[SpiffeId]) -> Authorization {
    policy(namespace, name, Action::Allow, sources)
}

/// A DENY policy for a whole namespace: `sources` may not connect.
pub fn deny(namespace: &str, name: &str, sources: &[SpiffeId]) -> Authorization {
    policy(namespace, name, Action::Deny, sources)
}

fn policy(namespace: &str, name: &str, action: Action, sources: &[SpiffeId]) -> Authorization {
    let principals = sources
        .iter()
        .map(|id| StringMatch::Exact(id.principal().into()))
        .collect();
    let from = Match {
        principals,
        ..Match::default()
    };
    let clause = Clause {
        matches: vec![from],
    };
    Authorization {
        key: PolicyKey::new(namespace, name),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule {
            clauses: vec![clause],
        }],
        dry_run: false,
        authorizer: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("test addresses parse")
}
