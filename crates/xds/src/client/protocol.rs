//! The delta protocol as a client speaks it, without I/O.
//!
//! ```text
//! connect() ──> one request per type: node, versions of everything held
//! receive(response) ──> what changed, and an ACK or a NACK
//! ```
//!
//! A rejected resource keeps its last good value. If there is none it is quarantined: reported once to the
//! subscriber, and named with an empty version at the next connect, so that the server sends it again or says that
//! it is gone.

use prost::Message;
use tracing::warn;
use tulle_model::Authorization;
use tulle_proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource, Status,
};

use super::ClientMetrics;
use crate::{Address, Configuration, Delta, ResourceType, decode, resource::policy_name};

pub(crate) use held::PARTIAL;
use held::{Held, NamedReason, Rejection};

mod held;

/// What a client knows between responses.
#[derive(Debug)]
pub(super) struct Protocol {
    node: Node,
    kinds: Vec<ResourceType>,
    addresses: Held,
    policies: Held,
    configurations: Held,
    /// Requests above this size are not sent.
    max_request: usize,
}

/// A response, digested.
#[derive(Debug, PartialEq)]
pub(super) struct Received {
    /// What to tell the subscriber, first.
    pub(super) event: Option<Event>,
    /// What to answer, then.
    pub(super) request: Option<DeltaDiscoveryRequest>,
}

/// Something that the subscriber has to know.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Addresses(Delta<Address>),
    Policies(Delta<Authorization>),
    Configurations(Delta<Configuration>),
}

impl Protocol {
    pub(super) fn new(node: Node, kinds: &[ResourceType]) -> Self {
        Self {
            node,
            kinds: kinds.to_vec(),
            addresses: Held::default(),
            policies: Held::default(),
            configurations: Held::default(),
            max_request: usize::MAX,
        }
    }

    /// The first requests of a stream.
    pub(super) fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let kinds = self.kinds.clone();
        let request = |kind: ResourceType| {
            let mut request = DeltaDiscoveryRequest {
                node: Some(self.node.clone()),
                type_url: kind.url().to_owned(),
                initial_resource_versions: self.held(kind).versions(),
                ..Default::default()
            };
            let named = request.encoded_len() <= self.max_request;
            if !named {
                request.initial_resource_versions.clear();
            }
            self.held(kind).connecting(named);
            request
        };
        kinds.into_iter().map(request).collect()
    }

    /// The server refused our requests for their size. If they may have been too large for it, what we hold is no
    /// longer named; instead the next initial state is taken as all there is.
    pub(super) fn requests_were_too_large(&mut self) {
        self.max_request = EVERY_SERVER_TAKES;
    }

    /// Whether every type had its first complete answer.
    pub(super) fn is_ready(&self) -> bool {
        self.kinds.iter().all(|kind| match kind {
            ResourceType::Address => self.addresses.is_answered(),
            ResourceType::Authorization => self.policies.is_answered(),
            ResourceType::Configuration => self.configurations.is_answered(),
        })
    }

    /// Digests a response.
    pub(super) fn receive(
        &mut self,
        response: DeltaDiscoveryResponse,
        metrics: &ClientMetrics,
    ) -> Received {
        let kind = ResourceType::from_url(&response.type_url);
        let Some(kind) = kind.filter(|kind| self.kinds.contains(kind)) else {
            // To answer would be to subscribe.
            metrics.unknown_types.add(1);
            warn!(type_url = %clip(&response.type_url, 100), "ignored a response of a type that was not asked for");
            return Received {
                event: None,
                request: None,
            };
        };
        let counters = metrics.of(kind);
        counters.messages.add(1);
        counters.bytes.add(response.encoded_len() as u64);
        let nonce = response.nonce.clone();
        let (event, errors) = match kind {
            ResourceType::Address => {
                let (delta, errors) = self.addresses.apply(response, decode_address);
                (Event::Addresses(delta), errors)
            }
            ResourceType::Authorization => {
                let (delta, errors) = self.policies.apply(response, decode_policy);
                (Event::Policies(delta), errors)
            }
            ResourceType::Configuration => {
                let partial = response.system_version_info == PARTIAL;
                let (delta, errors) = self.configurations.apply(response, decode_configuration);
                if !partial {
                    // Each is for one service, and what cannot be understood is refused there.
                    self.configurations.is_answered_anyhow();
                }
                (Event::Configurations(delta), errors)
            }
        };
        if !errors.is_empty() {
            counters.nacks.add(1);
            counters.rejected_resources.add(errors.len() as u64);
            warn!(?kind, errors = %describe(&errors), "rejected xDS resources");
        }
        Received {
            event: Some(event).filter(|event| !event.is_empty()),
            request: Some(answer(kind, nonce, &errors)),
        }
    }

    fn held(&mut self, kind: ResourceType) -> &mut Held {
        match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
            ResourceType::Configuration => &mut self.configurations,
        }
    }
}

