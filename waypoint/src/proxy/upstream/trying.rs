//! Chooses endpoints until one is reached.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tulle_balance::{Outcome, Preference};
use tulle_model::{Uid, traffic::TrafficPolicy};
use tulle_route::{Named, Outbound, Route, RouteError, Via, forward};
use tulle_state::{Select, Snapshot, Workload};

use super::{
    super::{
        destinations::{Held, Target},
        front::Shared,
        stream::Context,
    },
    Hop, Reached, Upstreams,
    failed::{Failed, nowhere},
};

/// How an endpoint is found.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) target: &'a Target,
    pub(super) policy: &'a TrafficPolicy,
    pub(super) preference: Preference,
}

impl Upstreams {
    /// Chooses endpoints until one is reached.
    pub(super) async fn first_reached<T>(
        &self,
        context: &Context,
        way: Way<'_>,
        mut held: Held,
        exclude: &mut Vec<Uid>,
        reach: impl AsyncFn(Outbound, &Hop) -> Result<T, Failed>,
    ) -> Result<(T, Reached), Failed> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let route = match (self.route(context, way, exclude).await, last.take()) {
                (Ok(route), _) => route,
                // No other endpoint: what the first one said is worth more.
                (Err(_), Some(failed)) | (Err(failed), None) => return Err(failed),
            };
            // The endpoints behind another waypoint are not told apart there.
            if way.target.is_part() && is_through_waypoint(&route) {
                return Err(Failed::Forbidden(ELSEWHERE.to_owned()));
            }
            let hop = Hop::of(&route, &way.target.served);
            held.is_for(hop.uid().as_ref());
            // If time is over before it is reached, that one is not the next either.
            let before = exclude.len();
            exclude.extend(hop.uid());
            let trying = Trying::new(self, held);
            let reached = reach(route, &hop).await;
            held = trying.end().ok_or_else(nowhere)?;
            match reached {
                Ok(reached) => {
                    exclude.truncate(before);
                    return Ok((reached, Reached { hop, held }));
                }
                Err(failed) => {
                    if failed.is_of_endpoint() {
                        held.ended(&self.shared, Outcome::Lost);
                    }
                    if !failed.is_retryable() {
                        return Err(failed);
                    }
                    last = Some(failed);
                }
            }
        }
        Err(last.unwrap_or_else(nowhere))
    }

    /// Where the next connection goes.
    async fn route(
        &self,
        context: &Context,
        way: Way<'_>,
        exclude: &[Uid],
    ) -> Result<Outbound, Failed> {
        let snapshot = self.shared.snapshots.load();
        let now = context.now().unwrap_or_else(|| context.last());
        let mut random = fastrand::Rng::new();
        let found = {
            let served = &way.target.served;
            let mut forward = |selector: &mut dyn Select| {
                forward(&snapshot, &now.own, served, exclude, &mut random, selector)
            };
            match way.target.picker(way.policy, way.preference) {
                None => forward(&mut fastrand::Rng::new()),
                Some(mut picker) => match forward(&mut picker) {
                    // Those that are left alone are better than none.
                    Err(RouteError::NoEndpoint { .. }) if picker.spares_none() => {
                        forward(&mut picker)
                    }
                    found => found,
                },
            }
        };
        match found? {
            Route::To(outbound) => Ok(outbound),
            // The rare way, and a long one.
            Route::ByName(named) => {
                Box::pin(by_name(&self.shared, &now.own, &snapshot, &named, exclude)).await
            }
        }
    }
}

/// Where a connection goes that is for a name.
pub(in super::super) async fn by_name(
    shared: &Shared,
    own: &Workload,
    snapshot: &Snapshot,
    named: &Named,
    exclude: &[Uid],
) -> Result<Outbound, Failed> {
    let unresolved = |source| Failed::Name {
        name: Arc::clone(&named.hostname),
        source,
    };
    let looking = tokio::net::lookup_host((&*named.hostname, 0));
    let found = timeout(shared.settings.connect_timeout, looking).await;
    let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut last = None;
    let mut random = fastrand::Rng::new();
    for address in found.map_err(unresolved)? {
        match named.at(snapshot, own, address.ip(), exclude, &mut random) {
            Ok(outbound) => return Ok(outbound),
            Err(error) => last = Some(Failed::Route(error)),
        }
    }
    Err(last.unwrap_or_else(|| unresolved(io::ErrorKind::NotFound.into())))
}

/// An endpoint that is being reached. If that is given up before it has ended, it is to blame if it had a while.
struct Trying<'a> {
    upstreams: &'a Upstreams,
    held: Option<Held>,
    since: Instant,
}

impl<'a> Trying<'a> {
    fn new(upstreams: &'a Upstreams, held: Held) -> Self {
        Self {
            upstreams,
            held: Some(held),
            since: Instant::now(),
        }
    }

    /// It was reached, or not.
    fn end(mut self) -> Option<Held> {
        self.held.take()
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if let Some(held) = &self.held
            && self.since.elapsed() >= WHILE
        {
            held.ended(&self.upstreams.shared, Outcome::Lost);
        }
    }
}

/// Whether a route leads to the waypoint of what it is for.
fn is_through_waypoint(route: &Outbound) -> bool {
    match route {
        Outbound::Hbone { via, .. } => *via != Via::Direct,
        Outbound::Passthrough { .. } | Outbound::Plain { .. } => false,
    }
}

const ELSEWHERE: &str = "a subset of a service that has a waypoint of its own";
/// What takes longer than this to be reached is to blame for it.
const WHILE: Duration = Duration::from_secs(1);
/// Endpoints that one request or connection tries.
const ATTEMPTS: usize = 3;
