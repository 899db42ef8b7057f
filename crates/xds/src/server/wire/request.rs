//! A request, taken apart field by field as it arrives.

use bytes::{Buf, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};
use tonic::Status;
use tulle_proto::discovery::DeltaDiscoveryRequest;

use crate::{
    ResourceType,
    server::{held::Held, subscription::WILDCARD},
    store::State,
};

/// A request.
#[derive(Debug, Default)]
pub(in crate::server) struct Request {
    /// All of it but what is in `held`.
    pub(in crate::server) message: DeltaDiscoveryRequest,
    /// What the client holds, compared with the store already. Only a client that wants everything has it here; the others
    /// have their versions in the message.
    pub(in crate::server) held: Option<Held>,
}

/// The part of a request that was there so far.
#[derive(Debug, Default)]
pub(in crate::server) struct Parser {
    kind: Option<ResourceType>,
    named: bool,
    starred: bool,
    unstarred: bool,
    /// Fields other than versions that were compared.
    rest: BytesMut,
    /// How many.
    kept: usize,
    held: Option<Held>,
}

/// A name and a version.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

impl Parser {
    /// Takes the whole fields at the beginning of `arrived`, of which no more than `left` bytes belong to the request, and
    /// returns how many bytes that were.
    pub(in crate::server) fn take(
        &mut self,
        arrived: &mut BytesMut,
        left: usize,
        state: &State,
    ) -> Result<usize, Status> {
        let mut taken = 0;
        while let Some(length) = field(arrived, left - taken)? {
            let field = arrived.split_to(length).freeze();
            taken += length;
            self.field(&field, state)?;
        }
        Ok(taken)
    }

    /// The request, once all of it was taken.
    pub(in crate::server) fn finish(self) -> Result<Request, Status> {
        let message = DeltaDiscoveryRequest::decode(self.rest).map_err(malformed)?;
        Ok(Request {
            message,
            held: self.held,
        })
    }

    fn field(&mut self, field: &Bytes, state: &State) -> Result<(), Status> {
        let mut rest = field.clone();
        let (number, wire) = decode_key(&mut rest).map_err(malformed)?;
        if wire == WireType::LengthDelimited {
            let length = decode_varint(&mut rest).map_err(malformed)?;
            debug_assert_eq!(length, rest.len() as u64);
            match (number, self.kind) {
                (TYPE_URL, _) => {
                    let url = std::str::from_utf8(&rest).unwrap_or_default();
                    self.kind = ResourceType::from_url(url);
                }
                (SUBSCRIBE, _) if rest == WILDCARD => self.starred = true,
                (SUBSCRIBE, _) => self.named = true,
                (UNSUBSCRIBE, _) => self.unstarred |= rest == WILDCARD,
                (VERSIONS, Some(kind)) if self.wants_everything() => {
                    let pair = Pair::decode(rest).map_err(malformed)?;
                    let held = self.held.get_or_insert_with(|| Held::new(state));
                    held.note(state.table(kind), pair.name, &pair.version);
                    return Ok(());
                }
                _ => {}
            }
        }
        // In memory, each is many times as long as it may be here.
        self.kept += 1;
        if self.kept > MAX_FIELDS {
            return Err(Status::resource_exhausted("too many names in one request"));
        }
        self.rest.extend_from_slice(field);
        Ok(())
    }

    /// As far as can be seen by now.
    fn wants_everything(&self) -> bool {
        !self.unstarred && (self.starred || !self.named)
    }
}

/// Length of the first field, if all of it is there. No field is longer than `left`.
fn field(arrived: &[u8], left: usize) -> Result<Option<usize>, Status> {
    if left == 0 {
        return Ok(None);
    }
    let mut rest = arrived;
    // The longest key and length have 5 and 10 bytes: more need not be waited for.
    let may_be_cut = arrived.len() < left.min(15);
    let Ok((_, wire)) = decode_key(&mut rest) else {
        return cut(may_be_cut);
    };
    let body = match wire {
        WireType::LengthDelimited => match decode_varint(&mut rest) {
            Ok(length) => length,
            Err(_) => return cut(may_be_cut),
        },
        WireType::Varint => match decode_varint(&mut rest) {
            Ok(_) => 0,
            Err(_) => return cut(may_be_cut),
        },
        WireType::ThirtyTwoBit => 4,
        WireType::SixtyFourBit => 8,
        WireType::StartGroup | WireType::EndGroup => return Err(malformed("a group")),
    };
    let head = arrived.len() - rest.remaining();
    let length = usize::try_from(body).unwrap_or(usize::MAX);
    let length = length.saturating_add(head);
    if length > left {
        return Err(malformed("a field longer than its message"));
    }
    Ok((length <= arrived.len()).then_some(length))
}

fn cut(may_be_cut: bool) -> Result<Option<usize>, Status> {
    match may_be_cut {
        true => Ok(None),
        false => Err(malformed("no field")),
    }
}

fn malformed(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("malformed request: {what}"))
}

/// Fields of a request that are kept: names, and versions of a client that does not want everything, each up to
/// [`ServerConfig::max_names`](crate::server::ServerConfig::max_names) by default.
const MAX_FIELDS: usize = 200_100;
/// Numbers of fields.
const TYPE_URL: u32 = 2;
const SUBSCRIBE: u32 = 3;
const UNSUBSCRIBE: u32 = 4;
const VERSIONS: u32 = 5;
