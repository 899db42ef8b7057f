//! Clients that hold nothing, so that there is room for thousands of them.
//!
//! What they are sent they count, and leave as bytes. One of them, the first, notes names and versions; when they come back, that
//! is what all of them say they hold. No more than [`AT_ONCE`] come back at a time: a real cluster's come by and by, since each waits
//! for a random time first.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc};
use tulle_identity::control_tls::{self, ChannelConfig, Credentials};
use tulle_proto::discovery::{DeltaDiscoveryRequest, Node, Resource};
use tulle_tests::raw::Raw;
use tulle_xds::ResourceType;

use crate::clients::Heard;

/// What all of them share.
pub(crate) struct Crowd {
    heard: Arc<Heard>,
    /// What the first of them holds.
    held: Mutex<[BTreeMap<String, String>; 2]>,
    /// Who comes back now.
    places: Semaphore,
}

/// What is known of one of them.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) answers: AtomicU64,
    pub(crate) connected: AtomicBool,
}

/// One of them.
pub(crate) struct Light {
    pub(crate) channel: ChannelConfig,
    pub(crate) credentials: Credentials,
    pub(crate) node: Node,
    pub(crate) counts: Arc<Counts>,
    /// Whether it notes what it is told.
    pub(crate) is_first: bool,
}

impl Crowd {
    pub(crate) fn new(heard: Arc<Heard>) -> Self {
        Self {
            heard,
            held: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Keeps one connected for ever.
    pub(crate) async fn run(&self, client: &Light) {
        let mut ready = false;
        loop {
            let ended = self.stream(client, &mut ready).await;
            client.counts.connected.store(false, Relaxed);
            if let Err(error) = ended
                && !ready
            {
                eprintln!("{}: {error:#}", client.node.id);
            }
            sleep(AGAIN).await;
        }
    }

    async fn stream(&self, client: &Light, ready: &mut bool) -> Result<()> {
        let mut place = Some(self.places.acquire().await?);
        let mut grpc =
            Grpc::new(control_tls::channel(&client.channel)?).max_decoding_message_size(usize::MAX);
        grpc.ready().await?;
        let (requests, outbound) = mpsc::channel(8);
        for (kind, held) in ResourceType::ALL.iter().zip(self.held.lock().iter()) {
            requests.try_send(first_request(&client.node, *kind, held))?;
        }
        let mut call = Request::new(ReceiverStream::new(outbound));
        client.credentials.apply(call.metadata_mut())?;
        let path = PathAndQuery::from_static(METHOD);
        let mut answers = grpc.streaming(call, path, Raw).await?.into_inner();
        client.counts.connected.store(true, Relaxed);
        let mut answered = [false; 2];
        while let Some(answer) = answers.message().await? {
            let answer = Answer::decode(answer)?;
            let place_of = |kind: &ResourceType| kind.url() == answer.type_url;
            let Some(index) = ResourceType::ALL.iter().position(place_of) else {
                bail!("an answer about {}", answer.type_url);
            };
            self.take_in(client, index, &answer)?;
            let ack = DeltaDiscoveryRequest {
                type_url: answer.type_url,
                response_nonce: answer.nonce,
                ..Default::default()
            };
            let ack = ack.encode_to_vec().into();
            requests.try_send(ack).context("acknowledgements pile up")?;
            if answer.system_version_info != PARTIAL
                && let Some(answered) = answered.get_mut(index)
            {
                *answered = true;
            }
            if answered == [true; 2] {
                self.complete(client, ready, &mut place);
            }
        }
        Ok(())
    }

    /// It has had all there is.
    fn complete(&self, client: &Light, ready: &mut bool, place: &mut Option<SemaphorePermit<'_>>) {
        if place.take().is_some() {
            client.counts.answers.fetch_add(1, Relaxed);
        }
        if !*ready {
            *ready = true;
            self.heard.ready.fetch_add(1, Relaxed);
        }
    }

    fn take_in(&self, client: &Light, index: usize, answer: &Answer) -> Result<()> {
        if index == 0 {
            let now = Instant::now();
            let told = answer.resources.len() as u64;
            self.heard.updated.fetch_add(told, Relaxed);
            let is_of = |name: &str| answer.resources.iter().any(|one| contains(one, name));
            // A page of the first answer is no news.
            if answer.resources.len() <= FEW {
                self.heard.tell(now, is_of);
            }
        }
        if client.is_first {
            let mut held = self.held.lock();
            let held = held.get_mut(index).context("a third type")?;
            for one in &answer.resources {
                let one = Resource::decode(one.clone())?;
                held.insert(one.name, one.version);
            }
            for name in &answer.removed_resources {
                held.remove(name);
            }
        }
        Ok(())
    }
}

fn first_request(node: &Node, kind: ResourceType, held: &BTreeMap<String, String>) -> Bytes {
    let request = DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: kind.url().to_owned(),
        initial_resource_versions: held.clone(),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn contains(resource: &[u8], name: &str) -> bool {
    let mut windows = resource.windows(name.len().max(1));
    windows.any(|window| window == name.as_bytes())
}

/// Looks like a `DeltaDiscoveryResponse` on the wire, with its resources as they are.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(string, tag = "1")]
    system_version_info: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    resources: Vec<Bytes>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed_resources: Vec<String>,
}

const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What a page says that is not the last.
const PARTIAL: &str = "partial";
/// Clients that come at a time.
const AT_ONCE: usize = 20;
/// How long one waits that was cut off.
const AGAIN: Duration = Duration::from_millis(500);
/// Resources of an answer that is about changes.
const FEW: usize = 10;
