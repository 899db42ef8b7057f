//! Resources as JSON, for people.

use serde_json::{Value, json};
use tulle_model::{Authorization, Clause, Match, Rule, Service, StringMatch, Vip, Workload};
use tulle_xds::{
    Address,
    store::{Transaction, Version},
};

/// Everything in a transaction that is there.
pub(super) fn transaction(version: Version, transaction: Transaction) -> Value {
    let (mut workloads, mut services) = (Vec::new(), Vec::new());
    let addresses = transaction.addresses.into_iter();
    for address in addresses.filter_map(|(_, address)| address) {
        match address {
            Address::Workload(found) => workloads.push(workload(&found)),
            Address::Service(found) => services.push(service(&found)),
        }
    }
    let policies = transaction.policies.iter();
    let policies = policies
        .filter_map(|(_, policy)| policy.as_ref())
        .map(policy);
    json!({
        "version": version.0,
        "workloads": workloads,
        "services": services,
        "policies": policies.collect::<Vec<_>>(),
    })
}

pub(super) fn workload(found: &Workload) -> Value {
    let services = found.services.iter().map(|(key, ports)| {
        let ports = ports
            .iter()
            .map(|port| json!([port.service_port, port.target_port]));
        (key.to_string(), Value::Array(ports.collect()))
    });
    json!({
        "uid": found.uid.as_str(),
        "name": found.name,
        "namespace": found.namespace,
        "identity": found.identity.to_string(),
        "addresses": found.addresses,
        "network": found.network,
        "networkMode": format!("{:?}", found.network_mode),
        "tunnelProtocol": format!("{:?}", found.tunnel_protocol),
        "nativeTunnel": found.native_tunnel,
        "waypoint": found.waypoint.as_ref().map(|waypoint| format!("{waypoint:?}")),
        "health": format!("{:?}", found.health),
        "node": found.node,
        "locality": [&found.locality.region, &found.locality.zone, &found.locality.subzone],
        "services": Value::Object(services.collect()),
        "authorizationPolicies": texts(&found.authorization_policies),
        "workloadName": found.workload_name,
        "canonicalName": found.canonical_name,
        "canonicalRevision": found.canonical_revision,
    })
}

fn service(found: &Service) -> Value {
    let vips = found.vips.iter().map(|vip| match vip {
        Vip::Host(address) => address.to_string(),
        Vip::Range {
            network,
            address,
            prefix,
        } => format!("{network}/{address}/{prefix}"),
    });
    let ports = found.ports.iter().map(|port| {
        json!({
            "servicePort": port.service_port,
            "targetPort": port.target_port,
            "appProtocol": format!("{:?}", port.app_protocol),
        })
    });
    let load_balancing = &found.load_balancing;
    json!({
        "name": found.name,
        "namespace": found.key.namespace,
        "hostname": found.key.hostname,
        "addresses": vips.collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "ipFamilies": format!("{:?}", found.ip_families),
        "loadBalancing": {
            "mode": format!("{:?}", load_balancing.mode),
            "routingPreference": debug_texts(&load_balancing.routing_preference),
            "healthPolicy": format!("{:?}", load_balancing.health_policy),
        },
    })
}

fn policy(found: &Authorization) -> Value {
    let clause = |clause: &Clause| Value::Array(clause.matches.iter().map(conditions).collect());
    let rule = |rule: &Rule| Value::Array(rule.clauses.iter().map(clause).collect());
    json!({
        "name": found.key.name,
        "namespace": found.key.namespace,
        "scope": format!("{:?}", found.scope),
        "action": format!("{:?}", found.action),
        "dryRun": found.dry_run,
        "rules": found.rules.iter().map(rule).collect::<Vec<_>>(),
    })
}

fn conditions(found: &Match) -> Value {
    let strings = |list: &[StringMatch]| -> Vec<String> {
        let text = |found: &StringMatch| match found {
            StringMatch::Exact(text) => text.to_string(),
            StringMatch::Prefix(text) => format!("{text}*"),
            StringMatch::Suffix(text) => format!("*{text}"),
            StringMatch::Presence => "*".to_owned(),
        };
        list.iter().map(text).collect()
    };
    let accounts = |list: &[tulle_model::ServiceAccountMatch]| -> Vec<String> {
        let text = |found: &tulle_model::ServiceAccountMatch| {
            format!("{}/{}", found.namespace, found.service_account)
        };
        list.iter().map(text).collect()
    };
    let all = [
        ("principals", strings(&found.principals)),
        ("notPrincipals", strings(&found.not_principals)),
        ("namespaces", strings(&found.namespaces)),
        ("notNamespaces", strings(&found.not_namespaces)),
        ("serviceAccounts", accounts(&found.service_accounts)),
        ("notServiceAccounts", accounts(&found.not_service_accounts)),
        ("sourceIps", texts(&found.source_ips)),
        ("notSourceIps", texts(&found.not_source_ips)),
        ("destinationIps", texts(&found.destination_ips)),
        ("notDestinationIps", texts(&found.not_destination_ips)),
        ("destinationPorts", texts(&found.destination_ports)),
        ("notDestinationPorts", texts(&found.not_destination_ports)),
    ];
    let present = all.into_iter().filter(|(_, list)| !list.is_empty());
    Value::Object(
        present
            .map(|(name, list)| (name.to_owned(), json!(list)))
            .collect(),
    )
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn debug_texts<T: std::fmt::Debug>(list: &[T]) -> Vec<String> {
    list.iter().map(|item| format!("{item:?}")).collect()
}
