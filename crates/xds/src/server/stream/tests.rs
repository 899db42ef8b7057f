//! The server's side of the conversation, and convergence of any interleaving.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use tulle_model::{PolicyKey, ServiceKey, Workload};
use tulle_proto::discovery::{DeltaDiscoveryResponse, Status as WireStatus};
use tulle_testkit::{deny, service, workload};

use super::*;
use crate::{
    Address, decode,
    server::wire::Parser,
    store::{Store, StoreConfig, StoreWriter, Transaction},
};

mod convergence;
mod on_demand;

const ADDRESS: ResourceType = ResourceType::Address;
const POLICY: ResourceType = ResourceType::Authorization;

/// A store and one stream on it, whose client remembers what it was sent.
struct Harness {
    writer: StoreWriter,
    store: Store,
    stream: Stream,
    now: Instant,
    client: Client,
}

/// What a correct client holds: per type, name to version and body.
#[derive(Debug, Default, Clone)]
struct Client {
    addresses: BTreeMap<String, (String, Vec<u8>)>,
    policies: BTreeMap<String, (String, Vec<u8>)>,
    configurations: BTreeMap<String, (String, Vec<u8>)>,
}

impl Client {
    fn held(&mut self, kind: ResourceType) -> &mut BTreeMap<String, (String, Vec<u8>)> {
        match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
            ResourceType::Configuration => &mut self.configurations,
        }
    }

    fn apply(&mut self, response: &DeltaDiscoveryResponse) {
        let held = self.held(ResourceType::from_url(&response.type_url).unwrap());
        for name in &response.removed_resources {
            held.remove(name);
        }
        for resource in &response.resources {
            let body = resource.resource.clone().unwrap().value;
            held.insert(resource.name.clone(), (resource.version.clone(), body));
        }
    }

    fn versions(&mut self, kind: ResourceType) -> BTreeMap<String, String> {
        let held = self.held(kind).iter();
        held.map(|(name, (version, _))| (name.clone(), version.clone()))
            .collect()
    }
}

fn new_stream(page: usize) -> Stream {
    let config = ServerConfig {
        page,
        max_names: 100,
        ..ServerConfig::default()
    };
    Stream::new("test".into(), config, Arc::default())
}

impl Harness {
    fn new() -> Self {
        Self::with(StoreConfig::default(), 1 << 20)
    }

    fn with(config: StoreConfig, page: usize) -> Self {
        let writer = StoreWriter::new(config);
        Self {
            store: writer.store(),
            writer,
            stream: new_stream(page),
            now: Instant::now(),
            client: Client::default(),
        }
    }

    fn commit(&mut self, change: impl FnOnce(&mut Transaction)) {
        let mut transaction = Transaction::default();
        change(&mut transaction);
        self.writer.commit(transaction);
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        let state = self.store.read();
        let request = arrived(&request, &state);
        self.stream.request(request, &state, self.now)
    }

    fn subscribe(&mut self, kind: ResourceType) {
        let request = DeltaDiscoveryRequest {
            initial_resource_versions: self.client.versions(kind),
            ..first(kind)
        };
        self.request(request).unwrap();
    }

    fn subscribe_all(&mut self) {
        self.subscribe(ADDRESS);
        self.subscribe(POLICY);
    }

    fn poll(&mut self) -> Next {
        self.stream.poll(&self.store.read(), self.now).unwrap()
    }

    /// The next response, if there is one without waiting.
    fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        loop {
            match self.poll() {
                Next::Send(response) => {
                    let bytes = response.encode_to_vec();
                    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
                    self.client.apply(&response);
                    return Some(response);
                }
                Next::Again => {}
                Next::WaitUntil(_) | Next::Idle => return None,
            }
        }
    }

    /// All responses until there is nothing to do, waiting as long as the stream asks for.
    fn drain(&mut self) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        loop {
            responses.extend(std::iter::from_fn(|| self.next()));
            match self.poll() {
                Next::WaitUntil(when) => self.now = when,
                Next::Idle => return responses,
                other => panic!("{other:?}"),
            }
        }
    }

    fn reconnect(&mut self) {
        self.stream = new_stream(self.stream.config.page);
        self.subscribe_all();
    }

    fn assert_in_step(&mut self) {
        let state = self.store.read();
        for kind in ResourceType::ALL {
            let table = state.table(kind);
            let held = self.client.held(kind);
            assert_eq!(held.len(), table.len(), "{kind:?} {held:?}");
            for (name, (version, _)) in held {
                let entry = table.get(name).unwrap_or_else(|| panic!("{name} is gone"));
                let version = crate::store::parse_version(version);
                assert_eq!(version, Some(entry.version), "{name}");
            }
        }
    }
}

/// As the server reads it.
fn arrived(request: &DeltaDiscoveryRequest, state: &State) -> Request {
    let mut bytes: bytes::BytesMut = request.encode_to_vec().as_slice().into();
    let (mut parser, length) = (Parser::default(), bytes.len());
    assert_eq!(parser.take(&mut bytes, length, state).unwrap(), length);
    parser.finish().unwrap()
}

