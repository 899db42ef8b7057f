//! What policies with targets say about a request or connection.

use std::{cell::RefCell, sync::Arc};

use tulle_model::{PolicyTarget, TargetKind};
use tulle_policy::{Connection, Denied, PolicySet};
use tulle_route::Target;
use tulle_state::{PolicyEpoch, Snapshot};

use super::stream::Context;

/// The policies about one destination, as of one moment.
#[derive(Default)]
pub(super) struct Policies(RefCell<Option<(PolicyEpoch, PolicySet)>>);

impl Context {
    /// Whether policy permits it, right now.
    ///
    /// # Errors
    /// Which one refuses, or that none permits.
    pub(super) fn check(&self) -> Result<(), Denied> {
        let snapshot = self.peer.front.shared.snapshots.load();
        let mut cached = self.policies.0.borrow_mut();
        let epoch = snapshot.policy_epoch();
        let (_, policies) = match cached.take().filter(|(of, _)| *of == epoch) {
            Some(current) => cached.insert(current),
            None => cached.insert((epoch, self.about(&snapshot))),
        };
        let connection = Connection {
            identity: Some(&self.peer.identity),
            source_ip: self.peer.address.ip(),
            destination_ip: self.served.destination.ip(),
            destination_port: self.served.destination.port(),
        };
        policies.check(&connection).map(drop)
    }

    fn about(&self, snapshot: &Snapshot) -> PolicySet {
        let instance = &self.peer.front.shared.instance;
        let own: Arc<str> = instance.namespace.as_str().into();
        let target = |kind, name: &str| PolicyTarget::new(kind, name);
        let mut targets = vec![
            (
                Arc::clone(&own),
                target(TargetKind::Gateway, &instance.gateway),
            ),
            (own, target(TargetKind::GatewayClass, &instance.class)),
        ];
        if let Target::Service { record, .. } = &self.served.target {
            let service = &record.service;
            // Which of them it is made from is not told.
            for kind in [TargetKind::Service, TargetKind::ServiceEntry] {
                let namespace = Arc::clone(&service.key.namespace);
                targets.push((namespace, target(kind, &service.name)));
            }
        }
        snapshot.policies_about(&targets)
    }
}
