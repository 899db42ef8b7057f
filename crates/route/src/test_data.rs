//! Resources for tests, as the state keeps them.

use std::sync::Arc;

use tulle_state::{Resource, Snapshot, StateConfig, StateWriter, Workload};

/// A workload as the state keeps it.
pub(crate) fn known(workload: tulle_model::Workload) -> Workload {
    workload.into()
}

/// A snapshot with these resources.
pub(crate) fn mesh(resources: impl IntoIterator<Item = Resource>) -> Arc<Snapshot> {
    let (writer, reader) = StateWriter::new(StateConfig::default());
    writer.replace_local(resources);
    reader.load()
}
