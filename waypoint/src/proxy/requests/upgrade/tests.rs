use http_body_util::{Empty, Full};

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn handshake() -> http::request::Builder {
    Request::builder()
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-key", KEY)
}

fn answer<B: Body>(request: &Request<B>) -> Result<bool, u16> {
    match asked(request) {
        Ok(asked) => Ok(asked.is_some()),
        Err(refusal) => Err(refusal.status.as_u16()),
    }
}

fn ask(builder: http::request::Builder) -> Result<bool, u16> {
    answer(&builder.body(Empty::<&[u8]>::new()).unwrap())
}

#[test]
fn what_asks_for_a_websocket_does_so_in_one_way() {
    assert_eq!(ask(handshake()), Ok(true));
    assert_eq!(ask(handshake().header("content-length", "0")), Ok(true));
    for (what, builder) in [
        ("a method", handshake().method("POST")),
        ("a body", handshake().header("transfer-encoding", "chunked")),
        ("two keys", handshake().header("sec-websocket-key", KEY)),
    ] {
        assert_eq!(ask(builder), Err(400), "{what}");
    }
    let with_body = handshake().body(Full::new(&b"GET / HTTP/1.1\r\n\r\n"[..]));
    assert_eq!(answer(&with_body.unwrap()), Err(400));
    let without_key = Request::builder()
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    assert_eq!(ask(without_key), Err(400));
}

#[test]
fn other_protocols_are_passed_over() {
    for (connection, upgrade) in [
        ("upgrade", "h2c"),
        ("upgrade", "TLS/1.2"),
        ("upgrade", "websockets"),
        ("keep-alive", "websocket"),
    ] {
        let builder = Request::builder()
            .method("POST")
            .header("connection", connection)
            .header("upgrade", upgrade);
        assert_eq!(ask(builder), Ok(false), "{connection} {upgrade}");
    }
    assert_eq!(ask(handshake().version(Version::HTTP_10)), Ok(false));
    // Nothing of it has a meaning there.
    assert_eq!(ask(handshake().version(Version::HTTP_2)), Ok(false));
}

#[test]
fn extended_connect_names_its_protocol() {
    let connect = |protocol: &'static str| {
        Request::builder()
            .version(Version::HTTP_2)
            .method("CONNECT")
            .uri("http://web.shop/chat")
            .extension(Protocol::from_static(protocol))
    };
    assert_eq!(ask(connect("websocket")), Ok(true));
    assert_eq!(ask(connect("connect-udp")), Err(501));
    let plain = Request::builder()
        .version(Version::HTTP_2)
        .method("CONNECT");
    assert_eq!(ask(plain), Ok(false));
}

/// The example of RFC 6455 §1.3.
#[test]
fn a_key_is_proved_to_have_been_read() {
    let key = HeaderValue::from_static(KEY);
    assert_eq!(accept(&key).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let made = new_key().unwrap();
    assert_eq!(BASE64_STANDARD.decode(&made).unwrap().len(), 16);
    assert_ne!(new_key().unwrap(), made);
    let mut headers = HeaderMap::new();
    assert!(!agrees(&headers, None));
    headers.insert("connection", UPGRADE);
    assert!(!agrees(&headers, None));
    headers.insert("upgrade", WEBSOCKET);
    // Who made the key looks at its proof.
    assert!(agrees(&headers, None));
    assert!(!agrees(&headers, Some(&key)));
    headers.insert("sec-websocket-accept", accept(&made).unwrap());
    assert!(!agrees(&headers, Some(&key)));
    headers.insert("sec-websocket-accept", accept(&key).unwrap());
    assert!(agrees(&headers, Some(&key)));
}

#[test]
fn each_version_asks_in_its_own_words() {
    let mut request = Request::new(());
    let made = for_http1(&Asked::Http2, &mut request).unwrap().unwrap();
    let headers = request.headers();
    assert_eq!(headers["sec-websocket-key"], made);
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(headers["connection"], "Upgrade");
    assert_eq!(headers["upgrade"], "websocket");
    for_http2(&mut request);
    assert_eq!(request.method(), "CONNECT");
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["sec-websocket-version"]);
    let asked = Asked::Http1(HeaderValue::from_static(KEY));
    let mut request = Request::new(());
    assert!(for_http1(&asked, &mut request).unwrap().is_none());
    assert_eq!(request.headers()["sec-websocket-key"], KEY);
}
