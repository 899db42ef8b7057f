//! Services that count requests for all waypoints: `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tokio::{
    task::{JoinHandle, spawn_local},
    time::timeout,
};
use tulle_model::limit::{Descriptor, GlobalLimit, LimitUnit};
use tulle_proto::rate_limit as wire;

use super::{
    super::questions::{Unanswered, allowed, call, grpc, header_of},
    Context, Left,
    parts::Parts,
};

/// What a service says of a request.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    pub(super) is_over: bool,
    pub(super) to_endpoint: Vec<(HeaderName, HeaderValue)>,
    pub(super) to_client: Vec<(HeaderName, HeaderValue)>,
    /// What a client is told whose request is too many.
    pub(super) body: Bytes,
    /// Of that of its limits which has the least left.
    pub(super) left: Option<Left>,
}

/// What a service is asked; `None` if nothing of what it counts is in the request.
pub(super) fn question<B>(
    of: &GlobalLimit,
    parts: &Parts<'_, B>,
) -> Option<wire::RateLimitRequest> {
    let descriptors = of.descriptors.iter();
    let descriptors: Vec<_> = descriptors.filter_map(|of| descriptor(of, parts)).collect();
    (!descriptors.is_empty()).then(|| wire::RateLimitRequest {
        domain: of.domain.clone(),
        descriptors,
        hits_addend: 0,
    })
}

fn descriptor<B>(of: &Descriptor, parts: &Parts<'_, B>) -> Option<wire::RateLimitDescriptor> {
    let entries = of.entries.iter().map(|(key, part)| {
        let value = parts.of(part)?;
        let start = value.get(..LONGEST).unwrap_or(&value);
        Some(wire::Entry {
            key: key.clone(),
            value: String::from_utf8_lossy(start).into_owned(),
        })
    });
    Some(wire::RateLimitDescriptor {
        entries: entries.collect::<Option<_>>()?,
        limit: of
            .limit
            .map(|(requests_per_unit, unit)| wire::RateLimitOverride {
                requests_per_unit,
                unit: self::unit(unit).into(),
            }),
    })
}

fn unit(of: LimitUnit) -> wire::Unit {
    match of {
        LimitUnit::Second => wire::Unit::Second,
        LimitUnit::Minute => wire::Unit::Minute,
        LimitUnit::Hour => wire::Unit::Hour,
        LimitUnit::Day => wire::Unit::Day,
        LimitUnit::Week => wire::Unit::Week,
        LimitUnit::Month => wire::Unit::Month,
        LimitUnit::Year => wire::Unit::Year,
    }
}

/// Asks the service. A few questions outlive whoever waits for their answers: a connection that takes longer to be made than requests wait
/// would otherwise never be made.
pub(super) async fn ask(
    context: &Rc<Context>,
    of: &Arc<GlobalLimit>,
    question: wire::RateLimitRequest,
) -> Result<Said, Unanswered> {
    if of.service.is_none() {
        return Err(Unanswered::Unknown);
    }
    let counted = context.peer.front.counted.begin_below(MOST);
    let counted = counted.ok_or(Unanswered::Unaskable("too many others are asked about"))?;
    let front = Rc::clone(&context.peer.front);
    let (context, of, limit) = (Rc::clone(context), Arc::clone(of), of.timeout);
    let mut asking = Asking(spawn_local(async move {
        let _counted = counted;
        let service = of.service.as_ref().ok_or(Unanswered::Unknown)?;
        let question = grpc(service, METHOD, limit, &question)?;
        let answered = call(&context, service, limit + LONGER, question).await?;
        said(answered.message()?)
    }));
    match timeout(limit, &mut asking.0).await {
        Ok(Ok(said)) => said,
        Ok(Err(_)) => Err(Unanswered::Unaskable("the question was given up")),
        Err(_) => {
            if let Some(late) = front.late.begin_below(LATE) {
                spawn_local(async move {
                    let _late = late;
                    let _ = (&mut asking.0).await;
                });
            }
            Err(Unanswered::TooLate(limit))
        }
    }
}

/// A question. Nobody waits for its answer once this is dropped: the request may be gone before.
struct Asking(JoinHandle<Result<Said, Unanswered>>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn said(response: wire::RateLimitResponse) -> Result<Said, Unanswered> {
    let is_over = match response.overall_code() {
        wire::Code::Ok => false,
        wire::Code::OverLimit => true,
        wire::Code::Unknown => return Err(Unanswered::Malformed("it does not say what holds")),
    };
    let (to_endpoint, to_client) = match is_over {
        // What is over stays so, whatever else is said.
        true => (Vec::new(), valid(response.response_headers_to_add)),
        false => (
            headers(response.request_headers_to_add)?,
            headers(response.response_headers_to_add)?,
        ),
    };
    Ok(Said {
        is_over,
        left: response
            .statuses
            .iter()
            .filter_map(left)
            .min_by_key(|of| of.left),
        to_endpoint: allowed(to_endpoint),
        to_client: allowed(to_client),
        body: response.raw_body,
    })
}

fn headers(written: Vec<wire::HeaderValue>) -> Result<Vec<(HeaderName, HeaderValue)>, Unanswered> {
    let headers = written.into_iter();
    let headers = headers.map(|of| header_of(&of.key, of.value, &of.raw_value));
    headers.filter_map(Result::transpose).collect()
}

/// Those that are headers.
fn valid(written: Vec<wire::HeaderValue>) -> Vec<(HeaderName, HeaderValue)> {
    let headers = written.into_iter();
    let headers = headers.map(|of| header_of(&of.key, of.value, &of.raw_value));
    headers.filter_map(|header| header.ok().flatten()).collect()
}

fn left(status: &wire::DescriptorStatus) -> Option<Left> {
    let limit = status.current_limit.as_ref()?;
    let reset = status.duration_until_reset.as_ref();
    let seconds = reset.map_or(0, |reset| {
        reset.seconds.saturating_add((reset.nanos > 0).into())
    });
    Some(Left {
        of: limit.requests_per_unit.into(),
        left: status.limit_remaining.into(),
        reset: u64::try_from(seconds).unwrap_or_default(),
    })
}

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Bytes of a value. Longer ones count with all that begin alike.
const LONGEST: usize = 1024;
/// Questions of a thread at a time.
const MOST: usize = 1024;
/// Of these, those that nobody waits for any more.
const LATE: usize = 16;
/// Than requests wait.
const LONGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
