use super::*;

fn header(key: &str, value: &str) -> wire::HeaderValue {
    wire::HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        raw_value: Bytes::new(),
    }
}

fn status(remaining: u32, reset: Duration) -> wire::DescriptorStatus {
    wire::DescriptorStatus {
        code: wire::Code::Ok.into(),
        current_limit: Some(wire::CurrentLimit {
            requests_per_unit: 10,
            unit: wire::Unit::Minute.into(),
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(reset.try_into().unwrap()),
    }
}

#[test]
fn an_answer_is_taken_as_a_whole() {
    let response = wire::RateLimitResponse {
        overall_code: wire::Code::OverLimit.into(),
        statuses: vec![
            wire::DescriptorStatus::default(),
            status(7, Duration::from_secs(3)),
            status(2, Duration::from_millis(3001)),
        ],
        response_headers_to_add: vec![
            header("x-told", "1"),
            header("transfer-encoding", "x"),
            header("no name", "1"),
        ],
        request_headers_to_add: vec![header("x-for", "2")],
        raw_body: Bytes::from("enough"),
    };
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let expected = Said {
        is_over: true,
        // There is none.
        to_endpoint: Vec::new(),
        to_client: vec![(name("x-told"), value("1"))],
        body: Bytes::from("enough"),
        left: Some(Left {
            of: 10,
            left: 2,
            reset: 4,
        }),
    };
    assert_eq!(said(response).unwrap(), expected);
    let passes = wire::RateLimitResponse {
        overall_code: wire::Code::Ok.into(),
        request_headers_to_add: vec![header("x-for", "2"), header(":path", "/other")],
        ..wire::RateLimitResponse::default()
    };
    let passes = said(passes).unwrap();
    assert_eq!(passes.to_endpoint, [(name("x-for"), value("2"))]);
}

#[test]
fn an_answer_that_says_nothing_is_none() {
    let unknown = said(wire::RateLimitResponse::default());
    assert!(matches!(unknown, Err(Unanswered::Malformed(_))));
    let response = wire::RateLimitResponse {
        overall_code: wire::Code::Ok.into(),
        request_headers_to_add: vec![header("no name", "1")],
        ..wire::RateLimitResponse::default()
    };
    assert!(matches!(said(response), Err(Unanswered::Malformed(_))));
}
