//! How requests and connections are shared among the endpoints of a service, and how many there may be.

use std::time::Duration;

use crate::{ServiceKey, Uid, http::Persistence};

/// What is said of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficRule {
    /// Which.
    pub service: ServiceKey,
    /// For all endpoints.
    pub general: PolicyByPort,
    /// For some of them.
    pub subsets: Vec<Subset>,
    /// What keeps requests of one client with one endpoint, where routes say nothing of that.
    pub persistence: Option<Persistence>,
}

/// Some endpoints of a service: those whose [`Membership`] names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// What holds for them, instead of what holds for all.
    pub policy: PolicyByPort,
}

/// What holds, and for which ports something else does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyByPort {
    /// For all others.
    pub any: TrafficPolicy,
    /// By port of the service.
    pub ports: Vec<(u16, TrafficPolicy)>,
}

/// How traffic is led.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// How an endpoint is chosen.
    pub balancing: Balancing,
    /// How new endpoints are spared.
    pub warmup: Option<Warmup>,
    /// How much there may be.
    pub limits: Limits,
    /// Endpoints are asked by HTTP/2, whatever clients speak.
    pub upgrade: bool,
    /// When endpoints are left alone.
    pub outliers: Option<Outliers>,
    /// Why nothing is sent at all: something that cannot be done, and without which endpoints would get what they must not.
    pub refused: Option<String>,
}

/// How an endpoint is chosen, within those that are nearest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancing {
    /// Of two at random the one that has less to do.
    #[default]
    LeastRequest,
    /// At random.
    Random,
    /// In turn.
    RoundRobin,
    /// The same for what is alike in this.
    Hash(HashOf),
}

/// What makes requests alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOf {
    /// The value of a header, by its name in lower case.
    Header(String),
    /// The value of a cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Where there is none, one is made that lasts so long; one that lasts for a session, if that is zero. `None`: none is made.
        ttl: Option<Duration>,
        /// With this path.
        path: Option<String>,
        /// And these attributes.
        attributes: Vec<(String, Option<String>)>,
    },
    /// The address of the client.
    SourceIp,
    /// A parameter of the query.
    Query(String),
}

/// How an endpoint is spared while it is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// How long.
    pub duration: Duration,
    /// Its share at first, of a million.
    pub least: u32,
    /// How the share grows, in thousandths: 1000 for steadily, more for faster at first.
    pub aggression: u32,
}

/// How much there may be at one time, in one waypoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections to endpoints: of bytes, and of HTTP/1.
    pub connections: Option<u32>,
    /// Requests that wait for one of those.
    pub pending: Option<u32>,
    /// Requests.
    pub requests: Option<u32>,
    /// Of those, such as are tried again.
    pub retries: Option<u32>,
    /// Of those, such as are tried again, for each million; at least [`Self::least_retries`].
    pub retry_share: Option<u32>,
    /// That many may be tried again whatever their share is.
    pub least_retries: u32,
    /// Requests on one connection before it is closed.
    pub per_connection: Option<u32>,
    /// How long a connection may take to be there.
    pub connect_timeout: Option<Duration>,
    /// After which a connection is closed that nobody uses.
    pub idle_timeout: Option<Duration>,
}

/// When an endpoint is left alone: after so many failures in a row, of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Responses of 5xx, and failures to get one unless they are told apart. `None`: these do not count.
    pub server_errors: Option<u32>,
    /// Responses of 502, 503 and 504, and the same failures.
    pub gateway_errors: Option<u32>,
    /// Failures to get a response, told apart from responses.
    pub local_failures: Option<u32>,
    /// Failures to get a response are told apart.
    pub split: bool,
    /// An endpoint that is well for so long counts as left alone once less.
    pub interval: Duration,
    /// How long it is left alone, times how often it was.
    pub base: Duration,
    /// In percent of the endpoints.
    pub most_ejected: u8,
    /// In percent: if fewer are well, none is left alone.
    pub least_healthy: u8,
}

/// Of a workload, which subsets it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The workload.
    pub workload: Uid,
    /// Each of a service, by name.
    pub subsets: Vec<(ServiceKey, String)>,
}

impl TrafficRule {
    /// Nothing is sent, for this reason.
    pub fn refuse(&mut self, why: &str) {
        let subsets = self.subsets.iter_mut();
        let all = subsets.map(|subset| &mut subset.policy);
        for policies in all.chain([&mut self.general]) {
            let ports = policies.ports.iter_mut().map(|(_, policy)| policy);
            for policy in ports.chain([&mut policies.any]) {
                policy.refused = Some(why.to_owned());
            }
        }
    }

    /// What holds for a port of the service, or of a subset of it; `None` if there is no such subset.
    pub fn policy(&self, port: u16, subset: Option<&str>) -> Option<&TrafficPolicy> {
        let policies = match subset {
            None => &self.general,
            Some(name) => {
                let subset = self.subsets.iter().find(|subset| subset.name == name)?;
                &subset.policy
            }
        };
        let mut ports = policies.ports.iter();
        let own = ports.find(|(of, _)| *of == port);
        Some(own.map_or(&policies.any, |(_, policy)| policy))
    }
}
