use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use tulle_model::{
    ServiceKey,
    http::{
        Abort, Action, Alternative, Backend, BackendService, Cors, Fault, HeaderChanges, MatchKind,
        Mirror, NamedMatch, PathChange, Persistence, PersistsBy, Redirect, Retry, RetryOn, Rewrite,
        Routes, Rule, StringMatch,
    },
};
use tulle_proto::mesh as wire;

use crate::{
    Configuration,
    decode::{self, InvalidResource},
    encode,
};

/// Says something in each field.
fn everything() -> Routes {
    let text = |text: &str| text.to_owned();
    let second = Duration::from_secs(1);
    let changes = |name: &str| HeaderChanges {
        set: vec![(text(name), text("1"))],
        add: vec![(text(name), text("2"))],
        remove: vec![text(name)],
    };
    let backend = Backend {
        weight: 7,
        service: Some(BackendService {
            key: ServiceKey::new("shop", "v2.shop"),
            port: Some(8080),
            subset: Some("v2".to_owned()),
        }),
        request_headers: changes("a"),
        response_headers: changes("b"),
    };
    let named = |kind| NamedMatch {
        name: text("n"),
        value: StringMatch {
            kind,
            ignore_case: true,
        },
        inverted: true,
    };
    let exact = |word: &str| Some(MatchKind::Exact(text(word)).into());
    let rule = |action| Rule {
        name: text("HTTPRoute/shop/web/0"),
        action,
        request_headers: changes("c"),
        response_headers: changes("d"),
        rewrite: Rewrite {
            authority: Some(text("other")),
            path: Some(PathChange::Elements(text("/x"))),
        },
        timeout: Some(second * 3),
        try_timeout: Some(second),
        try_ends_response: true,
        retry: Some(Retry {
            attempts: 2,
            on: vec![
                RetryOn::ConnectFailure,
                RetryOn::RefusedStream,
                RetryOn::ResetBeforeRequest,
                RetryOn::Reset,
                RetryOn::GatewayError,
                RetryOn::ServerError,
                RetryOn::Retriable4xx,
                RetryOn::RateLimited,
                RetryOn::GrpcCancelled,
                RetryOn::GrpcDeadlineExceeded,
                RetryOn::GrpcResourceExhausted,
                RetryOn::GrpcInternal,
                RetryOn::GrpcUnavailable,
            ],
            statuses: vec![429, 503],
            backoff: Some(Duration::from_millis(25)),
        }),
        mirrors: vec![Mirror {
            backend: backend.clone(),
            share: 500_000,
        }],
        fault: Fault {
            delay: Some((second, 1)),
            abort: Some((Abort::Grpc(14), 2)),
        },
        persistence: Some(Persistence {
            by: PersistsBy::Cookie {
                name: text("session"),
                path: Some(text("/x")),
                permanent: true,
            },
            lasts: Some(second * 3600),
            idle: None,
        }),
        cors: Some(Cors {
            origins: vec![MatchKind::Regex(text("a.*")).into()],
            methods: vec![text("PUT")],
            headers: vec![text("x-a")],
            expose: vec![text("x-b")],
            max_age: Some(Duration::ZERO),
            credentials: true,
            forward_unmatched: true,
        }),
    };
    let redirect = |path| Redirect {
        scheme: Some(text("https")),
        host: Some(text("example.com")),
        port: Some(8443),
        path: Some(path),
        status: 301,
    };
    let refused = Backend {
        service: None,
        ..backend.clone()
    };
    let same_port = Backend {
        service: backend.service.clone().map(|service| BackendService {
            port: None,
            ..service
        }),
        ..backend.clone()
    };
    Routes {
        service: ServiceKey::new("shop", "web.shop.svc.cluster.local"),
        alternatives: vec![Alternative {
            rule: 3,
            ports: vec![80, 81],
            path: Some(MatchKind::Elements(text("/a")).into()),
            method: exact("GET"),
            scheme: exact("http"),
            authority: exact("web"),
            headers: vec![
                named(MatchKind::Present),
                named(MatchKind::Regex(text("x"))),
            ],
            query: vec![named(MatchKind::Prefix(text("p")))],
        }],
        rules: vec![
            rule(Action::Forward(vec![backend.clone(), refused, same_port])),
            rule(Action::Redirect(redirect(PathChange::Full(text("/f"))))),
            rule(Action::Redirect(redirect(PathChange::Prefix(text("/p"))))),
            rule(Action::Redirect(redirect(PathChange::Regex {
                pattern: text("a(b)"),
                substitution: text("$1"),
            }))),
            rule(Action::Respond {
                status: 418,
                body: b"tea".to_vec(),
            }),
            Rule {
                fault: Fault {
                    delay: None,
                    abort: Some((Abort::Status(503), 1)),
                },
                ..Rule::default()
            },
        ],
    }
}

#[test]
fn routes_round_trip() {
    let routes = Configuration::Routes(Box::new(everything()));
    let bytes = encode::configuration(&routes);
    assert_eq!(decode::configuration(&bytes).unwrap(), routes);
}

#[test]
fn routes_that_are_not_fully_understood_are_rejected() {
    let refused = |edit: &dyn Fn(&mut wire::Routes)| {
        let routes = Configuration::Routes(Box::new(everything()));
        let mut message = wire::Configuration::decode(&*encode::configuration(&routes)).unwrap();
        let Some(wire::configuration::Kind::Routes(routes)) = &mut message.kind else {
            panic!("{message:?}");
        };
        edit(routes);
        decode::configuration(&message.encode_to_vec()).unwrap_err()
    };
    let missing = |what| InvalidResource::Missing(what);
    assert_eq!(
        refused(&|routes| routes.alternatives[0].rule = 6),
        missing("rule of an alternative")
    );
    assert_eq!(
        refused(&|routes| routes.alternatives[0].path.as_mut().unwrap().kind = None),
        missing("match")
    );
    assert_eq!(
        refused(&|routes| routes.alternatives[0].headers[0].value = None),
        missing("match")
    );
    assert_eq!(
        refused(&|routes| routes.rules[0].action = None),
        missing("action of a rule")
    );
    let port = InvalidResource::Port {
        field: "ports",
        value: 65_536,
    };
    assert_eq!(
        refused(&|routes| routes.alternatives[0].ports[0] = 65_536),
        port
    );
    let status = InvalidResource::Status { value: 99 };
    assert_eq!(
        refused(&|routes| routes.rules[0].retry.as_mut().unwrap().statuses[0] = 99),
        status
    );
    let unknown = InvalidResource::Enum {
        field: "retry",
        value: 99,
    };
    assert_eq!(
        refused(&|routes| routes.rules[0].retry.as_mut().unwrap().on[0] = 99),
        unknown
    );
    let empty = wire::Configuration::default().encode_to_vec();
    assert_eq!(decode::configuration(&empty).unwrap_err(), missing("kind"));
}

proptest! {
    #[test]
    fn damaged_routes_never_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode::configuration(&Configuration::Routes(Box::new(everything())));
        let at = at.index(bytes.len());
        bytes[at] = value;
        let whole = bytes.len();
        bytes.truncate(cut.index(whole + 1));
        let _ = decode::configuration(&bytes);
    }
}
