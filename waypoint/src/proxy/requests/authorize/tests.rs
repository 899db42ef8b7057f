use http::{HeaderMap, Uri};
use prost::Message;
use tulle_model::authorizer::HttpQuestion;
use tulle_proto::authorizer as wire;

use super::{super::questions::Answered, *};

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

#[test]
fn headers_are_put_as_is_said() {
    let put = |how| {
        let mut changes = Changes::default();
        changes.put(name("a"), value("new"), how);
        changes.put(name("b"), value("new"), how);
        let mut request = Request::new(());
        request.headers_mut().insert("a", value("old"));
        changes.apply(&mut request).unwrap();
        let all = |name| {
            let values = request.headers().get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        [all("a"), all("b")]
    };
    assert_eq!(put(Put::Set), ["new", "new"]);
    assert_eq!(put(Put::Appended), ["old new", "new"]);
    assert_eq!(put(Put::IfAbsent), ["old", "new"]);
    assert_eq!(put(Put::IfThere), ["new", ""]);
}

#[test]
fn where_a_request_goes_and_how_is_not_changed() {
    let mut changes = Changes::default();
    for protected in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
    ] {
        changes.put(name(protected), value("1"), Put::Set);
        changes.remove(name(protected));
    }
    assert_eq!(changes, Changes::default());
}

#[test]
fn parameters_are_set_and_removed_by_name() {
    let after = |uri: &'static str| {
        let changes = Changes {
            query_remove: vec!["gone".to_owned()],
            query_set: vec![("set".to_owned(), "1".to_owned())],
            ..Changes::default()
        };
        let mut request = Request::new(());
        *request.uri_mut() = Uri::from_static(uri);
        changes.apply(&mut request).unwrap();
        request.uri().to_string()
    };
    assert_eq!(after("http://web/a"), "http://web/a?set=1");
    assert_eq!(
        after("http://web/a?gone=2&b&set=3&gone"),
        "http://web/a?b&set=1"
    );
    assert_eq!(after("http://web/a?gonee=1"), "http://web/a?gonee=1&set=1");
    assert_eq!(after("http://web/a?%67one=1&s%65t=2"), "http://web/a?set=1");
}

fn grpc_answer(message: &[u8], status: &'static str) -> Answered {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", value(status));
    Answered {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::copy_from_slice(message),
        trailers: Some(trailers),
    }
}

fn framed(response: &wire::CheckResponse) -> Vec<u8> {
    let bytes = response.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    framed.extend(bytes);
    framed
}

#[test]
fn only_what_is_clearly_a_yes_is_one() {
    let code = |code| wire::CheckResponse {
        status: Some(wire::Status {
            code,
            ..wire::Status::default()
        }),
        http_response: None,
    };
    let yes = framed(&code(0));
    let decided = grpc::decision(grpc_answer(&yes, "0"));
    assert!(matches!(decided, Ok(Decision::Permitted(changes)) if changes == Changes::default()));
    for no in [1, 7, 16, -1] {
        let decided = grpc::decision(grpc_answer(&framed(&code(no)), "0"));
        assert!(matches!(decided, Ok(Decision::Refused(_))), "{no}");
    }
    // A status of its own is worth more than what stands for a yes.
    let mixed = wire::CheckResponse {
        http_response: Some(wire::check_response::HttpResponse::OkResponse(
            wire::OkHttpResponse::default(),
        )),
        ..code(7)
    };
    let decided = grpc::decision(grpc_answer(&framed(&mixed), "0"));
    assert!(matches!(decided, Ok(Decision::Refused(_))));
    let mixed = wire::CheckResponse {
        http_response: Some(wire::check_response::HttpResponse::DeniedResponse(
            wire::DeniedHttpResponse::default(),
        )),
        ..code(0)
    };
    let decided = grpc::decision(grpc_answer(&framed(&mixed), "0"));
    assert!(matches!(decided, Ok(Decision::Refused(_))));
    // Cut, compressed, followed by something, or with a status of failure.
    let mut compressed = yes.clone();
    compressed[0] = 1;
    let longer = [yes.as_slice(), &[0]].concat();
    for bytes in [&yes[..yes.len() - 1], &[], &compressed, &longer] {
        assert!(
            grpc::decision(grpc_answer(bytes, "0")).is_err(),
            "{bytes:?}"
        );
    }
    assert!(grpc::decision(grpc_answer(&yes, "13")).is_err());
    let mut none = grpc_answer(&yes, "0");
    none.trailers = None;
    assert!(grpc::decision(none).is_err());
}

#[test]
fn statuses_of_http_decide() {
    let of = HttpQuestion::default();
    let answer = |status| Answered {
        status,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        trailers: None,
    };
    let decided = |status| http1::decision(&of, answer(status));
    assert!(matches!(
        decided(StatusCode::OK),
        Ok(Decision::Permitted(_))
    ));
    for (status, told) in [
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
        (StatusCode::FOUND, StatusCode::FOUND),
        // Nothing that a client could take for a yes.
        (StatusCode::NO_CONTENT, StatusCode::FORBIDDEN),
        (StatusCode::CREATED, StatusCode::FORBIDDEN),
    ] {
        let Ok(Decision::Refused(refused)) = decided(status) else {
            panic!("{status}");
        };
        assert_eq!(refused.status, told);
    }
    assert!(decided(StatusCode::BAD_GATEWAY).is_err());
}
