//! Endpoints and policies for tests.

use std::{sync::Arc, time::Duration};

use tulle_model::traffic::Outliers;
use tulle_state::{Endpoints, StateConfig, StateWriter};
use tulle_testkit::sample::{key, pod, service, serving};

/// Of the service `web`, these endpoints with their weights.
pub(crate) fn endpoints(of: &[(&str, u32)]) -> Arc<Endpoints> {
    let pods = of.iter().map(|(name, weight)| {
        let mut pod = serving(pod(name, "10.0.0.1"), "web", &[(80, 8080)]);
        pod.capacity = *weight;
        pod.into()
    });
    let (writer, reader) = StateWriter::new(StateConfig::default());
    let web = service("web", &["10.2.0.1"]);
    writer.replace_local(pods.chain([web.into()]));
    let snapshot = reader.load();
    let record = snapshot.service(&key("web")).expect("it was added");
    Arc::clone(&record.endpoints)
}

/// After three failures, for half a minute.
pub(crate) fn outliers() -> Outliers {
    Outliers {
        server_errors: Some(3),
        gateway_errors: None,
        local_failures: None,
        split: false,
        interval: Duration::from_secs(10),
        base: Duration::from_secs(30),
        most_ejected: 100,
        least_healthy: 0,
    }
}
