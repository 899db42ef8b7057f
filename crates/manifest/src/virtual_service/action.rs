//! What becomes of requests, besides going somewhere.

use std::collections::BTreeMap;

use super::{Destination, StringMatch};
use crate::fields::fields;

fields! {
    /// That clients are sent elsewhere.
    Redirect {
        uri: Option<String>,
        prefix_rewrite: Option<String>,
        authority: Option<String>,
        port: Option<i64>,
        derive_port: Option<String>,
        scheme: Option<String>,
        /// 301 if absent.
        redirect_code: Option<i64>,
    }

    /// That requests are answered at once.
    DirectResponse {
        status: i64,
        body: Option<HttpBody>,
    }

    /// What an answer says: one of these.
    HttpBody {
        string: Option<String>,
        /// Base64.
        bytes: Option<String>,
    }

    /// That a backend sees another name or path.
    Rewrite {
        uri: Option<String>,
        authority: Option<String>,
        uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// What of a path is replaced, and by what.
    RegexRewrite {
        r#match: String,
        rewrite: String,
    }

    /// Which failures are tried again.
    Retries {
        /// 0 for never.
        attempts: Option<i64>,
        per_try_timeout: Option<String>,
        /// A list with commas.
        retry_on: Option<String>,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<String>,
    }

    /// What goes wrong on purpose.
    Fault {
        delay: Option<Delay>,
        abort: Option<Abort>,
    }

    /// How long some requests wait.
    Delay {
        fixed_delay: Option<String>,
        percentage: Option<Percent>,
        /// A share in whole percent, in older files.
        percent: Option<i64>,
    }

    /// How some requests are answered: one of the first two.
    Abort {
        http_status: Option<i64>,
        grpc_status: Option<String>,
        percentage: Option<Percent>,
    }

    /// A share, 0 to 100.
    Percent {
        value: f64,
    }

    /// Where copies of requests go.
    Mirror {
        destination: Destination,
        percentage: Option<Percent>,
    }

    /// Which pages may call.
    CorsPolicy {
        allow_origins: Vec<StringMatch>,
        /// Exact origins, in older files.
        allow_origin: Vec<String>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<String>,
        allow_credentials: Option<bool>,
        unmatched_preflights: Option<String>,
    }

    /// Headers that are changed.
    Headers {
        request: Option<HeaderOperations>,
        response: Option<HeaderOperations>,
    }

    /// How they are changed.
    HeaderOperations {
        set: BTreeMap<String, String>,
        add: BTreeMap<String, String>,
        remove: Vec<String>,
    }
}
