//! DNS messages, as far as they are looked at here.
//!
//! What is forwarded stays as it came, byte for byte but for its number. Only what the mesh answers itself is understood.
//!
//! Spec: RFC 1035 §4, RFC 6891.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{Family, answer::Known};

/// A query as it came.
#[derive(Clone, Debug)]
pub(super) struct Query {
    bytes: Vec<u8>,
    header: Header,
    /// The first question, and where it ends. Not every message has one that can be read.
    question: Option<(Question, usize)>,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl Query {
    /// A query, unless it is something else: too short for one, or an answer. Whoever answers answers may never hear the end
    /// of it, so those are nobody's.
    pub(super) fn read(bytes: Vec<u8>) -> Option<Self> {
        let mut decoder = BinDecoder::new(&bytes);
        let header = Header::read(&mut decoder).ok()?;
        if header.message_type != MessageType::Query {
            return None;
        }
        let question = (header.counts.queries > 0).then(|| {
            let question = Question::read(&mut decoder).ok()?;
            Some((question, decoder.index()))
        });
        Some(Self {
            header,
            question: question.flatten(),
            bytes,
        })
    }

    /// The type of record that it looks for, for metrics: a name that is registered, or `other`.
    pub(super) fn kind(&self) -> &'static str {
        match &self.question {
            _ if self.header.op_code != OpCode::Query => "other",
            Some((question, _)) => match question.query_type() {
                RecordType::Unknown(_) => "other",
                known => known.into(),
            },
            None => "other",
        }
    }

    /// The name that it asks for, in lower case and without a dot at its end.
    pub(super) fn name(&self) -> Option<String> {
        let (question, _) = self.question.as_ref()?;
        let mut name = question.name().to_lowercase().to_ascii();
        if name.ends_with('.') {
            name.pop();
        }
        Some(name)
    }

    /// The family of the addresses that it asks for. `None` for every other query: those are for name servers.
    pub(super) fn family(&self) -> Option<Family> {
        let (question, _) = self.question.as_ref()?;
        let counts = &self.header.counts;
        // Nothing behind it but what belongs to a question: EDNS, and a signature.
        let alone = counts.queries == 1 && counts.answers == 0 && counts.authorities == 0;
        let short = counts.additionals <= 2 && self.bytes.len() <= LONGEST;
        let plain = self.header.op_code == OpCode::Query && alone && short;
        match question.query_type() {
            _ if !plain || question.query_class() != DNSClass::IN => None,
            RecordType::A => Some(Family::Ipv4),
            RecordType::AAAA => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// The mesh's own answer. `None` where the query asks for more than the mesh understands.
    pub(super) fn answer(&self, known: &Known, transport: Transport) -> Option<Vec<u8>> {
        let (question, _) = self.question.as_ref()?;
        let asked = Message::from_vec(&self.bytes).ok()?;
        if asked.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return None;
        }
        let mut message = self.response(ResponseCode::NoError, asked.edns.is_some());
        message.metadata.authoritative = true;
        let mut owner = question.name().clone();
        if let Some(alias) = &known.alias {
            let mut target = Name::from_ascii(alias).ok()?;
            target.set_fqdn(true);
            let data = RData::CNAME(CNAME(target.clone()));
            message.add_answer(Record::from_rdata(owner, TTL, data));
            owner = target;
        }
        for address in known.addresses.iter().take(MOST_ADDRESSES) {
            let data = match address {
                IpAddr::V4(address) => RData::A(A(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
            };
            message.add_answer(Record::from_rdata(owner.clone(), TTL, data));
        }
        let limit = match transport {
            Transport::Udp => asked.max_payload().max(SMALLEST_PAYLOAD).into(),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let whole = message.to_vec().ok()?;
        if whole.len() <= limit {
            return Some(whole);
        }
        // Not every client asks again by TCP, so it is told as many as fit.
        let record = match known.addresses.first() {
            Some(IpAddr::V6(_)) => IPV6_RECORD,
            _ => IPV4_RECORD,
        };
        let excess = (whole.len() - limit).div_ceil(record);
        message.metadata.truncation = true;
        let fits = message.answers.len().saturating_sub(excess);
        message.answers.truncate(fits);
        message.to_vec().ok()
    }

    /// Says that nobody could answer.
    pub(super) fn fail(&self) -> Option<Vec<u8>> {
        let asked = Message::from_vec(&self.bytes);
        let edns = asked.is_ok_and(|asked| asked.edns.is_some());
        self.response(ResponseCode::ServFail, edns).to_vec().ok()
    }

    /// Bytes of the message.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn response(&self, code: ResponseCode, edns: bool) -> Message {
        let mut message = Message::error_msg(self.header.id, self.header.op_code, code);
        message.metadata.recursion_desired = self.header.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.header.checking_disabled;
        message.add_queries(self.question.iter().map(|(question, _)| question.clone()));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_PAYLOAD);
            message.set_edns(edns);
        }
        message
    }

    /// The query under another number, for a name server. Nobody who did not see it can know the number.
    pub(super) fn renumbered(&self, id: u16) -> Vec<u8> {
        renumbered(&self.bytes, id)
    }

    /// The name server's answer to the query under `id`, as it is passed on. `None` if `reply` is not that.
    pub(super) fn relayed(&self, reply: &[u8], id: u16) -> Option<Reply> {
        let header = Header::from_bytes(reply).ok()?;
        if header.id != id
            || header.message_type != MessageType::Response
            || header.op_code != self.header.op_code
        {
            return None;
        }
        // The question is repeated, except by servers that understood none.
        let misunderstood =
            header.counts.queries == 0 && header.response_code != ResponseCode::NoError;
        if let Some((_, end)) = self.question
            && !misunderstood
        {
            let asked = self.bytes.get(HEADER..end)?;
            if !asked.eq_ignore_ascii_case(reply.get(HEADER..end)?) {
                return None;
            }
        }
        let is_final = !matches!(
            header.response_code,
            ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
        );
        Some(Reply {
            bytes: renumbered(reply, self.header.id),
            is_final,
        })
    }
}

/// What a name server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The message.
    pub(super) bytes: Vec<u8>,
    /// Whether another server would say the same. One that fails or refuses speaks for itself alone.
    pub(super) is_final: bool,
}

fn renumbered(message: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = message.to_vec();
    if let Some(place) = bytes.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
    bytes
}

/// Seconds for which an answer of the mesh may be kept.
const TTL: u32 = 30;
const HEADER: usize = 12;
/// What everybody takes by UDP.
const SMALLEST_PAYLOAD: u16 = 512;
/// What we tell that we take by UDP: fits every path.
const OUR_PAYLOAD: u16 = 1232;
/// Bytes of a record whose owner was named before.
const IPV4_RECORD: usize = 16;
const IPV6_RECORD: usize = 28;
/// Bytes of a query that the mesh answers, and of one by UDP.
pub(super) const LONGEST: usize = 4096;
/// Addresses of one answer; with their names they fit a message.
const MOST_ADDRESSES: usize = 2000;

#[cfg(test)]
mod tests;