impl Event {
    fn is_empty(&self) -> bool {
        match self {
            Self::Addresses(delta) => delta.is_empty(),
            Self::Policies(delta) => delta.is_empty(),
            Self::Configurations(delta) => delta.is_empty(),
        }
    }
}

fn decode_address(resource: &Resource) -> Result<Address, Rejection> {
    let body = body(resource, ResourceType::Address)?;
    let reject = |reason: String| Rejection {
        reason,
        addresses: decode::claimed_addresses(body),
    };
    let address = decode::address(body).map_err(|error| reject(with_source(&error)))?;
    if address.name() == resource.name {
        Ok(address)
    } else {
        Err(reject(NAME_MISMATCH.to_owned()))
    }
}

fn decode_policy(resource: &Resource) -> Result<Authorization, Rejection> {
    let body = body(resource, ResourceType::Authorization)?;
    let policy = decode::authorization(body).map_err(|error| reject(&with_source(&error)))?;
    if policy_name(&policy) == resource.name {
        Ok(policy)
    } else {
        Err(reject(NAME_MISMATCH))
    }
}

fn decode_configuration(resource: &Resource) -> Result<Configuration, Rejection> {
    let body = body(resource, ResourceType::Configuration)?;
    let value = decode::configuration(body).map_err(|error| reject(&with_source(&error)))?;
    if value.name().to_string() == resource.name {
        Ok(value)
    } else {
        Err(reject(NAME_MISMATCH))
    }
}

fn body(resource: &Resource, kind: ResourceType) -> Result<&[u8], Rejection> {
    let any = resource
        .resource
        .as_ref()
        .ok_or_else(|| reject("no resource"))?;
    if any.type_url == kind.url() {
        Ok(&any.value)
    } else {
        Err(reject("resource of another type"))
    }
}

fn reject(reason: &str) -> Rejection {
    Rejection {
        reason: reason.to_owned(),
        addresses: Vec::new(),
    }
}

fn answer(kind: ResourceType, nonce: String, errors: &[NamedReason]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        response_nonce: nonce,
        error_detail: (!errors.is_empty()).then(|| Status {
            code: tonic::Code::InvalidArgument.into(),
            message: describe(errors),
            details: Vec::new(),
        }),
        ..Default::default()
    }
}

/// `name: reason; name: reason`, as much as is useful to a reader.
fn describe(errors: &[NamedReason]) -> String {
    let mut text = String::new();
    for (position, (name, reason)) in errors.iter().enumerate() {
        if text.len() > MAX_DESCRIPTION {
            text.push_str(&format!("; and {} more", errors.len() - position));
            break;
        }
        let separator = if position == 0 { "" } else { "; " };
        text.push_str(&format!("{separator}{}: {reason}", clip(name, 300)));
    }
    text
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn clip(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((end, _)) => text.get(..end).unwrap_or(text),
        None => text,
    }
}

/// gRPC implementations accept messages up to 4 MiB unless told otherwise.
const EVERY_SERVER_TAKES: usize = 4 << 20;
const NAME_MISMATCH: &str = "content has another name";
/// Servers limit the size of requests, and logs that of lines.
const MAX_DESCRIPTION: usize = 4096;

#[cfg(test)]
mod tests;
