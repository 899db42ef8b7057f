//! Our server and a client that does as it likes.

use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Streaming};
use tulle_proto::discovery::{DeltaDiscoveryResponse, Node as WireNode};

use super::*;

/// A stream whose requests the test writes itself.
struct Raw {
    requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Raw {
    async fn open(plane: &Plane) -> Result<Self, Status> {
        let address = format!("http://127.0.0.1:{}", plane.port);
        let channel = Endpoint::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let (requests, outbound) = mpsc::unbounded_channel();
        let mut call = Request::new(UnboundedReceiverStream::new(outbound));
        call.metadata_mut()
            .insert("authorization", "Bearer secret".parse().unwrap());
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let responses = client.delta_aggregated_resources(call).await?.into_inner();
        Ok(Self {
            requests,
            responses,
        })
    }

    fn send(&self, kind: ResourceType, adjust: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            node: Some(NodeConfig::new("z", "mesh", "node-1").to_wire()),
            ..Default::default()
        };
        adjust(&mut request);
        self.requests.send(request).unwrap();
    }

    async fn next(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        timeout(LIMIT, self.responses.message())
            .await
            .expect("no response in time")
    }
}

/// A change of pod `a` that does not fit many times into the windows of a connection.
fn large_change(plane: &mut Plane, round: u32) {
    let padded = Workload {
        workload_name: "x".repeat(200_000).into(),
        capacity: round,
        ..workload("shop", "a", "10.0.0.1")
    };
    plane.commit(|t| t.put_address(padded.into()));
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_merged_changes() {
    let mut plane = Plane::start().await;
    plane.commit(|_| {});
    let mut raw = Raw::open(&plane).await.unwrap();
    raw.send(ResourceType::Authorization, |_| {});
    raw.send(ResourceType::Address, |_| {});
    for _ in 0..2 {
        raw.next().await.unwrap().unwrap();
    }
    let metrics = plane.server.metrics();
    let pushes = || metrics.addresses.pushes.value();
    let mut round = 0;
    let blocked = Duration::from_millis(300);
    loop {
        let before = pushes();
        round += 1;
        large_change(&mut plane, round);
        let pushed = async {
            while pushes() == before {
                tokio::task::yield_now().await;
            }
        };
        if timeout(blocked, pushed).await.is_err() {
            break;
        }
    }
    let last = round + 100;
    (round + 1..=last).for_each(|round| large_change(&mut plane, round));
    let before = pushes();
    while capacity(&raw.next().await.unwrap().unwrap()) != last {}
    assert!(pushes() - before <= 2, "{} pushes", pushes() - before);
}

fn capacity(response: &DeltaDiscoveryResponse) -> u32 {
    let body = &response.resources[0].resource.as_ref().unwrap().value;
    match crate::decode::address(body) {
        Ok(Address::Workload(workload)) => workload.capacity,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn first_request_needs_a_node() {
    let mut plane = Plane::start().await;
    plane.commit(|t| t.put_address(pod("a")));
    let mut raw = Raw::open(&plane).await.unwrap();
    raw.send(ResourceType::Address, |request| request.node = None);
    assert_eq!(raw.next().await.unwrap_err().code(), Code::InvalidArgument);

    let mut nameless = Raw::open(&plane).await.unwrap();
    nameless.send(ResourceType::Address, |request| {
        request.node = Some(WireNode::default())
    });
    assert_eq!(
        nameless.next().await.unwrap_err().code(),
        Code::PermissionDenied
    );
}

#[tokio::test]
async fn other_types_end_the_stream() {
    let mut plane = Plane::start().await;
    plane.commit(|t| t.put_address(pod("a")));
    for url in ["type.googleapis.com/envoy.config.listener.v3.Listener", ""] {
        let mut raw = Raw::open(&plane).await.unwrap();
        raw.send(ResourceType::Address, |request| {
            request.type_url = url.to_owned()
        });
        assert_eq!(raw.next().await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn silent_clients_and_huge_requests_are_cut_off() {
    let mut plane = Plane::with(ServerConfig {
        first_request_timeout: Duration::from_millis(20),
        max_request: 10_000,
        ..ServerConfig::default()
    })
    .await;
    plane.commit(|_| {});
    let mut silent = Raw::open(&plane).await.unwrap();
    assert_eq!(
        silent.next().await.unwrap_err().code(),
        Code::DeadlineExceeded
    );

    let mut huge = Raw::open(&plane).await.unwrap();
    huge.send(ResourceType::Address, |request| {
        request.resource_names_subscribe = vec!["x".repeat(20_000)];
    });
    assert_eq!(
        huge.next().await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let mut plane = Plane::start().await;
    plane.commit(|_| {});
    let mut raw = Raw::open(&plane).await.unwrap();
    raw.send(ResourceType::Authorization, |_| {});
    raw.next().await.unwrap();
    let metrics = plane.server.metrics();
    assert_eq!(metrics.streams.value(), 1);
    drop(raw);
    wait_for(|| metrics.streams.value() == 0).await;
}
