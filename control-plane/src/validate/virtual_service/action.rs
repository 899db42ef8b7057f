//! What a VirtualService does with requests, besides sending them somewhere.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use tulle_manifest::virtual_service::{
    Abort, CorsPolicy, Delay, DirectResponse, Fault, HeaderOperations, Headers, Redirect, Retries,
    Rewrite,
};

use super::{super::Check, string};

pub(super) fn redirect(check: &mut Check, redirect: &Redirect) {
    check.alternatives(&[
        ("uri", redirect.uri.is_some()),
        ("prefixRewrite", redirect.prefix_rewrite.is_some()),
    ]);
    check.alternatives(&[
        ("port", redirect.port.is_some()),
        ("derivePort", redirect.derive_port.is_some()),
    ]);
    check.port("port", redirect.port);
    let derived = ["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"];
    check.word("derivePort", redirect.derive_port.as_deref(), &derived);
    check.word("scheme", redirect.scheme.as_deref(), &["http", "https"]);
    let code = redirect.redirect_code;
    if code.is_some_and(|code| ![0, 301, 302, 303, 307, 308].contains(&code)) {
        check.invalid("redirectCode", "is none of 301, 302, 303, 307, 308");
    }
    check.some("authority", &redirect.authority, |check, name| {
        check.header_value("", name)
    });
}

pub(super) fn direct_response(check: &mut Check, response: &DirectResponse) {
    check.within("status", Some(response.status), 200, 599);
    check.some("body", &response.body, |check, body| {
        check.one_of(&[
            ("string", body.string.is_some()),
            ("bytes", body.bytes.is_some()),
        ]);
        if body
            .string
            .as_ref()
            .is_some_and(|text| text.len() > LONGEST_BODY)
        {
            check.invalid("string", "is longer than 1 MiB");
        }
        check.some("bytes", &body.bytes, |check, bytes| {
            match BASE64_STANDARD.decode(bytes) {
                Err(_) => check.invalid("", "is no base64"),
                Ok(bytes) if bytes.len() > LONGEST_BODY => {
                    check.invalid("", "is longer than 1 MiB")
                }
                Ok(_) => {}
            }
        });
    });
}

