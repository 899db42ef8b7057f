//! Our client and a server that does as it likes.

use prost_types::Any;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Response, Streaming};
use tulle_proto::discovery::{
    DeltaDiscoveryResponse, Resource,
    aggregated_discovery_service_server::{
        AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
    },
};

use super::*;
use crate::{
    decode::tests::{minimal_workload, workload_bytes},
    encode,
};

type Answer = Result<DeltaDiscoveryResponse, Status>;

/// Hands every stream to the test.
struct Scripted(mpsc::UnboundedSender<Conversation>);

/// One stream, seen from the server.
struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<Answer>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Scripted {
    type DeltaAggregatedResourcesStream = UnboundedReceiverStream<Answer>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outbound) = mpsc::unbounded_channel();
        let conversation = Conversation {
            requests: request.into_inner(),
            responses,
        };
        self.0.send(conversation).unwrap();
        Ok(Response::new(UnboundedReceiverStream::new(outbound)))
    }
}

impl Conversation {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = timeout(LIMIT, self.requests.message()).await;
        request
            .expect("no request in time")
            .unwrap()
            .expect("the client left")
    }

    async fn first_requests(&mut self) -> [DeltaDiscoveryRequest; 2] {
        [self.request().await, self.request().await]
    }

    fn send(&self, kind: &str, resources: Vec<Resource>) {
        let response = DeltaDiscoveryResponse {
            type_url: kind.to_owned(),
            nonce: "same every time".to_owned(),
            resources,
            ..Default::default()
        };
        self.responses.send(Ok(response)).unwrap();
    }
}

/// A scripted server and its streams.
async fn scripted() -> (u16, mpsc::UnboundedReceiver<Conversation>) {
    let (sender, conversations) = mpsc::unbounded_channel();
    let (listener, port) = listen().await;
    let service = AggregatedDiscoveryServiceServer::new(Scripted(sender));
    let router = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
    (port, conversations)
}

async fn accept(conversations: &mut mpsc::UnboundedReceiver<Conversation>) -> Conversation {
    let next = timeout(LIMIT, conversations.recv()).await;
    next.expect("the client did not connect in time").unwrap()
}

const ADDRESS: &str = ResourceType::Address.url();

fn resource(name: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: uid(name),
        version: "v".to_owned(),
        resource: Some(Any {
            type_url: ADDRESS.to_owned(),
            value,
        }),
        ..Default::default()
    }
}

fn good(name: &str) -> Resource {
    resource(name, encode::address(&pod(name)))
}

fn bad(name: &str) -> Resource {
    let strange = tulle_proto::workload::Workload {
        uid: uid(name),
        addresses: vec![vec![10, 0, 0, 1].into()],
        tunnel_protocol: 9,
        ..minimal_workload()
    };
    resource(name, workload_bytes(strange))
}

#[tokio::test]
async fn bad_resources_are_refused_and_the_last_good_value_is_kept() {
    let (port, mut conversations) = scripted().await;
    let mut client = Running::start(port);
    let mut server = accept(&mut conversations).await;
    server.first_requests().await;
    server.send(ADDRESS, vec![good("a")]);
    assert_eq!(client.addresses().await.0, [uid("a")]);
    assert_eq!(server.request().await.error_detail, None);

    server.send(ADDRESS, vec![bad("a"), bad("b"), good("c")]);
    let Told::Addresses(delta) = client.next().await else {
        panic!("addresses");
    };
    assert_eq!(delta.updated.len(), 1);
    assert_eq!(delta.removed, [""; 0]);
    assert_eq!(delta.rejected.len(), 1);
    assert_eq!(delta.rejected[0].name, uid("b"));
    let nack = server.request().await;
    assert_eq!(nack.response_nonce, "same every time");
    let error = nack.error_detail.unwrap();
    let reason = "unsupported tunnel protocol 9";
    assert_eq!(
        error.message,
        format!("{}: {reason}; {}: {reason}", uid("a"), uid("b"))
    );

    drop(server);
    let mut again = accept(&mut conversations).await;
    let [addresses, _] = again.first_requests().await;
    let held = [
        (uid("a"), "v".to_owned()),
        (uid("b"), String::new()),
        (uid("c"), "v".to_owned()),
    ];
    assert_eq!(addresses.initial_resource_versions, held.into());
    assert!(addresses.node.is_some());
}

#[tokio::test]
async fn nonsense_does_not_stop_the_client() {
    let (port, mut conversations) = scripted().await;
    let mut client = Running::with(port, |config| config.max_message = 100_000);
    let mut server = accept(&mut conversations).await;
    server.first_requests().await;
    server.send("type.googleapis.com/unknown", vec![good("x")]);
    server.send("", vec![]);
    server.send(ADDRESS, vec![Resource::default(), good("a"), good("a")]);
    assert_eq!(client.addresses().await.0, [uid("a")]);
    assert_eq!(
        server.request().await.type_url,
        ADDRESS,
        "unknown types get no answer"
    );

    server.send(ADDRESS, vec![resource("huge", vec![0; 200_000])]);
    let mut again = accept(&mut conversations).await;
    again.first_requests().await;
    again
        .responses
        .send(Err(Status::internal("x".repeat(1_000))))
        .unwrap();
    let mut third = accept(&mut conversations).await;
    third.first_requests().await;
    third.send(ADDRESS, vec![good("b")]);
    assert_eq!(client.addresses().await.0, [uid("b")]);
    assert_eq!(client.metrics.unknown_types.value(), 2);
}

#[tokio::test]
async fn a_server_that_never_reads_is_left() {
    let (port, mut conversations) = scripted().await;
    let client = Running::start(port);
    let deaf = accept(&mut conversations).await;
    // Each asks for an acknowledgement; what nobody reads fills the window of the stream, then the queue.
    let resources = || vec![resource("a", vec![0xff])];
    let flood = async {
        while client.metrics.grpc_errors.value() == 0 {
            for _ in 0..100 {
                deaf.responses
                    .send(Ok(DeltaDiscoveryResponse {
                        type_url: ADDRESS.to_owned(),
                        nonce: "n".repeat(1_000),
                        resources: resources(),
                        ..Default::default()
                    }))
                    .ok();
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, flood).await.expect("the client stayed");
    accept(&mut conversations).await;
}
