//! The delta protocol as a server speaks it, without I/O.
//!
//! ```text
//! request(..)           subscriptions, ACKs, NACKs
//! poll(state, now) ──>  Send(response) | Again | WaitUntil(when) | Idle
//! ```

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;
use tonic::Status;
use tracing::{debug, warn};
use tulle_proto::discovery::DeltaDiscoveryRequest;

use super::{
    ServerConfig, ServerMetrics,
    pace::Pace,
    status::Tracker,
    subscription::{Page, Subscription},
    wire::{EncodedResponse, Request},
};
use crate::{
    ResourceType,
    client::PARTIAL,
    store::{LogTruncated, State},
};

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    client: Arc<str>,
    config: ServerConfig,
    metrics: Arc<ServerMetrics>,
    addresses: Option<Subscription>,
    policies: Option<Subscription>,
    configurations: Option<Subscription>,
    /// Until when addresses wait for a subscription to policies.
    grace: Option<Instant>,
    outbox: VecDeque<Outgoing>,
    /// The last look at the store stopped in the middle.
    unfinished: bool,
    nonce: u64,
    pace: Pace,
    tracker: Tracker,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Send this.
    Send(EncodedResponse),
    /// Let others use the store, then ask again.
    Again,
    /// Ask again then, or after a request.
    WaitUntil(Instant),
    /// Ask again after a request or a commit.
    Idle,
}

/// A response, ready to be sent.
#[derive(Debug)]
struct Outgoing {
    kind: ResourceType,
    response: EncodedResponse,
    committed: Option<Instant>,
    number: u64,
    version: u64,
}

impl Stream {
    pub(super) fn new(client: Arc<str>, config: ServerConfig, metrics: Arc<ServerMetrics>) -> Self {
        Self {
            tracker: metrics.statuses.track(Arc::clone(&client), Instant::now()),
            client,
            addresses: None,
            policies: None,
            configurations: None,
            grace: None,
            outbox: VecDeque::new(),
            unfinished: false,
            nonce: 0,
            pace: Pace::new(config.min_batch_window, config.max_batch_window),
            config,
            metrics,
        }
    }

    /// Takes in a request.
    pub(super) fn request(
        &mut self,
        request: Request,
        state: &State,
        now: Instant,
    ) -> Result<(), Status> {
        let message = &request.message;
        let Some(kind) = ResourceType::from_url(&message.type_url) else {
            let url: String = message.type_url.chars().take(100).collect();
            return Err(Status::invalid_argument(format!(
                "type {url:?} is not served"
            )));
        };
        self.acknowledged(kind, message, now);
        let max_names = self.config.max_names;
        let slot = match kind {
            ResourceType::Address => {
                self.grace.get_or_insert(now + self.config.policy_grace);
                &mut self.addresses
            }
            ResourceType::Authorization => &mut self.policies,
            ResourceType::Configuration => &mut self.configurations,
        };
        match slot {
            Some(subscription) => {
                subscription.update(request.message, max_names)?;
            }
            None => *slot = Some(Subscription::first(request, kind, state, max_names)?),
        }
        Ok(())
    }

    /// The next step. An error means that the client cannot be told what it missed.
    pub(super) fn poll(&mut self, state: &State, now: Instant) -> Result<Next, LogTruncated> {
        if self.outbox.is_empty() {
            if let Some(wait) = self.wait(state, now) {
                return Ok(wait);
            }
            self.produce(state, now)?;
        }
        Ok(match self.outbox.pop_front() {
            Some(outgoing) => Next::Send(self.hand_over(outgoing, now)),
            None => Next::Again,
        })
    }

    /// Whether the subscribed names outgrew their bound.
    pub(super) fn has_too_many_names(&self) -> bool {
        [&self.addresses, &self.policies, &self.configurations]
            .into_iter()
            .flatten()
            .any(|subscription| subscription.names() > self.config.max_names)
    }

