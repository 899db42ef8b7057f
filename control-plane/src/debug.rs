//! What operators can look at while the process runs.

mod view;

use std::{future::ready, sync::Arc};

use http::Method;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tulle_runtime::http::{Response, Router, json as json_response};
use tulle_xds::{ServerMetrics, store::Store};

use crate::{index::Index, translate::Unbound};
use tulle_manifest::source::directory::Problems;

/// What the pages show.
#[derive(Clone)]
pub struct Debug {
    /// Objects and reports.
    pub index: Arc<RwLock<Index>>,
    /// What is served.
    pub store: Store,
    /// Streams.
    pub server: Arc<ServerMetrics>,
    /// What is wrong with the files.
    pub problems: Arc<Mutex<Problems>>,
}

impl Debug {
    /// The pages.
    pub fn routes(&self) -> Router {
        let (snapshot, policies, waypoints) = (self.clone(), self.clone(), self.clone());
        let (streams, source) = (self.clone(), self.clone());
        Router::new("debug")
            .route(
                Method::GET,
                "/debug/snapshot",
                "every resource that is served: workloads, services, policies",
                move |_| ready(snapshot.snapshot()),
            )
            .route(
                Method::GET,
                "/debug/policies",
                "what became of each policy, and why it is not enforced as written; what is wrong with routes and the like",
                move |_| ready(policies.policies()),
            )
            .route(
                Method::GET,
                "/debug/waypoints",
                "which waypoint each service and pod asks for, and why it does not get it",
                move |_| ready(waypoints.waypoints()),
            )
            .route(
                Method::GET,
                "/debug/streams",
                "xDS streams: how many, what was sent and rejected",
                move |_| ready(streams.streams()),
            )
            .route(
                Method::GET,
                "/debug/source",
                "files that cannot be used, and objects that are there more than once",
                move |_| ready(json_response(&*source.problems.lock())),
            )
    }

    fn snapshot(&self) -> Response {
        let everything = self.index.read().everything();
        json_response(&view::transaction(self.store.version(), everything))
    }

    fn policies(&self) -> Response {
        let reports = self.index.read().reports().clone();
        let policies: Vec<_> = reports.policies().collect();
        let left_out = reports
            .all_left_out()
            .map(|(id, reason)| json!({"object": id.to_string(), "reason": reason.to_string()}));
        let left_out: Vec<_> = left_out.collect();
        let problems = reports
            .all_problems()
            .map(|(id, problems)| json!({"object": id.to_string(), "problems": problems}));
        let problems: Vec<_> = problems.collect();
        json_response(&json!({"policies": policies, "leftOut": left_out, "problems": problems}))
    }

    fn waypoints(&self) -> Response {
        let reports = self.index.read().reports().clone();
        let waypoints = reports.waypoints().map(|(id, report)| {
            json!({
                "object": id.to_string(),
                "waypoint": report.waypoint.to_string(),
                "refused": report.refused.map(Unbound::reason),
                "canary": report.canary.map(Unbound::reason),
            })
        });
        json_response(&json!({"waypoints": waypoints.collect::<Vec<_>>()}))
    }

    fn streams(&self) -> Response {
        let server = &self.server;
        let of_type = |metrics: &tulle_xds::server::TypeMetrics| {
            json!({
                "pushes": metrics.pushes.value(),
                "resources": metrics.resources.value(),
                "nacks": metrics.nacks.value(),
            })
        };
        json_response(&json!({
            "version": self.store.version().0,
            "open": server.streams.value(),
            "opened": server.opened.value(),
            "unauthorized": server.unauthorized.value(),
            "tooSlow": server.too_slow.value(),
            "addresses": of_type(&server.addresses),
            "policies": of_type(&server.policies),
        }))
    }
}
