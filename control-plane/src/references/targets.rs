//! What a policy names in `targetRefs`.

use tulle_manifest::{Kind, ObjectId, ObjectKey, TargetRef};

use super::Unenforced;
use crate::index::Index;

/// Whether a waypoint would see what a target of a policy in `namespace` is sent.
///
/// # Errors
/// Why not.
pub fn target(index: &Index, namespace: &str, target: &TargetRef) -> Result<(), Unenforced> {
    let key = ObjectKey::new(namespace, target.name.as_str());
    let objects = index.objects();
    let found = |found: bool| found.then_some(()).ok_or(Unenforced::NotFound);
    if target
        .namespace
        .as_deref()
        .is_some_and(|other| other != namespace)
    {
        return Err(Unenforced::Invalid);
    }
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => {
            found(objects.services().contains_key(&key))?;
            is_bound(index, Kind::Service, &key)
        }
        ("networking.istio.io", "ServiceEntry") => {
            found(objects.service_entries().contains_key(&key))?;
            is_bound(index, Kind::ServiceEntry, &key)
        }
        ("gateway.networking.k8s.io", "Gateway") => {
            let gateway = objects.gateways().get(&key);
            let gateway = gateway.ok_or(Unenforced::NotFound)?;
            match index.is_waypoint(gateway) {
                true => Ok(()),
                false => Err(Unenforced::NotBound),
            }
        }
        ("gateway.networking.k8s.io", "GatewayClass") if index.is_root(namespace) => {
            found(objects.gateway_class(&target.name).is_some())
        }
        _ => Err(Unenforced::Invalid),
    }
}

/// Whether a waypoint serves an object.
pub(super) fn is_bound(index: &Index, kind: Kind, key: &ObjectKey) -> Result<(), Unenforced> {
    let id = ObjectId {
        kind,
        key: key.clone(),
    };
    let report = index.reports().waypoint_of(&id);
    match report.is_some_and(|report| report.refused.is_none()) {
        true => Ok(()),
        false => Err(Unenforced::NotBound),
    }
}