    fn acknowledged(&mut self, kind: ResourceType, request: &DeltaDiscoveryRequest, now: Instant) {
        if request.response_nonce.is_empty() {
            return;
        }
        if let Ok(number) = u64::from_str_radix(&request.response_nonce, 16) {
            self.tracker
                .answered(number, request.error_detail.is_some());
        }
        if let Some(error) = &request.error_detail {
            self.metrics.of(kind).nacks.add(1);
            let reason: String = error.message.chars().take(1000).collect();
            warn!(client = %self.client, ?kind, %reason, "client rejected resources");
        }
        let subscription = match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
            ResourceType::Configuration => &mut self.configurations,
        };
        let acknowledged = subscription
            .as_mut()
            .and_then(|subscription| subscription.acknowledges(&request.response_nonce));
        match acknowledged {
            Some(Some(committed)) => self.metrics.commit_to_ack.observe(now - committed),
            Some(None) => {}
            None => debug!(client = %self.client, ?kind, "answer to an earlier response"),
        }
    }

    /// Why nothing is to be sent now, if so.
    fn wait(&self, state: &State, now: Instant) -> Option<Next> {
        let grace = self.address_grace(now);
        let mut news = false;
        let mut urgent = self.unfinished;
        if let Some(policies) = &self.policies {
            let table = state.table(ResourceType::Authorization);
            // New policies restrict access: they do not wait for a batch.
            urgent |= policies.has_news(table);
            news |= urgent || policies.has_removals(table);
        }
        if let Some(configurations) = &self.configurations {
            let table = state.table(ResourceType::Configuration);
            urgent |= configurations.is_waited_for();
            news |= configurations.has_news(table) || configurations.has_removals(table);
        }
        if let Some(addresses) = &self.addresses
            && grace.is_none()
        {
            let table = state.table(ResourceType::Address);
            urgent |= addresses.is_waited_for();
            news |= addresses.has_news(table) || addresses.has_removals(table);
        }
        match (news, urgent, self.pace.wait(now)) {
            (true, true, _) | (true, false, None) => None,
            (true, false, Some(until)) => Some(Next::WaitUntil(until)),
            (false, ..) => Some(grace.map_or(Next::Idle, Next::WaitUntil)),
        }
    }

    /// Addresses are held back until the client had time to subscribe to policies.
    fn address_grace(&self, now: Instant) -> Option<Instant> {
        self.grace
            .filter(|until| self.policies.is_none() && now < *until)
    }

    /// Fills the outbox from one consistent state, in order: policies, what waypoints are told besides, addresses, removed
    /// policies. Each step only
    /// follows when the one before is complete, so a later commit cannot slip an address in front of its policies.
    fn produce(&mut self, state: &State, now: Instant) -> Result<(), LogTruncated> {
        self.pace.sent(now);
        self.unfinished = true;
        if self.produce_policies(state)
            && self.produce_configurations(state)?
            && self.produce_addresses(state, now)?
        {
            self.produce_removed_policies(state)?;
            self.unfinished = false;
        }
        Ok(())
    }

    /// Whether nothing is left of this step.
    fn produce_policies(&mut self, state: &State) -> bool {
        let Some(policies) = &mut self.policies else {
            return true;
        };
        let table = state.table(ResourceType::Authorization);
        let (before, owed) = (policies.position(), policies.is_waited_for());
        let page = policies.page(table, state.version().0, self.config.page);
        let complete = page.complete;
        self.push(ResourceType::Authorization, page, owed, before, state);
        complete
    }

    /// Whether nothing is left of this step.
    fn produce_configurations(&mut self, state: &State) -> Result<bool, LogTruncated> {
        let Some(configurations) = &mut self.configurations else {
            return Ok(true);
        };
        let table = state.table(ResourceType::Configuration);
        let sequence = state.version().0;
        let (before, owed) = (configurations.position(), configurations.is_waited_for());
        let mut page = configurations.page(table, sequence, self.config.page);
        let complete = page.complete;
        let removed = configurations.removals(table, sequence, complete)?;
        page.removed.extend(removed);
        self.push(ResourceType::Configuration, page, owed, before, state);
        Ok(complete)
    }

    /// Whether nothing is left of this step.
    fn produce_addresses(&mut self, state: &State, now: Instant) -> Result<bool, LogTruncated> {
        let held_back = self.address_grace(now).is_some();
        let Some(addresses) = self.addresses.as_mut().filter(|_| !held_back) else {
            return Ok(true);
        };
        let table = state.table(ResourceType::Address);
        let sequence = state.version().0;
        let (before, owed) = (addresses.position(), addresses.is_waited_for());
        let mut page = addresses.page(table, sequence, self.config.page);
        let complete = page.complete;
        page.removed
            .extend(addresses.removals(table, sequence, complete)?);
        self.push(ResourceType::Address, page, owed, before, state);
        Ok(complete)
    }

    fn produce_removed_policies(&mut self, state: &State) -> Result<(), LogTruncated> {
        let Some(policies) = &mut self.policies else {
            return Ok(());
        };
        let table = state.table(ResourceType::Authorization);
        let before = policies.position();
        let removed = policies.removals(table, state.version().0, true)?;
        let page = Page::removing(removed);
        self.push(ResourceType::Authorization, page, false, before, state);
        Ok(())
    }

    /// Queues a response, unless it would say nothing that anybody waits for.
    fn push(
        &mut self,
        kind: ResourceType,
        mut page: Page,
        owed: bool,
        before: Option<u64>,
        state: &State,
    ) {
        page.removed.sort_unstable();
        page.removed.dedup();
        let empty = page.resources.is_empty() && page.removed.is_empty();
        if empty && !(owed && page.complete) {
            return;
        }
        self.nonce += 1;
        let version = match (owed, page.complete) {
            (true, false) => PARTIAL.to_owned(),
            _ => state.version().0.to_string(),
        };
        self.outbox.push_back(Outgoing {
            kind,
            response: EncodedResponse {
                system_version_info: version,
                resources: page.resources,
                type_url: kind.url().to_owned(),
                nonce: format!("{:x}", self.nonce),
                removed_resources: page.removed,
            },
            committed: before.and_then(|sequence| state.oldest_commit_after(sequence)),
            number: self.nonce,
            version: state.version().0,
        });
    }

    fn hand_over(&mut self, outgoing: Outgoing, now: Instant) -> EncodedResponse {
        let Outgoing {
            kind,
            response,
            committed,
            number,
            version,
        } = outgoing;
        self.tracker.sent(number, version);
        let counters = self.metrics.of(kind);
        counters.pushes.add(1);
        counters.resources.add(response.resources.len() as u64);
        if let Some(committed) = committed {
            self.metrics.commit_to_send.observe(now - committed);
        }
        let subscription = match kind {
            ResourceType::Address => &mut self.addresses,
            ResourceType::Authorization => &mut self.policies,
            ResourceType::Configuration => &mut self.configurations,
        };
        if let Some(subscription) = subscription {
            subscription.sent(response.nonce.clone(), committed);
        }
        response
    }
}

#[cfg(test)]
mod tests;
