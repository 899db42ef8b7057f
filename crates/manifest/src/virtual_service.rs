//! Where requests for a host go, in the words of Istio.

use super::{declared::Declared, fields::fields};

mod action;
mod matching;
mod tcp;

pub use action::{
    Abort, CorsPolicy, Delay, DirectResponse, Fault, HeaderOperations, Headers, HttpBody, Mirror,
    Percent, Redirect, RegexRewrite, Retries, Rewrite,
};
pub use matching::{HttpMatch, StringMatch};
pub use tcp::{L4Match, TcpRule, TlsMatch, TlsRule};

/// Where requests for a host go.
pub type VirtualService = Declared<VirtualServiceSpec>;

fields! {
    /// What a VirtualService says. The first rule that matches counts.
    VirtualServiceSpec {
        hosts: Vec<String>,
        /// `mesh` if absent.
        gateways: Vec<String>,
        http: Vec<HttpRule>,
        tls: Vec<TlsRule>,
        tcp: Vec<TcpRule>,
        export_to: Vec<String>,
    }

    /// Which requests, and what becomes of them: one of route, redirect, direct response and delegate.
    HttpRule {
        name: Option<String>,
        /// Alternatives. Without any, every request.
        r#match: Vec<HttpMatch>,
        route: Vec<RouteDestination>,
        redirect: Option<Redirect>,
        direct_response: Option<DirectResponse>,
        delegate: Option<Delegate>,
        rewrite: Option<Rewrite>,
        timeout: Option<String>,
        retries: Option<Retries>,
        fault: Option<Fault>,
        mirror: Option<Destination>,
        mirror_percentage: Option<Percent>,
        mirrors: Vec<Mirror>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }

    /// Where a share of requests goes.
    RouteDestination {
        destination: Destination,
        weight: Option<i64>,
        headers: Option<Headers>,
    }

    /// A service, or some of its endpoints.
    Destination {
        host: String,
        subset: Option<String>,
        port: Option<DestinationPort>,
    }

    /// A port of a service.
    DestinationPort {
        number: i64,
    }

    /// Another VirtualService, whose rules stand here.
    Delegate {
        name: String,
        namespace: Option<String>,
    }
}
