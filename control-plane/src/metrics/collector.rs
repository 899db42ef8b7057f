//! Metrics that are read from the state when they are scraped.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tulle_xds::{ResourceType, ServerMetrics, metrics::Latency, store::Store};

use crate::{index::Index, serving::unix, succession::Signer, translate::Outcome};
use tulle_manifest::source::directory::Problems;

/// Where the numbers are.
pub(crate) struct Sources {
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) store: Store,
    pub(crate) server: Arc<ServerMetrics>,
    pub(crate) problems: Arc<Mutex<Problems>>,
    /// End of the serving certificate, seconds since 1970.
    pub(crate) serving_not_after: Arc<AtomicU64>,
    pub(crate) signer: Signer,
    pub(crate) connections_refused: Arc<AtomicU64>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources(..)")
    }
}

/// Reads them.
#[derive(Debug)]
pub(crate) struct StateCollector(pub(crate) Sources);

impl Collector for StateCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.objects(&mut out)?;
        self.source(&mut out)?;
        self.streams(&mut out)?;
        out.counter(
            "tulle_control_plane_connections_refused",
            "Connections closed because their address has too many",
            self.0.connections_refused.load(Ordering::Relaxed),
        )?;
        let (not_after, roots) = {
            let ca = self.0.signer.borrow();
            (ca.not_after(), ca.roots())
        };
        let serving = self.0.serving_not_after.load(Ordering::Relaxed);
        out.gauge(
            "tulle_control_plane_serving_certificate_expiry_timestamp",
            "When the serving certificate ends, since 1970",
            serving,
        )?;
        out.gauge(
            "tulle_control_plane_ca_expiry_timestamp",
            "When the CA can sign no more, since 1970",
            unix(not_after),
        )?;
        out.gauge(
            "tulle_control_plane_ca_roots",
            "Roots that are trusted: more than usual while the root is rotated",
            roots as u64,
        )
    }
}

impl StateCollector {
    fn objects(&self, out: &mut Out<'_>) -> fmt::Result {
        let (objects, policies, left_out) = {
            let index = self.0.index.read();
            let objects = index.objects();
            let counts = [
                ("Pod", objects.pods().len()),
                ("Service", objects.services().len()),
                ("Gateway", objects.gateways().len()),
                ("ServiceEntry", objects.service_entries().len()),
                ("WorkloadEntry", objects.workload_entries().len()),
                ("EndpointSlice", objects.endpoint_slices().len()),
                (
                    "AuthorizationPolicy",
                    objects.authorization_policies().len(),
                ),
                ("PeerAuthentication", objects.peer_authentications().len()),
                ("HTTPRoute", objects.http_routes().len()),
                ("GRPCRoute", objects.grpc_routes().len()),
                ("ReferenceGrant", objects.reference_grants().len()),
                (
                    "RequestAuthentication",
                    objects.request_authentications().len(),
                ),
                ("DestinationRule", objects.destination_rules().len()),
                ("VirtualService", objects.virtual_services().len()),
                ("Telemetry", objects.telemetries().len()),
                ("RateLimitPolicy", objects.rate_limit_policies().len()),
            ];
            let outcomes = [
                ("exact", Outcome::Exact),
                ("adjusted", Outcome::Adjusted),
                ("not_sent", Outcome::NotSent),
            ];
            let count = |outcome| {
                let reports = index.reports().policies();
                reports.filter(|report| report.outcome == outcome).count()
            };
            let policies = outcomes.map(|(name, outcome)| (name, count(outcome)));
            (counts, policies, index.reports().all_left_out().count())
        };
        let stored = self.0.store.len();
        let resources = [
            ("address", stored.addresses),
            ("authorization", stored.policies),
            ("configuration", stored.configurations),
        ];
        out.gauges(
            "tulle_control_plane_objects",
            "Objects in the source",
            "kind",
            &objects,
        )?;
        out.gauges(
            "tulle_control_plane_resources",
            "Resources served",
            "type",
            &resources,
        )?;
        out.gauges(
            "tulle_control_plane_policies",
            "Policies by what became of them",
            "outcome",
            &policies,
        )?;
        out.gauge(
            "tulle_control_plane_left_out",
            "Pods and entries that cannot be translated, or not all of them",
            left_out as u64,
        )
    }

    fn source(&self, out: &mut Out<'_>) -> fmt::Result {
        let (broken, duplicates) = {
            let problems = self.0.problems.lock();
            (problems.broken.len(), problems.duplicates.len())
        };
        out.gauge(
            "tulle_control_plane_source_broken_files",
            "Files that cannot be used",
            broken as u64,
        )?;
        out.gauge(
            "tulle_control_plane_source_duplicates",
            "Objects that are there more than once",
            duplicates as u64,
        )
    }

    fn streams(&self, out: &mut Out<'_>) -> fmt::Result {
        let server = &self.0.server;
        out.gauge(
            "tulle_control_plane_xds_streams",
            "Open xDS streams",
            server.streams.value(),
        )?;
        out.counter(
            "tulle_control_plane_xds_streams_opened",
            "xDS streams opened",
            server.opened.value(),
        )?;
        out.counter(
            "tulle_control_plane_xds_streams_too_slow",
            "xDS streams ended because they fell behind",
            server.too_slow.value(),
        )?;
        let types = [
            ("address", ResourceType::Address),
            ("authorization", ResourceType::Authorization),
            ("configuration", ResourceType::Configuration),
        ];
        let of = |read: fn(&tulle_xds::server::TypeMetrics) -> u64| {
            types.map(|(name, kind)| (name, read(server.of(kind))))
        };
        out.counters(
            "tulle_control_plane_xds_pushes",
            "Responses sent",
            "type",
            &of(|m| m.pushes.value()),
        )?;
        out.counters(
            "tulle_control_plane_xds_resources_sent",
            "Resources sent",
            "type",
            &of(|m| m.resources.value()),
        )?;
        out.counters(
            "tulle_control_plane_xds_nacks",
            "Responses rejected in whole or part",
            "type",
            &of(|m| m.nacks.value()),
        )?;
        out.latency(
            "tulle_control_plane_xds_commit_to_send",
            "From a change to its response",
            &server.commit_to_send,
        )?;
        out.latency(
            "tulle_control_plane_xds_commit_to_ack",
            "From a change to its acknowledgement",
            &server.commit_to_ack,
        )
    }
}

/// Writes metrics of the few shapes we have.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstGauge::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = ConstCounter::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode(encoder)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, usize)],
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            let metric = ConstGauge::new(*count as u64);
            metric.encode(family.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(&str, u64)],
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            let metric = ConstCounter::new(*count);
            metric.encode(family.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) -> fmt::Result {
        let seconds = |milliseconds: u64| Duration::from_millis(milliseconds).as_secs_f64();
        let bounds = Latency::BOUNDS
            .into_iter()
            .map(seconds)
            .chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(latency.counts()).collect();
        let unit = prometheus_client::registry::Unit::Seconds;
        let mut encoder =
            self.0
                .encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(
            latency.sum().as_secs_f64(),
            latency.count(),
            &buckets,
            None,
        )
    }
}