fn first(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        ..Default::default()
    }
}

fn pod(name: &str, policies: &[&str]) -> Workload {
    Workload {
        authorization_policies: policies
            .iter()
            .map(|p| PolicyKey::new("shop", *p))
            .collect(),
        ..workload("shop", name, "10.0.0.1")
    }
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

/// Kind, resource names and removed names of each response.
fn summary(responses: &[DeltaDiscoveryResponse]) -> Vec<(ResourceType, Vec<&str>, Vec<&str>)> {
    responses
        .iter()
        .map(|response| {
            let mut names: Vec<_> = response.resources.iter().map(|r| r.name.as_str()).collect();
            names.sort_unstable();
            (
                ResourceType::from_url(&response.type_url).unwrap(),
                names,
                response
                    .removed_resources
                    .iter()
                    .map(String::as_str)
                    .collect(),
            )
        })
        .collect()
}

#[test]
fn empty_store_answers_both_types_once() {
    let mut h = Harness::new();
    h.subscribe_all();
    let responses = h.drain();
    assert_eq!(
        summary(&responses),
        [(POLICY, vec![], vec![]), (ADDRESS, vec![], vec![])]
    );
    assert_ne!(responses[0].nonce, responses[1].nonce);
    assert_eq!(h.drain(), []);
}

#[test]
fn policies_go_first_and_their_removals_last() {
    let mut h = Harness::new();
    h.commit(|t| {
        t.put_address(pod("a", &["p1"]).into());
        t.put_policy(deny("shop", "p1", &[]));
    });
    h.subscribe_all();
    let responses = h.drain();
    let a = uid("a");
    assert_eq!(
        summary(&responses),
        [
            (POLICY, vec!["shop/p1"], vec![]),
            (ADDRESS, vec![a.as_str()], vec![])
        ]
    );

    h.commit(|t| {
        t.remove_policy("shop/p1");
        t.put_address(pod("a", &["p2"]).into());
        t.put_policy(deny("shop", "p2", &[]));
    });
    let responses = h.drain();
    assert_eq!(
        summary(&responses),
        [
            (POLICY, vec!["shop/p2"], vec![]),
            (ADDRESS, vec![a.as_str()], vec![]),
            (POLICY, vec![], vec!["shop/p1"]),
        ]
    );
    h.assert_in_step();
}

#[test]
fn addresses_wait_for_the_policy_subscription_but_not_for_ever() {
    let mut h = Harness::new();
    h.commit(|t| t.put_address(pod("a", &[]).into()));
    h.subscribe(ADDRESS);
    assert_eq!(h.next(), None);
    h.subscribe(POLICY);
    assert_eq!(summary(&[h.next().unwrap()]), [(POLICY, vec![], vec![])]);

    let mut alone = Harness::new();
    alone.commit(|t| t.put_address(pod("a", &[]).into()));
    alone.subscribe(ADDRESS);
    let grace = alone.stream.config.policy_grace;
    assert_eq!(alone.poll(), Next::WaitUntil(alone.now + grace));
    assert_eq!(alone.drain().len(), 1);
}

#[test]
fn reconnect_sends_only_what_changed_while_away() {
    let mut h = Harness::new();
    h.commit(|t| {
        for name in ["same", "changed", "gone"] {
            t.put_address(pod(name, &[]).into());
            t.put_policy(deny("shop", name, &[]));
        }
    });
    h.subscribe_all();
    h.drain();
    h.commit(|t| {
        t.put_address(pod("changed", &["p"]).into());
        t.put_address(pod("new", &[]).into());
        t.remove_address(uid("gone"));
        t.remove_policy("shop/gone");
    });
    h.reconnect();
    let responses = h.drain();
    let (changed, new, gone) = (uid("changed"), uid("new"), uid("gone"));
    assert_eq!(
        summary(&responses),
        [
            (POLICY, vec![], vec![]),
            (
                ADDRESS,
                vec![changed.as_str(), new.as_str()],
                vec![gone.as_str()]
            ),
            (POLICY, vec![], vec!["shop/gone"]),
        ]
    );
    h.assert_in_step();

    h.reconnect();
    let idle = h.drain();
    assert_eq!(
        summary(&idle),
        [(POLICY, vec![], vec![]), (ADDRESS, vec![], vec![])]
    );
}

#[test]
fn unknown_versions_are_sent_again() {
    for version in ["", "0", "zzzzzzzzzzzzzzzz", "00000000000000001"] {
        let mut h = Harness::new();
        h.commit(|t| t.put_address(pod("a", &[]).into()));
        h.client
            .addresses
            .insert(uid("a"), (version.to_owned(), Vec::new()));
        h.client
            .addresses
            .insert(uid("gone"), (version.to_owned(), Vec::new()));
        h.subscribe_all();
        h.drain();
        h.assert_in_step();
    }
}

#[test]
fn large_initial_state_comes_in_pages_that_only_the_last_completes() {
    let mut h = Harness::with(StoreConfig::default(), 1_000);
    h.commit(|t| (0..40).for_each(|i| t.put_address(pod(&format!("p{i}"), &[]).into())));
    h.client
        .addresses
        .insert("old".to_owned(), Default::default());
    h.subscribe_all();
    let responses = h.drain();
    let (last, pages) = responses[1..].split_last().unwrap();
    assert!(pages.len() > 3, "{}", pages.len());
    for page in pages {
        assert_eq!(page.system_version_info, PARTIAL);
        assert!(page.encoded_len() < 2_000, "{}", page.encoded_len());
        assert_eq!(page.removed_resources, [""; 0]);
    }
    assert_eq!(last.system_version_info, "40");
    assert_eq!(last.removed_resources, ["old"]);
    h.assert_in_step();
}

#[test]
fn slow_client_gets_the_latest_value_once() {
    let mut h = Harness::new();
    h.commit(|_| {});
    h.subscribe_all();
    h.drain();
    for i in 0..1_000_u32 {
        h.commit(|t| {
            t.put_address(
                Workload {
                    capacity: i + 2,
                    ..pod("a", &[])
                }
                .into(),
            );
        });
    }
    let responses = h.drain();
    assert_eq!(responses.len(), 1);
    let Address::Workload(got) = decode::address(&h.client.addresses[&uid("a")].1).unwrap() else {
        panic!("not a workload");
    };
    assert_eq!(got.capacity, 1_001);
}

#[test]
fn unchanged_content_is_not_a_change() {
    let mut h = Harness::new();
    h.commit(|t| t.put_address(pod("a", &[]).into()));
    let version = h.store.version();
    h.commit(|t| {
        t.put_address(pod("a", &[]).into());
        t.remove_address("never there");
    });
    assert_eq!(h.store.version(), version);
}

#[test]
fn stream_behind_the_removal_log_is_ended() {
    let mut h = Harness::with(StoreConfig { removal_log: 2 }, 1 << 20);
    h.commit(|t| (0..5).for_each(|i| t.put_address(pod(&format!("p{i}"), &[]).into())));
    h.subscribe_all();
    h.drain();
    for i in 0..3 {
        h.commit(|t| t.remove_address(uid(&format!("p{i}"))));
    }
    h.now += Duration::from_secs(10);
    let error = h.stream.poll(&h.store.read(), h.now);
    assert_eq!(error, Err(LogTruncated));

    h.reconnect();
    h.drain();
    h.assert_in_step();
}

#[test]
fn first_change_goes_at_once_and_a_burst_in_batches_except_new_policies() {
    let mut h = Harness::new();
    h.commit(|_| {});
    h.subscribe_all();
    h.drain();
    h.now += Duration::from_secs(10);
    h.commit(|t| t.put_address(pod("a", &[]).into()));
    assert!(h.next().is_some());
    h.commit(|t| t.put_address(pod("b", &[]).into()));
    let window = h.stream.config.min_batch_window;
    assert_eq!(h.poll(), Next::WaitUntil(h.now + window));
    h.commit(|t| t.put_policy(deny("shop", "p", &[])));
    assert_eq!(
        summary(&[h.next().unwrap()]),
        [(POLICY, vec!["shop/p"], vec![])]
    );
}

#[test]
fn rejections_and_latency_are_counted() {
    let mut h = Harness::new();
    h.commit(|_| {});
    h.subscribe_all();
    h.drain();
    h.commit(|t| t.put_address(pod("a", &[]).into()));
    h.now += Duration::from_secs(10);
    let sent = h.next().unwrap();
    let answer = |nonce: &str, error: Option<&str>| DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|message| WireStatus {
            message: message.to_owned(),
            ..Default::default()
        }),
        ..first(ADDRESS)
    };
    let metrics = Arc::clone(&h.stream.metrics);
    assert_eq!(metrics.commit_to_send.count(), 1);
    h.request(answer("stale", None)).unwrap();
    assert_eq!(metrics.commit_to_ack.count(), 0);
    h.request(answer(&sent.nonce, Some("a: no"))).unwrap();
    h.request(answer(&sent.nonce, None)).unwrap();
    assert_eq!(metrics.commit_to_ack.count(), 1, "only once per response");
    assert_eq!(metrics.addresses.nacks.value(), 1);
    assert_eq!(h.drain(), [], "no answer to ACK or NACK");
}

#[test]
fn other_types_are_refused() {
    let mut h = Harness::new();
    for url in [
        "",
        "type.googleapis.com/istio.workload.Workload",
        "*",
        &"x".repeat(9_000),
    ] {
        let request = DeltaDiscoveryRequest {
            type_url: url.to_owned(),
            ..Default::default()
        };
        let status = h.request(request).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().len() < 200);
    }
}
