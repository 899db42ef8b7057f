use std::borrow::Cow;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// A request that was not found.
struct Seen;

impl Facts for Seen {
    fn value(&self, fact: Fact) -> Option<Value<'_>> {
        let text = |text| Some(Value::Text(Cow::Borrowed(text)));
        match fact {
            Fact::Path => text("/items/1?q=a"),
            Fact::Method => text("GET"),
            Fact::ResponseCode => Some(Value::Number(404)),
            Fact::MutualTls => Some(Value::Bool(true)),
            Fact::SourceNamespace => text("shop"),
            _ => None,
        }
    }

    fn headers(&self, of: Headers) -> Vec<(String, String)> {
        match of {
            Headers::Request => vec![("x-team".to_owned(), "red".to_owned())],
            Headers::Response | Headers::Trailers => Vec::new(),
        }
    }
}

fn holds(text: &str) -> bool {
    Expression::new(text).unwrap().holds(&Seen)
}

fn text(text: &str) -> Option<String> {
    Expression::new(text).unwrap().text(&Seen)
}

#[test]
fn facts_decide() {
    for so in [
        "response.code >= 400",
        "response.code == 404 && connection.mtls",
        "request.path.startsWith('/items')",
        "request.path.matches('^/items/[0-9]+')",
        "request.path.matches('^/x') || request.path.matches('q=a$')",
        "request.headers['x-team'] == 'red'",
        "'x-team' in request.headers",
        "has(request.headers) && !('x-other' in request.headers)",
        "request.method in ['GET', 'HEAD']",
        "downstream_peer.namespace == \"shop\"",
        "has(request.path) && !has(response.grpc_status)",
        "size(request.path) > 3 ? true : false",
    ] {
        assert!(holds(so), "{so}");
    }
    for not in [
        "response.code < 400",
        "false",
        "request.method == 'POST'",
        // What is not known, and what is no answer to the question, is not so.
        "response.grpc_status == 0",
        "request.headers['x-other'] == 'red'",
        "response.code == 'a'",
        "request.path",
        "1",
    ] {
        assert!(!holds(not), "{not}");
    }
}

#[test]
fn facts_are_told() {
    assert_eq!(text("request.method").as_deref(), Some("GET"));
    assert_eq!(text("response.code").as_deref(), Some("404"));
    assert_eq!(text("connection.mtls").as_deref(), Some("true"));
    assert_eq!(
        text("'of ' + downstream_peer.namespace").as_deref(),
        Some("of shop")
    );
    let shared = "request.headers['x-other']";
    assert_eq!(text(shared), None);
    let otherwise = "'x-other' in request.headers ? request.headers['x-other'] : 'none'";
    assert_eq!(text(otherwise).as_deref(), Some("none"));
    assert_eq!(text("['a']"), None);
}

#[test]
fn what_nobody_knows_is_refused() {
    for unknown in [
        "a",
        "request.later",
        "xyz.path == 'a'",
        "request",
        "size(a) > 1",
    ] {
        let refused = Expression::new(unknown);
        assert!(
            matches!(refused, Err(InvalidExpression::Unknown(_))),
            "{unknown}: {refused:?}"
        );
    }
    for broken in [
        "",
        "1 +",
        "request.path ==",
        "'a",
        "(",
        "request..path",
        "a b",
    ] {
        let refused = Expression::new(broken);
        assert!(
            matches!(refused, Err(InvalidExpression::Syntax(_))),
            "{broken}: {refused:?}"
        );
    }
    for misspelt in [
        "request.path.startWith('/a')",
        "size()",
        "request.path.size(1)",
        "later(1)",
        "fits0(1)",
        "request.path.startsWith()",
    ] {
        let refused = Expression::new(misspelt);
        assert!(
            matches!(refused, Err(InvalidExpression::Function(_))),
            "{misspelt}: {refused:?}"
        );
    }
    for pattern in [
        "request.path.matches('(')",
        "request.path.matches(request.host)",
        "request.path.matches('\\\\pL{900}')",
    ] {
        let refused = Expression::new(pattern);
        assert!(
            matches!(refused, Err(InvalidExpression::Pattern(_))),
            "{pattern}: {refused:?}"
        );
    }
    let lists = "['a'].exists(x, x == request.path)";
    assert!(matches!(
        Expression::new(lists),
        Err(InvalidExpression::Unsupported(_))
    ));
}

/// As much as a thread of the data plane has.
fn with_little_stack(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        thread.spawn_scoped(scope, run).unwrap().join().unwrap();
    });
}

#[test]
fn none_is_too_deep_for_a_thread() {
    with_little_stack(|| {
        let of = |part: &str, end: &str, close: &str| {
            [10, 30, 60, 70, 200, 400].map(|times| {
                let text = format!("{}{end}{}", part.repeat(times), close.repeat(times));
                Expression::new(&text).map(|made| made.holds(&Seen)).is_ok()
            })
        };
        let deep = of("(", "true", ")");
        assert!(deep[0] && !deep[4], "{deep:?}");
        for (part, end, close) in [
            ("!", "true", ""),
            ("-", "1", ""),
            ("! ", "true", ""),
            ("[", "1", "]"),
            ("1+", "1", ""),
            ("a.", "b", ""),
            ("request.headers", "x", ""),
            ("true?1:", "2", ""),
            ("true||", "true", ""),
            ("{1:", "1", "}"),
            ("size(", "'a'", ")"),
            ("'a'", ".x", ".y"),
            ("'a' in ", "'a'", ""),
        ] {
            of(part, end, close);
        }
    });
}

#[test]
fn headers_are_kept_if_they_are_named() {
    let keeps = |text| Expression::new(text).unwrap().keeps();
    assert_eq!(keeps("response.code == 1"), Kept::default());
    assert!(keeps("request.headers['a'] == 'b'").request);
    assert!(!keeps("request.headers['a'] == 'b'").response);
    assert!(keeps("'a' in response.headers").response);
}

/// Pieces of expressions, and of what looks like some.
const PIECES: [&str; 58] = [
    "request.path",
    "response.code",
    "request.headers",
    "connection.mtls",
    "request",
    ".",
    "..",
    "path",
    "'a'",
    "'",
    "\"",
    r"'\d'",
    r"r'\d'",
    r"b'\xff'",
    r"'\u00e9'",
    r"'\uD800'",
    r"'\x'",
    r"'\777'",
    "1",
    "1u",
    "0x",
    "0xffffffffffffffffff",
    "9223372036854775808",
    "1e999",
    "1.",
    "-",
    "!",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "?",
    ":",
    ",",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    "+",
    "*",
    "/",
    "%",
    " in ",
    "has(",
    "size(",
    ".matches('",
    ".exists(x, x)",
    ".map(x, x)",
    "true",
    "null",
    "//",
    "\n",
    "\0",
    "\u{1f600}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn none_is_read_or_evaluated_in_panic(pieces in vec(select(PIECES.to_vec()), 0..24), any in ".{0,60}") {
        for text in [pieces.concat(), pieces.join(" "), any] {
            if let Ok(made) = Expression::new(&text) {
                made.holds(&Seen);
                made.text(&Seen);
            }
        }
    }
}
