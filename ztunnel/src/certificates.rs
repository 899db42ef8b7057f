//! Fetches the certificates of this node's workloads before they are needed, and forgets those that no longer are.

use std::collections::HashSet;

use tulle_identity::SvidStore;
use tulle_model::{SpiffeId, TunnelProtocol};

use tulle_state::{Snapshot, SnapshotReader};

/// Follows the state for as long as it is written.
pub async fn follow(mut snapshots: SnapshotReader, svids: SvidStore) {
    let mut held = HashSet::new();
    let mut snapshot = snapshots.load();
    loop {
        let wanted = identities(&snapshot);
        for id in wanted.difference(&held) {
            svids.prefetch(id);
        }
        for id in held.difference(&wanted) {
            svids.forget(id);
        }
        held = wanted;
        match snapshots.changed().await {
            Some(changed) => snapshot = changed,
            None => return,
        }
    }
}

/// Identities of captured workloads on this node. One that speaks HBONE itself keeps its own certificate.
fn identities(snapshot: &Snapshot) -> HashSet<SpiffeId> {
    snapshot
        .local_workloads()
        .filter(|workload| workload.tunnel_protocol == TunnelProtocol::Hbone)
        .filter(|workload| !workload.native_tunnel)
        .map(|workload| workload.identity.clone())
        .collect()
}
