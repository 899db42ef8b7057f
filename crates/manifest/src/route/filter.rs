//! What a route changes about requests and responses, or does besides.

use serde::de::IgnoredAny;

use crate::fields::fields;

fields! {
    /// One filter. Its type says which of the other fields counts.
    RouteFilter {
        r#type: String,
        request_header_modifier: Option<HeaderModifier>,
        response_header_modifier: Option<HeaderModifier>,
        request_mirror: Option<RequestMirror>,
        request_redirect: Option<RequestRedirect>,
        url_rewrite: Option<UrlRewrite>,
        cors: Option<CorsFilter>,
        external_auth: Option<IgnoredAny>,
        extension_ref: Option<IgnoredAny>,
    }

    /// Headers that are changed.
    HeaderModifier {
        set: Vec<HeaderValue>,
        add: Vec<HeaderValue>,
        remove: Vec<String>,
    }

    /// A header.
    HeaderValue {
        name: String,
        value: String,
    }

    /// That a copy of each request goes elsewhere, and its response nowhere.
    RequestMirror {
        backend_ref: ObjectReference,
        percent: Option<i64>,
        fraction: Option<Fraction>,
    }

    /// A backend, without a weight.
    ObjectReference {
        /// Empty, which is that of services, if absent.
        group: Option<String>,
        /// `Service` if absent.
        kind: Option<String>,
        /// The route's if absent.
        namespace: Option<String>,
        name: String,
        port: Option<i64>,
    }

    /// A share.
    Fraction {
        numerator: i64,
        /// 100 if absent.
        denominator: Option<i64>,
    }

    /// That clients are sent elsewhere.
    RequestRedirect {
        scheme: Option<String>,
        hostname: Option<String>,
        path: Option<PathModifier>,
        port: Option<i64>,
        /// 302 if absent.
        status_code: Option<i64>,
    }

    /// That a backend sees another name or path.
    UrlRewrite {
        hostname: Option<String>,
        path: Option<PathModifier>,
    }

    /// Another path.
    PathModifier {
        /// `ReplaceFullPath` or `ReplacePrefixMatch`.
        r#type: String,
        replace_full_path: Option<String>,
        replace_prefix_match: Option<String>,
    }

    /// Which pages may call.
    CorsFilter {
        allow_origins: Vec<String>,
        allow_credentials: Option<bool>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        /// Seconds; 5 if absent.
        max_age: Option<i64>,
    }
}
