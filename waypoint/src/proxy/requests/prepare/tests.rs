use bytes::Bytes;
use http_body_util::Full;

use super::*;

fn request(version: Version, target: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.version_mut() = version;
    *request.uri_mut() = target.parse().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

#[test]
fn a_request_names_one_host() {
    for (target, hosts, expected) in [
        ("/", &[("host", "a")][..], Some("a")),
        ("/", &[("host", "a:80")], Some("a:80")),
        ("http://a/", &[("host", "a")], Some("a")),
        ("http://a/", &[], Some("a")),
        ("http://a/", &[("host", "b")], None),
        ("/", &[], None),
        ("/", &[("host", "a"), ("host", "a")], None),
        ("/", &[("host", "user@a")], None),
        ("/", &[("host", "a b")], None),
        ("/", &[("host", "")], None),
    ] {
        let mut request = request(Version::HTTP_11, target, hosts);
        let prepared = prepare(&mut request).is_ok();
        let actual = prepared.then(|| request.uri().authority().unwrap().as_str().to_owned());
        assert_eq!(actual.as_deref(), expected, "{target} {hosts:?}");
        assert!(!prepared || request.headers().get(header::HOST).is_none());
    }
}

#[test]
fn what_is_for_one_hop_ends_there() {
    let mut request = request(
        Version::HTTP_11,
        "/",
        &[
            ("host", "a"),
            ("connection", "keep-alive, X-Secret"),
            ("keep-alive", "5"),
            ("x-secret", "1"),
            ("te", "trailers, deflate"),
            ("upgrade", "h2c"),
            ("x-envoy-peer-metadata", "x"),
            ("x-kept", "1"),
        ],
    );
    assert!(prepare(&mut request).is_ok());
    let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["te", "x-forwarded-proto", "x-kept", "x-request-id"]);
    assert_eq!(request.headers()["te"], "trailers");
}

#[test]
fn each_version_is_spoken_in_its_own_way() {
    let mut request = request(Version::HTTP_2, "http://a:80/b?c", &[]);
    assert!(prepare(&mut request).is_ok());
    let mut request = request.map(|()| Full::new(Bytes::from("body")));
    for_http1(&mut request);
    assert_eq!(request.uri(), "/b?c");
    assert_eq!(request.headers()[header::HOST], "a:80");
    assert_eq!(request.headers()[header::TRANSFER_ENCODING], "chunked");
    // Who says how long a body is need not say more, nor does who has none.
    let mut counted = request.clone();
    counted.headers_mut().remove(header::TRANSFER_ENCODING);
    counted
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from_static("4"));
    for_http1(&mut counted);
    assert!(!counted.headers().contains_key(header::TRANSFER_ENCODING));
    let mut empty = request.map(|_| Full::new(Bytes::new()));
    empty.headers_mut().remove(header::TRANSFER_ENCODING);
    for_http1(&mut empty);
    assert!(!empty.headers().contains_key(header::TRANSFER_ENCODING));
}

#[test]
fn old_versions_and_tunnels_are_refused() {
    let mut old = request(Version::HTTP_10, "/", &[("host", "a")]);
    assert_eq!(
        prepare(&mut old).unwrap_err().status,
        StatusCode::UPGRADE_REQUIRED
    );
    let mut tunnel = request(Version::HTTP_11, "/", &[("host", "a")]);
    *tunnel.method_mut() = Method::CONNECT;
    assert_eq!(
        prepare(&mut tunnel).unwrap_err().status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[test]
fn ids_are_random_uuids() {
    let (one, two) = (uuid(), uuid());
    assert_ne!(one, two);
    let parts: Vec<usize> = one.split('-').map(str::len).collect();
    assert_eq!(parts, [8, 4, 4, 4, 12]);
    assert_eq!(one.as_bytes()[14], b'4');
    assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
}
