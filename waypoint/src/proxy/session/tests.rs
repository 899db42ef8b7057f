use tulle_model::ServiceKey;

use super::*;

fn persistence(by: PersistsBy) -> Persistence {
    Persistence {
        by,
        lasts: Some(Duration::from_secs(100)),
        idle: None,
    }
}

fn by_header() -> Persistence {
    persistence(PersistsBy::Header("x-session".to_owned()))
}

fn by_cookie(permanent: bool) -> Persistence {
    persistence(PersistsBy::Cookie {
        name: "s".to_owned(),
        path: Some("/a".to_owned()),
        permanent,
    })
}

fn backend(subset: Option<&str>) -> BackendService {
    BackendService {
        key: ServiceKey::new("shop", "web.shop.svc.cluster.local"),
        port: Some(80),
        subset: subset.map(str::to_owned),
    }
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.parse().unwrap());
    headers
}

/// What a response says, at some time, to a request with these headers.
fn told(of: &Persistence, request: &HeaderMap, now: u32, endpoint: &str) -> Option<String> {
    let session = Session::at(Cow::Borrowed(of), request, now);
    let told = session.tells(Some(&backend(None)), &Uid::new(endpoint));
    told.map(|(_, value)| value.to_str().unwrap().to_owned())
}

#[test]
fn a_session_stays_where_it_began() {
    let of = by_header();
    let first = told(&of, &HeaderMap::new(), 1000, "a").unwrap();
    let again = with("x-session", &first);
    let session = Session::at(Cow::Borrowed(&of), &again, 1050);
    let name = endpoint_name(&Uid::new("a"));
    assert_eq!(session.endpoint(Some(&backend(None))), Some(name));
    for other in [None, Some(&backend(Some("v2")))] {
        assert_eq!(session.endpoint(other), None);
    }
    // The client knows that.
    assert_eq!(told(&of, &again, 1050, "a"), None);
    // Another one has answered: from now on it is that one.
    let moved = told(&of, &again, 1050, "b").unwrap();
    assert_ne!(moved, first);
    assert_eq!(told(&of, &with("x-session", &moved), 1149, "b"), None);
}

#[test]
fn sessions_end() {
    let mut of = by_header();
    let request = with(
        "x-session",
        &told(&of, &HeaderMap::new(), 1000, "a").unwrap(),
    );
    let is_there = |of: &Persistence, request: &HeaderMap, now| {
        Session::at(Cow::Borrowed(of), request, now)
            .endpoint(Some(&backend(None)))
            .is_some()
    };
    assert!(is_there(&of, &request, 1099));
    assert!(!is_there(&of, &request, 1100));
    // Of a clock that is ahead.
    assert!(is_there(&of, &request, 940));
    // Made up, so as not to end.
    assert!(!is_there(&of, &request, 939));
    of.idle = Some(Duration::from_secs(10));
    assert!(is_there(&of, &request, 1009));
    assert!(!is_there(&of, &request, 1010));
    // Each request makes it last, but not for ever.
    let mut request = request;
    for now in (1005..1100).step_by(5) {
        request = with("x-session", &told(&of, &request, now, "a").unwrap());
    }
    assert!(is_there(&of, &request, 1099));
    assert!(!is_there(&of, &request, 1100));
}

#[test]
fn cookies_are_for_their_path_and_last_as_long_as_they_should() {
    let cookie = told(&by_cookie(true), &HeaderMap::new(), 1000, "a").unwrap();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=100; Path=/a; HttpOnly");
    let again = with("cookie", &format!("x=y; {pair}"));
    assert_eq!(told(&by_cookie(true), &again, 1001, "a"), None);
    let other = told(&by_cookie(true), &HeaderMap::new(), 800, "b").unwrap();
    let (over, _) = other.split_once("; ").unwrap();
    let both = with("cookie", &format!("s=other; {over}; {pair}"));
    assert_eq!(told(&by_cookie(true), &both, 1001, "a"), None);
    let cookie = told(&by_cookie(false), &HeaderMap::new(), 1000, "a").unwrap();
    assert!(cookie.ends_with("\"; Path=/a; HttpOnly"), "{cookie}");
    let mut of = by_cookie(true);
    of.idle = Some(Duration::from_secs(50));
    let later = told(&of, &again, 1040, "a").unwrap();
    assert!(later.contains("; Max-Age=60;"), "{later}");
}

#[test]
fn what_clients_make_up_is_passed_over() {
    let of = by_header();
    let good = told(&of, &HeaderMap::new(), 1000, "a").unwrap();
    for bad in [
        String::new(),
        "a".to_owned(),
        format!("{good}0"),
        good.replacen(|_| true, "+", 1),
        good.replacen(|_| true, "g", 1),
        "ü".repeat(20),
    ] {
        let mut request = HeaderMap::new();
        let value = HeaderValue::from_bytes(bad.as_bytes()).unwrap();
        request.insert("x-session", value);
        assert!(told(&of, &request, 1000, "a").is_some(), "{bad}");
    }
}
