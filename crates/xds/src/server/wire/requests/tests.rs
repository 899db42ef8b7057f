//! Requests in whatever pieces and order they arrive.

use std::collections::{BTreeMap, VecDeque};

use http_body::Frame;
use http_body_util::StreamBody;
use prost::{Message, encoding};
use tonic::Code;
use tulle_proto::discovery::{DeltaDiscoveryRequest, Node};
use tulle_testkit::workload;

use super::*;
use crate::{
    Address, ResourceType,
    server::held::Held,
    store::{StoreConfig, StoreWriter, Transaction},
};

/// A store with two workloads.
fn store() -> Store {
    let mut writer = StoreWriter::new(StoreConfig::default());
    let mut transaction = Transaction::default();
    for name in ["a", "b"] {
        let workload = workload("shop", name, "10.0.0.1");
        transaction.put_address(Address::Workload(Box::new(workload)));
    }
    writer.commit(transaction);
    writer.store()
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

/// A client that holds `a` as it is, an older `b`, and `c`, which is gone.
fn reconnecting(store: &Store) -> DeltaDiscoveryRequest {
    let state = store.read();
    let a = state.table(ResourceType::Address).get(&uid("a")).unwrap();
    let versions = [
        (uid("a"), format!("{:016x}", a.version)),
        (uid("b"), "0".repeat(16)),
        (uid("c"), "none of ours".to_owned()),
    ];
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: "node".to_owned(),
            ..Node::default()
        }),
        type_url: ResourceType::Address.url().to_owned(),
        initial_resource_versions: versions.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn assert_compared(store: &Store, held: Held) {
    let held = held.complete();
    let state = store.read();
    let table = state.table(ResourceType::Address);
    assert!(held.has(table.get(&uid("a")).unwrap().sequence));
    assert!(!held.has(table.get(&uid("b")).unwrap().sequence));
    let gone: Vec<String> = held.into_gone(table).collect();
    assert_eq!(gone, [uid("c")]);
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn requests(store: &Store, limit: usize, pieces: impl IntoIterator<Item = Vec<u8>>) -> Requests {
    let frames: VecDeque<_> = pieces
        .into_iter()
        .map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))))
        .collect();
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Requests::new(Body::new(body), store.clone(), limit)
}

const LIMIT: usize = 4096;

#[tokio::test]
async fn requests_do_not_depend_on_where_their_frames_end() {
    let store = store();
    let first = reconnecting(&store);
    let answer = DeltaDiscoveryRequest {
        type_url: ResourceType::Address.url().to_owned(),
        response_nonce: "7".to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let bytes = [&first, &answer]
        .map(|request| framed(&request.encode_to_vec()))
        .concat();
    let compared = DeltaDiscoveryRequest {
        initial_resource_versions: BTreeMap::new(),
        ..first
    };
    for size in 1..=bytes.len() {
        let pieces = bytes.chunks(size).map(<[u8]>::to_vec);
        let mut requests = requests(&store, LIMIT, pieces);
        let request = requests.message().await.unwrap().unwrap();
        assert_eq!(request.message, compared, "{size}");
        assert_compared(&store, request.held.unwrap());
        let request = requests.message().await.unwrap().unwrap();
        assert_eq!(request.message, answer, "{size}");
        assert!(request.held.is_none());
        assert!(requests.message().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn versions_stay_in_requests_that_do_not_want_everything_or_say_their_type_late() {
    let store = store();
    let whole = reconnecting(&store);
    let named = DeltaDiscoveryRequest {
        resource_names_subscribe: vec![uid("a")],
        ..whole.clone()
    };
    let unstarred = DeltaDiscoveryRequest {
        resource_names_subscribe: vec!["*".to_owned()],
        resource_names_unsubscribe: vec!["*".to_owned()],
        ..whole.clone()
    };
    let versions = DeltaDiscoveryRequest {
        type_url: String::new(),
        ..whole.clone()
    };
    let mut late = versions.encode_to_vec();
    encoding::string::encode(2, &whole.type_url, &mut late);
    let encoded = [
        (&named, named.encode_to_vec()),
        (&unstarred, unstarred.encode_to_vec()),
        (&whole, late),
    ];
    for (expected, bytes) in encoded {
        let mut requests = requests(&store, LIMIT, [framed(&bytes)]);
        let request = requests.message().await.unwrap().unwrap();
        assert_eq!(request.message, *expected);
        assert!(request.held.is_none());
    }
    let starred = DeltaDiscoveryRequest {
        resource_names_subscribe: vec![uid("a"), "*".to_owned()],
        ..whole
    };
    let mut requests = requests(&store, LIMIT, [framed(&starred.encode_to_vec())]);
    let request = requests.message().await.unwrap().unwrap();
    assert!(request.held.is_some());
    assert!(request.message.initial_resource_versions.is_empty());
}

#[tokio::test]
async fn unknown_fields_are_passed_over() {
    let store = store();
    let mut bytes = Vec::new();
    encoding::uint64::encode(90, &u64::MAX, &mut bytes);
    encoding::fixed32::encode(91, &1, &mut bytes);
    encoding::fixed64::encode(92, &1, &mut bytes);
    encoding::string::encode(93, &"new".to_owned(), &mut bytes);
    bytes.extend(reconnecting(&store).encode_to_vec());
    for size in 1..=20 {
        let framed = framed(&bytes);
        let mut requests = requests(&store, LIMIT, framed.chunks(size).map(<[u8]>::to_vec));
        let request = requests.message().await.unwrap().unwrap();
        assert_eq!(request.message.node.unwrap().id, "node");
        assert!(request.held.is_some());
    }
}

#[tokio::test]
async fn bad_requests_end_the_stream() {
    let store = store();
    let whole = reconnecting(&store).encode_to_vec();
    let cut = framed(&whole)[..20].to_vec();
    let mut beyond = framed(&whole);
    beyond[4] -= 1;
    let cases = [
        (Code::Internal, cut),
        (Code::Internal, vec![0, 0]),
        (Code::InvalidArgument, beyond),
        (Code::Unimplemented, vec![1, 0, 0, 0, 0]),
        (Code::ResourceExhausted, vec![0, 0, 0, 0x10, 1]),
        // A varint without an end, a length without an end, a group, a name that is no text.
        (Code::InvalidArgument, framed(&[0xff; 20])),
        (
            Code::InvalidArgument,
            framed(&[&[0x0a][..], &[0xff; 20]].concat()),
        ),
        (Code::InvalidArgument, framed(&[0x0b, 0x0c])),
        (Code::InvalidArgument, framed(&[0x12, 1, 0xff])),
    ];
    for (code, bytes) in cases {
        for size in [1, bytes.len()] {
            let pieces = bytes.chunks(size).map(<[u8]>::to_vec);
            let error = requests(&store, LIMIT, pieces).message().await.unwrap_err();
            assert_eq!(error.code(), code, "{bytes:?}");
        }
    }
}
