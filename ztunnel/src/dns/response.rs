//! What a name server says about the addresses of a name.
//!
//! Only what belongs to the question counts: its own name, and the names that this is said to be an alias of.
//!
//! Spec: RFC 1035 §4.1 and §3.6.2 (aliases), RFC 2308 §5 (how long nothing is nothing), RFC 2181 §8 (times to live).

use std::{net::IpAddr, time::Duration};

use hickory_proto::{
    op::{Message, Query as Question, ResponseCode},
    rr::{DNSClass, Name, RData, Record},
};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// At least one address, each once, and how long they may be kept.
    Addresses(Vec<IpAddr>, Duration),
    /// The name does not exist, which may be remembered so long.
    NoSuchName(Duration),
    /// It does, and has no address of the family that was asked for.
    NoAddress(Duration),
    /// There is more than what came. To be asked again by TCP.
    Truncated,
    /// This server cannot tell.
    Failed(ResponseCode),
    /// It answers something else.
    Mismatched,
}

impl Response {
    /// What `message` says to the question.
    pub(super) fn read(message: &[u8], asked: &Question) -> Self {
        let Ok(message) = Message::from_vec(message) else {
            return Self::Mismatched;
        };
        let code = message.metadata.response_code;
        let exists = match code {
            ResponseCode::NoError => true,
            ResponseCode::NXDomain => false,
            other => return Self::Failed(other),
        };
        // A server that understood the question repeats it.
        if message.queries.as_slice() != std::slice::from_ref(asked) {
            return Self::Mismatched;
        }
        if message.metadata.truncation {
            return Self::Truncated;
        }
        let nothing = || nothing(&message.authorities);
        match addresses(&message.answers, asked) {
            _ if !exists => Self::NoSuchName(nothing()),
            Some((addresses, ttl)) => Self::Addresses(addresses, ttl),
            None => Self::NoAddress(nothing()),
        }
    }
}

/// The addresses at the end of the chain of aliases that the name begins. They may be kept for as long as each link of it.
fn addresses(records: &[Record], asked: &Question) -> Option<(Vec<IpAddr>, Duration)> {
    let (mut owner, mut ttl): (&Name, _) = (asked.name(), u32::MAX);
    for _ in 0..=MOST_ALIASES {
        let of_owner = |record: &&Record| record.dns_class == DNSClass::IN && record.name == *owner;
        let owned = || records.iter().filter(of_owner);
        let mut found = Vec::new();
        for record in owned().filter(|record| record.record_type() == asked.query_type()) {
            let address = address(&record.data)?;
            if found.len() < MOST_ADDRESSES && !found.contains(&address) {
                found.push(address);
                ttl = ttl.min(seconds(record.ttl));
            }
        }
        if !found.is_empty() {
            return Some((found, Duration::from_secs(ttl.into())));
        }
        (owner, ttl) = owned().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, ttl.min(seconds(record.ttl)))),
            _ => None,
        })?;
    }
    None
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(IpAddr::from(address.0).to_canonical()),
        _ => None,
    }
}

/// How long it may be remembered that there is nothing. Not at all, unless the zone says how long.
fn nothing(authorities: &[Record]) -> Duration {
    let said = authorities.iter().find_map(|record| match &record.data {
        RData::SOA(zone) => Some(seconds(zone.minimum).min(seconds(record.ttl))),
        _ => None,
    });
    Duration::from_secs(said.unwrap_or(0).into())
}

/// What has the highest bit set is none.
fn seconds(ttl: u32) -> u32 {
    i32::try_from(ttl).map_or(0, |_| ttl)
}

/// Aliases that are followed, one after the other. More is a mistake, or has no end.
const MOST_ALIASES: usize = 8;
/// Addresses of one name that are kept.
const MOST_ADDRESSES: usize = 32;

#[cfg(test)]
mod tests;
