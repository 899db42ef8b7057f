//! What is wrong with objects that waypoints are told by, as far as they say it themselves.
//!
//! Pure functions: an object in, its problems out, each with the path of a field. All are found, not only the first, and none is
//! passed over: a waypoint that took a part of a route would send requests where nobody wanted them. Whether what an object
//! refers to is there is a matter of [`crate::references`].
//!
//! Spec: `control-plane.md` §3.6, §6.2, §6.4, §7 and §8.1.

use serde::Serialize;
use tulle_manifest::{Declared, Fields, Object, Path};

use crate::translate::Finding;

mod check;
mod destination_rule;
mod jwt;
mod mesh_config;
mod pattern;
mod pool;
mod rate_limit;
mod route;
mod telemetry;
mod values;
mod virtual_service;

use check::Check;
pub(crate) use mesh_config::{is_in_order, status_code};
pub(crate) use values::{gateway_duration, istio_duration};
pub(crate) use virtual_service::GRPC_STATUS;

/// One thing that is to be told of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub fault: Fault,
    /// Where it is, and what.
    #[serde(flatten)]
    pub finding: Finding,
}

/// How bad a problem is. All but the last keep the object from being in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The value cannot be.
    Invalid,
    /// The filters cannot stand together.
    Incompatible,
    /// It may mean something, but not to us.
    Unsupported,
    /// It has no effect, and does no harm.
    Ignored,
}

impl Fault {
    /// Whether an object with it is not in force.
    pub fn refuses(self) -> bool {
        self != Self::Ignored
    }
}

/// The problems of an object; `None` if it is of a kind that no waypoint is told by. No more than [`MOST_PROBLEMS`].
pub fn problems(object: &Object) -> Option<Vec<Problem>> {
    Some(match object {
        Object::HTTPRoute(route) => of(route, route::http),
        Object::GRPCRoute(route) => of(route, route::grpc),
        Object::ReferenceGrant(grant) => of(grant, route::grant),
        Object::RequestAuthentication(policy) => of(policy, jwt::request_authentication),
        Object::DestinationRule(rule) => of(rule, destination_rule::destination_rule),
        Object::VirtualService(service) => of(service, virtual_service::virtual_service),
        Object::RateLimitPolicy(policy) => of(policy, rate_limit::rate_limit_policy),
        Object::Telemetry(telemetry) => of(telemetry, telemetry::telemetry),
        Object::ConfigMap(map) => mesh_config::config_map(map),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::GatewayClass(_)
        | Object::Gateway(_)
        | Object::ServiceEntry(_)
        | Object::WorkloadEntry(_)
        | Object::AuthorizationPolicy(_)
        | Object::PeerAuthentication(_)
        | Object::NodeStatus(_) => return None,
    })
}

fn of<S: Fields, T>(object: &Declared<S, T>, says: impl Fn(&mut Check, &S)) -> Vec<Problem> {
    let mut check = Check::new("spec");
    if let Some(why) = &object.unreadable {
        check.invalid("", format!("cannot be understood: {why}"));
        return check.problems;
    }
    says(&mut check, &object.spec);
    object.spec.unknown(Path::root("spec"), &mut |path| {
        check.add(Fault::Unsupported, path.to_string(), "is not known");
    });
    check.problems
}

/// Nobody mends more at once.
pub const MOST_PROBLEMS: usize = 32;

#[cfg(test)]
mod tests;