pub(super) fn rewrite(check: &mut Check, rewrite: &Rewrite) {
    check.alternatives(&[
        ("uri", rewrite.uri.is_some()),
        ("uriRegexRewrite", rewrite.uri_regex_rewrite.is_some()),
    ]);
    if rewrite.uri.is_none() && rewrite.authority.is_none() && rewrite.uri_regex_rewrite.is_none() {
        check.invalid("", "rewrites nothing");
    }
    check.some("authority", &rewrite.authority, |check, name| {
        check.header_value("", name)
    });
    check.some(
        "uriRegexRewrite",
        &rewrite.uri_regex_rewrite,
        |check, regex| {
            if check.required("match", &regex.r#match) {
                check.pattern("match", &regex.r#match);
            }
            check.required("rewrite", &regex.rewrite);
        },
    );
}

pub(super) fn retries(check: &mut Check, retries: &Retries) {
    check.within("attempts", retries.attempts, 0, 1000);
    check.istio_duration("perTryTimeout", &retries.per_try_timeout, LEAST);
    check.istio_duration("backoff", &retries.backoff, LEAST);
    check.some("retryOn", &retries.retry_on, |check, text| {
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        for word in words {
            let code = word.parse::<u16>().ok();
            if code.is_some_and(|code| !(100..=599).contains(&code)) {
                check.invalid("", format!("{word} is no status"));
            } else if code.is_none() && UNSUPPORTED.contains(&word) {
                check.unsupported("", format!("{word} is not supported"));
            } else if code.is_none() && !RETRY_ON.contains(&word) {
                check.invalid("", format!("{word:?} is no reason to try again"));
            }
        }
    });
}

pub(super) fn fault(check: &mut Check, fault: &Fault) {
    if fault.delay.is_none() && fault.abort.is_none() {
        check.invalid("", "has neither delay nor abort");
    }
    check.some(
        "delay",
        &fault.delay,
        |check,
         Delay {
             fixed_delay,
             percentage,
             percent,
             ..
         }| {
            match fixed_delay {
                None => check.invalid("fixedDelay", "is missing"),
                Some(_) => check.istio_duration("fixedDelay", fixed_delay, LEAST),
            }
            check.within("percent", *percent, 0, 100);
            check.at("percentage", |check| check.percent("value", percentage));
            if percentage.is_none() && percent.is_none() {
                check.ignored(
                    "percentage",
                    "no effect: without a percentage nothing is delayed",
                );
            }
        },
    );
    check.some(
        "abort",
        &fault.abort,
        |check,
         Abort {
             http_status,
             grpc_status,
             percentage,
             ..
         }| {
            check.one_of(&[
                ("httpStatus", http_status.is_some()),
                ("grpcStatus", grpc_status.is_some()),
            ]);
            check.within("httpStatus", *http_status, 200, 599);
            check.word("grpcStatus", grpc_status.as_deref(), &GRPC_STATUS);
            check.at("percentage", |check| check.percent("value", percentage));
            if percentage.is_none() {
                check.ignored(
                    "percentage",
                    "no effect: without a percentage nothing is aborted",
                );
            }
        },
    );
}

pub(super) fn cors(check: &mut Check, cors: &CorsPolicy) {
    check.each("allowOrigins", &cors.allow_origins, |check, origin| {
        if origin.exact.is_none() && origin.prefix.is_none() && origin.regex.is_none() {
            check.invalid("", "is one of exact, prefix and regex");
        }
        string(check, origin);
    });
    check.cors_headers("allowHeaders", &cors.allow_headers);
    check.cors_headers("exposeHeaders", &cors.expose_headers);
    check.cors_methods("allowMethods", &cors.allow_methods);
    check.istio_duration("maxAge", &cors.max_age, Duration::ZERO);
    let unmatched = cors.unmatched_preflights.as_deref();
    check.word(
        "unmatchedPreflights",
        unmatched,
        &["UNSPECIFIED", "FORWARD", "IGNORE"],
    );
}

pub(super) fn headers(check: &mut Check, headers: &Headers) {
    check.some("request", &headers.request, operations);
    check.some("response", &headers.response, operations);
}

fn operations(check: &mut Check, operations: &HeaderOperations) {
    for (field, values) in [("set", &operations.set), ("add", &operations.add)] {
        check.each_of(field, values, |check, name, value| {
            match name.strip_prefix(':') {
                // As `host`: another name.
                Some("authority") if field == "set" => {}
                Some(_) => check.unsupported("", "is no header, and cannot be changed"),
                None => check.header_name("", name),
            }
            check.header_value("", value);
            // `%%` is one.
            if value.replace("%%", "").contains('%') {
                check.unsupported(
                    "",
                    "has an operator such as %REQ(x)%, which is not supported",
                );
            }
        });
    }
    check.each("remove", &operations.remove, |check, name| {
        if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            check.invalid("", format!("{name} cannot be removed"));
        } else {
            check.header_name("", name);
        }
    });
}

const LEAST: Duration = Duration::from_millis(1);
const LONGEST_BODY: usize = 1 << 20;
const RETRY_ON: [&str; 14] = [
    "5xx",
    "gateway-error",
    "connect-failure",
    "refused-stream",
    "reset",
    "reset-before-request",
    "retriable-4xx",
    "retriable-status-codes",
    "envoy-ratelimited",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
/// Which headers, nobody can say; and there is no QUIC.
const UNSUPPORTED: [&str; 2] = ["retriable-headers", "http3-post-connect-failure"];
/// Names, by their numbers.
pub(crate) const GRPC_STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
