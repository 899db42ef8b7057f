//! One question for the addresses of a name, and its answer.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as Question},
    rr::{Name, RecordType},
};

use super::{
    Family, NameServers,
    message::{Query, Transport},
    resolver::ResolveError,
    response::Response,
    servers::AskError,
};

/// Whom questions of our own are put to.
pub(super) trait Ask {
    /// The answer to a query that this process has of its own accord.
    async fn put(&self, query: &Query, transport: Transport) -> Result<Vec<u8>, AskError>;
}

impl Ask for NameServers {
    async fn put(&self, query: &Query, transport: Transport) -> Result<Vec<u8>, AskError> {
        self.ask(self.here(), query, transport).await
    }
}

/// What was found, and how long it may be kept as far as the zone is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ttl: Duration,
}

/// Why nothing was found, and how long the zone says that this holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) reason: ResolveError,
    pub(super) ttl: Duration,
}

/// Asks for the addresses of `name`, by TCP if there are too many for UDP.
///
/// The name is taken as it is, whatever domains the host searches: what a ServiceEntry names does not depend on where it is
/// looked up.
pub(super) async fn look_up(
    servers: &impl Ask,
    name: &str,
    family: Family,
) -> Result<Found, Missing> {
    let (query, question) = question(name, family).ok_or(Missing {
        reason: ResolveError::NotAName,
        ttl: Duration::ZERO,
    })?;
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = servers.put(&query, transport).await;
        let answer = answer.map_err(|error| failed(&error.to_string()))?;
        let (reason, ttl) = match Response::read(&answer, &question) {
            Response::Truncated => continue,
            Response::Addresses(addresses, ttl) => return Ok(Found { addresses, ttl }),
            Response::NoSuchName(ttl) => (ResolveError::NoSuchName, ttl),
            Response::NoAddress(ttl) => (ResolveError::NoAddress, ttl),
            Response::Failed(code) => return Err(failed(&format!("name server: {code}"))),
            Response::Mismatched => return Err(failed("a name server answers something else")),
        };
        return Err(Missing { reason, ttl });
    }
    Err(failed("a name server's answer is incomplete"))
}

/// That nobody could tell.
pub(super) fn failed(reason: &str) -> Missing {
    Missing {
        reason: ResolveError::Failed(Arc::from(reason)),
        ttl: Duration::ZERO,
    }
}

fn question(name: &str, family: Family) -> Option<(Query, Question)> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    // A wildcard would be asked for as a name of that very spelling.
    if name.is_root() || name.is_wildcard() {
        return None;
    }
    let kind = match family {
        Family::Ipv4 => RecordType::A,
        Family::Ipv6 => RecordType::AAAA,
    };
    let question = Question::query(name, kind);
    // The number is another each time that it is asked.
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(question.clone());
    Some((Query::read(message.to_vec().ok()?)?, question))
}

#[cfg(test)]
mod tests;
