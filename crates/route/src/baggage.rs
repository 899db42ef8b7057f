//! The `baggage` header: who a workload is, for telemetry.
//!
//! Comma-joined `key=value` without spaces and without escaping. What a peer writes here is believed only where
//! nothing better is known, and never decides anything.

use std::fmt::Write;

use tulle_model::WorkloadType;

use tulle_state::Workload;

/// Name of the header.
pub const HEADER: &str = "baggage";

/// What a `baggage` header says. Every value is 1 to [`MAX_VALUE`] printable bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of a workload")]
pub struct Baggage {
    pub cluster_id: Option<Box<str>>,
    pub namespace: Option<Box<str>>,
    pub workload_type: Option<WorkloadType>,
    pub workload_name: Option<Box<str>>,
    pub canonical_name: Option<Box<str>>,
    pub canonical_revision: Option<Box<str>>,
    pub region: Option<Box<str>>,
    pub zone: Option<Box<str>>,
}

impl Baggage {
    /// Reads all header lines of a request or response. Never fails: what is not understood is left out.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut baggage = Self::default();
        let mut budget = MAX_HEADER;
        for line in lines {
            let Some(rest) = budget.checked_sub(line.len()) else {
                break;
            };
            budget = rest;
            for pair in line.split(|b| *b == b',') {
                let mut parts = pair.split(|b| *b == b'=');
                if let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                    baggage.set(key, value);
                }
            }
        }
        baggage
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        let value = readable(value);
        let field = match key {
            b"k8s.cluster.name" => &mut self.cluster_id,
            b"k8s.namespace.name" => &mut self.namespace,
            b"service.name" => &mut self.canonical_name,
            b"service.version" => &mut self.canonical_revision,
            b"cloud.region" => &mut self.region,
            b"cloud.availability_zone" => &mut self.zone,
            _ => match workload_type(key) {
                Some(kind) => {
                    self.workload_type = value.is_some().then_some(kind);
                    &mut self.workload_name
                }
                None => return,
            },
        };
        *field = value.map(Into::into);
    }
}

/// The header of a workload.
pub fn of(workload: &Workload) -> String {
    let mut header = String::with_capacity(TYPICAL_HEADER);
    let mut add = |key: &str, value: &str| {
        if readable(value.as_bytes()).is_some() && !value.contains([',', '=']) {
            let separator = if header.is_empty() { "" } else { "," };
            write!(header, "{separator}{key}={value}").expect("a string takes everything");
        }
    };
    add("k8s.cluster.name", &workload.cluster_id);
    add("k8s.namespace.name", &workload.namespace);
    add(name_key(workload.workload_type), &workload.workload_name);
    add("service.name", &workload.canonical_name);
    add("service.version", &workload.canonical_revision);
    add("cloud.region", &workload.place.locality.region);
    add("cloud.availability_zone", &workload.place.locality.zone);
    header
}

/// Longest value that is taken over.
pub const MAX_VALUE: usize = 256;

/// Longest header, all lines together, that is read.
pub const MAX_HEADER: usize = 8 * 1024;

const TYPICAL_HEADER: usize = 192;

/// None if empty, too long, or with a byte that could confuse a log or a metric.
fn readable(value: &[u8]) -> Option<&str> {
    let fits = (1..=MAX_VALUE).contains(&value.len());
    let printable = value.iter().all(|b| matches!(b, 0x21..=0x7e));
    str::from_utf8(value).ok().filter(|_| fits && printable)
}

fn name_key(kind: WorkloadType) -> &'static str {
    match kind {
        WorkloadType::Deployment => "k8s.deployment.name",
        WorkloadType::CronJob => "k8s.cronjob.name",
        WorkloadType::Pod => "k8s.pod.name",
        WorkloadType::Job => "k8s.job.name",
    }
}

fn workload_type(key: &[u8]) -> Option<WorkloadType> {
    [
        WorkloadType::Deployment,
        WorkloadType::CronJob,
        WorkloadType::Pod,
        WorkloadType::Job,
    ]
    .into_iter()
    .find(|kind| name_key(*kind).as_bytes() == key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tulle_testkit::sample::pod;

    use crate::test_data::known;

    fn parse(text: &str) -> Baggage {
        Baggage::parse([text.as_bytes()])
    }

    #[test]
    fn keys_in_their_order_and_nothing_empty() {
        let mut workload = pod("a", "10.0.0.1");
        workload.workload_type = WorkloadType::Deployment;
        workload.workload_name = "cart".into();
        workload.canonical_name = "cart".into();
        workload.locality.zone = "z".into();
        assert_eq!(
            of(&known(workload.clone())),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,\
             service.name=cart,cloud.availability_zone=z"
        );
        workload.canonical_name = "x,service.version=evil".into();
        assert!(!of(&known(workload)).contains("evil"));
    }

    #[test]
    fn reading() {
        let name = |text: &str| parse(text).canonical_name.map(String::from);
        for (text, expected) in [
            ("service.name=a", Some("a")),
            ("x=y,service.name=a,,=,z", Some("a")),
            ("service.name=a=b", Some("a")),
            ("service.name=a,service.name=b", Some("b")),
            ("service.name=a,service.name=", None),
            ("service.name", None),
            (" service.name=a", None),
            ("service.name=a b", None),
            ("service.name=a\u{1b}[31m", None),
            ("service.name=\u{e9}", None),
        ] {
            assert_eq!(name(text).as_deref(), expected, "{text}");
        }
        let lines = [b"service.name=a".as_slice(), b"k8s.job.name=j"];
        let both = Baggage::parse(lines);
        assert_eq!(both.workload_type, Some(WorkloadType::Job));
        assert_eq!(both.canonical_name.as_deref(), Some("a"));
    }

    #[test]
    fn size_is_bounded() {
        assert!(
            parse(&format!("service.name={}", "x".repeat(MAX_VALUE)))
                .canonical_name
                .is_some()
        );
        assert_eq!(
            parse(&format!("service.name={}", "x".repeat(MAX_VALUE + 1))),
            Baggage::default()
        );
        let long = "x".repeat(MAX_HEADER);
        assert_eq!(
            Baggage::parse([long.as_bytes(), b"service.name=a"]),
            Baggage::default()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            Baggage::parse(lines.iter().map(Vec::as_slice));
        }

        #[test]
        fn what_is_written_is_read(
            values in proptest::array::uniform6("[a-z0-9.-]{0,12}"),
            kind in proptest::sample::select(vec![
                WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job,
            ]),
        ) {
            let mut workload = pod("a", "10.0.0.1");
            let [cluster, name, canonical, revision, region, zone] = &values;
            workload.cluster_id = cluster.as_str().into();
            workload.workload_type = kind;
            workload.workload_name = name.as_str().into();
            workload.canonical_name = canonical.as_str().into();
            workload.canonical_revision = revision.as_str().into();
            workload.locality.region = region.as_str().into();
            workload.locality.zone = zone.as_str().into();
            let some = |text: &str| (!text.is_empty()).then(|| text.into());
            prop_assert_eq!(parse(&of(&known(workload))), Baggage {
                cluster_id: some(cluster),
                namespace: some("shop"),
                workload_type: (!name.is_empty()).then_some(kind),
                workload_name: some(name),
                canonical_name: some(canonical),
                canonical_revision: some(revision),
                region: some(region),
                zone: some(zone),
            });
        }
    }
}
