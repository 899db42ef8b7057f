//! What policies with targets say about a request or connection.

use std::sync::Arc;

use tulle_model::{PolicyTarget, TargetKind};
use tulle_policy::{Connection, Denied, PolicySet};
use tulle_route::{Served, Target};
use tulle_state::Snapshot;

use super::{
    front::Shared,
    stream::{Context, Now},
};

impl Context {
    /// Whether policy permits it.
    ///
    /// # Errors
    /// Which one refuses, or that none permits.
    pub(super) fn check(&self, now: &Now) -> Result<(), Denied> {
        let connection = Connection {
            identity: Some(&self.peer.identity),
            source_ip: self.peer.address.ip(),
            destination_ip: self.destination.ip(),
            destination_port: self.destination.port(),
        };
        now.policies.check(&connection).map(drop)
    }
}

/// The policies about a destination.
pub(super) fn about(shared: &Shared, snapshot: &Snapshot, served: &Served) -> PolicySet {
    let instance = &shared.instance;
    let own: Arc<str> = instance.namespace.as_str().into();
    let target = |kind, name: &str| PolicyTarget::new(kind, name);
    let mut targets = vec![
        (
            Arc::clone(&own),
            target(TargetKind::Gateway, &instance.gateway),
        ),
        (own, target(TargetKind::GatewayClass, &instance.class)),
    ];
    if let Target::Service { record, .. } = &served.target {
        let service = &record.service;
        // Which of them it is made from is not told.
        for kind in [TargetKind::Service, TargetKind::ServiceEntry] {
            let namespace = Arc::clone(&service.key.namespace);
            targets.push((namespace, target(kind, &service.name)));
        }
    }
    snapshot.policies_about(&targets)
}
