use std::{
    future::Future,
    pin::Pin,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};
use tulle_model::{
    PolicyKey,
    token::{KeyAddress, KeyFetch, PARTS, TokenField, TokenKeys},
};

use super::*;
use crate::testing::Signer;

fn rule(issuer: &str, keys: &[Value]) -> TokenRule {
    TokenRule {
        issuer: issuer.to_owned(),
        keys: TokenKeys::Written(json!({ "keys": keys }).to_string()),
        places: vec![
            TokenPlace::Header {
                name: "authorization".to_owned(),
                prefix: "Bearer ".to_owned(),
            },
            TokenPlace::Query("access_token".to_owned()),
        ],
        ..TokenRule::default()
    }
}

fn issuers(rules: Vec<TokenRule>) -> Arc<Issuers> {
    issuers_with(rules, &|_| unreachable!("all keys are written"))
}

fn issuers_with(rules: Vec<TokenRule>, sources: Sources<'_>) -> Arc<Issuers> {
    let policy = TokenPolicy {
        key: PolicyKey::new("shop", "jwt"),
        rules,
    };
    Arc::new(Issuers::new(&policy, sources))
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000)
}

/// What became of a request.
struct Seen {
    result: Result<Option<Arc<Token>>, Refused>,
    headers: HeaderMap,
    uri: Uri,
}

fn check(issuers: &Arc<Issuers>, uri: &str, headers: &[(&'static str, String)]) -> Seen {
    check_all(std::slice::from_ref(issuers), uri, headers)
}

fn check_all(all: &[Arc<Issuers>], uri: &str, headers: &[(&'static str, String)]) -> Seen {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    let mut uri: Uri = uri.parse().unwrap();
    let checked = Issuers::check(all, &map, &uri, now());
    if let Ok(checked) = &checked {
        checked.apply(&mut map, &mut uri);
    }
    Seen {
        result: checked.map(|checked| checked.valid.map(|valid| valid.token)),
        headers: map,
        uri,
    }
}

fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("authorization", format!("Bearer {token}"))]
}

/// The principal, or why there is none.
fn who(issuers: &Arc<Issuers>, token: &str) -> Result<String, Refused> {
    let token = check(issuers, "http://web/", &bearer(token)).result?;
    let values = token.map(|token| named(&token));
    Ok(values.unwrap_or_default())
}

/// Issuer and subject, with a slash between them.
fn named(token: &Token) -> String {
    token
        .values(&TokenField::Principal)
        .concat()
        .replace(PARTS, "/")
}

#[test]
fn only_what_the_issuer_has_signed_is_valid() {
    let (one, other) = (Signer::new("one"), Signer::new("other"));
    let all = issuers(vec![rule("a", &[one.public()])]);
    let claims = json!({ "iss": "a", "sub": "s" });
    assert_eq!(who(&all, &one.sign(&claims)), Ok("a/s".to_owned()));
    // Again, from what is remembered.
    let token = one.sign(&claims);
    for _ in 0..3 {
        assert_eq!(who(&all, &token), Ok("a/s".to_owned()));
    }
    let forged = |header: &Value| {
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", encoded(header), encoded(&claims))
    };
    let (start, signature) = token.rsplit_once('.').unwrap();
    let (header, _) = start.split_once('.').unwrap();
    let more = URL_SAFE_NO_PAD.encode(json!({ "iss": "a", "sub": "root" }).to_string());
    let critical = Header {
        crit: Some(vec!["exp".to_owned()]),
        ..Header::new(Algorithm::ES256)
    };
    for (what, token, expected) in [
        ("another key", other.sign(&claims), Refused::Signature),
        (
            "another issuer",
            one.sign(&json!({ "iss": "b", "sub": "s" })),
            Refused::Issuer,
        ),
        (
            "no issuer",
            one.sign(&json!({ "sub": "s" })),
            Refused::Issuer,
        ),
        (
            "no signature",
            forged(&json!({ "alg": "none" })),
            Refused::Signature,
        ),
        (
            "a symmetric one",
            forged(&json!({ "alg": "HS256" })),
            Refused::Signature,
        ),
        (
            "other claims",
            format!("{header}.{more}.{signature}"),
            Refused::Signature,
        ),
        (
            "something critical",
            one.sign_as(&critical, &claims),
            Refused::Signature,
        ),
        ("nothing at all", "x".to_owned(), Refused::Signature),
        ("nothing", String::new(), Refused::Signature),
    ] {
        assert_eq!(who(&all, &token), Err(expected), "{what}");
    }
    // Nobody knows its keys: none of its tokens is valid.
    let unknown = issuers(vec![rule("a", &[])]);
    assert_eq!(who(&unknown, &token), Err(Refused::Signature));
}

#[test]
fn keys_are_for_their_own_algorithm_and_name() {
    let one = Signer::new("one");
    let claims = json!({ "iss": "a", "sub": "s" });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut key = one.public();
        change(&mut key);
        issuers(vec![rule("a", &[key])])
    };
    let token = one.sign(&claims);
    assert!(who(&with(&|_| {}), &token).is_ok());
    assert!(who(&with(&|key| key["kid"] = json!("two")), &token).is_err());
    assert!(
        who(
            &with(&|key| drop(key.as_object_mut().unwrap().remove("kid"))),
            &token
        )
        .is_ok()
    );
    assert!(who(&with(&|key| key["alg"] = json!("RS256")), &token).is_err());
    assert!(who(&with(&|key| key["use"] = json!("enc")), &token).is_err());
    let symmetric = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode("secret") });
    assert!(who(&issuers(vec![rule("a", &[symmetric])]), &token).is_err());
    let unnamed = one.sign_as(&Header::new(Algorithm::ES256), &claims);
    assert!(who(&with(&|_| {}), &unnamed).is_ok());
}

#[test]
fn time_and_audience_count() {
    let one = Signer::new("one");
    let mut audience = rule("a", &[one.public()]);
    audience.audiences = vec!["shop".to_owned(), "web".to_owned()];
    let (all, only) = (
        issuers(vec![rule("a", &[one.public()])]),
        issuers(vec![audience]),
    );
    let now = 1_000_000;
    for (claims, expected) in [
        (json!({ "exp": now - 59 }), Ok(())),
        (json!({ "exp": now - 61 }), Err(Refused::Expired)),
        (json!({ "nbf": now + 59 }), Ok(())),
        (json!({ "nbf": now + 61 }), Err(Refused::Early)),
        (json!({ "exp": "never" }), Err(Refused::Signature)),
        (json!({ "nbf": -1 }), Err(Refused::Signature)),
        (json!({ "exp": 1e300 }), Err(Refused::Signature)),
    ] {
        let mut claims = claims;
        claims["iss"] = json!("a");
        let found = who(&all, &one.sign(&claims)).map(drop);
        assert_eq!(found, expected, "{claims}");
    }
    for (of, expected) in [
        (json!("web"), Ok(())),
        (json!(["other", "shop"]), Ok(())),
        (json!("other"), Err(Refused::Audience)),
        (json!(null), Err(Refused::Audience)),
    ] {
        let claims = json!({ "iss": "a", "aud": of });
        let found = who(&only, &one.sign(&claims)).map(drop);
        assert_eq!(found, expected, "{claims}");
    }
    assert_eq!(
        (Refused::Audience.status(), Refused::Expired.status()),
        (403, 401)
    );
}

#[test]
fn one_rule_suffices_and_all_may_find_nothing() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let mut second = rule("b", &[two.public()]);
    second.places = vec![TokenPlace::Header {
        name: "x-token".to_owned(),
        prefix: String::new(),
    }];
    let all = issuers(vec![rule("a", &[one.public()]), second]);
    let a = one.sign(&json!({ "iss": "a", "sub": "s" }));
    let b = two.sign(&json!({ "iss": "b", "sub": "t" }));
    let header = |a: Option<&str>, b: Option<&str>| {
        let a = a.map(|a| ("authorization", format!("Bearer {a}")));
        let b = b.map(|b| ("x-token", b.to_owned()));
        let headers: Vec<_> = a.into_iter().chain(b).collect();
        let token = check(&all, "http://web/", &headers).result?;
        Ok::<_, Refused>(token.map(|token| named(&token)))
    };
    assert_eq!(header(None, None), Ok(None));
    assert_eq!(header(Some(&a), None), Ok(Some("a/s".to_owned())));
    assert_eq!(header(None, Some(&b)), Ok(Some("b/t".to_owned())));
    assert_eq!(header(Some(&a), Some("x")), Ok(Some("a/s".to_owned())));
    assert_eq!(header(Some("x"), None), Err(Refused::Signature));
    // Of several tokens at the places of one rule, each has to be valid.
    let both = [bearer(&a), bearer("x")].concat();
    assert!(check(&all, "http://web/", &both).result.is_err());
}

#[test]
fn endpoints_see_claims_and_no_token() {
    let one = Signer::new("one");
    let mut tells = rule("a", &[one.public()]);
    tells.payload_header = Some("x-payload".to_owned());
    tells.claim_headers = [
        ("x-sub", "sub"),
        ("x-deep", "a.b"),
        ("x-list", "list"),
        ("x-yes", "yes"),
    ]
    .map(|(header, claim)| (header.to_owned(), claim.to_owned()))
    .to_vec();
    let mut keeps = tells.clone();
    keeps.forward = true;
    let claims = json!({ "iss": "a", "sub": "s", "a": { "b": 7 }, "list": ["x"], "yes": true });
    let token = one.sign(&claims);
    let made_up = [("x-sub", "root".to_owned()), ("x-list", "y".to_owned())];
    let headers = [&bearer(&token)[..], &made_up].concat();
    for (rule, stays) in [(tells, false), (keeps, true)] {
        let all = issuers(vec![rule]);
        let uri = format!("http://web/p?access_token={token}&q=1");
        let checked = check(&all, &uri, &headers);
        assert!(checked.result.unwrap().is_some());
        let header = |name: &str| {
            checked
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        assert_eq!(header("authorization").is_some(), stays);
        assert_eq!(checked.uri.query() == Some("q=1"), !stays);
        assert_eq!(header("x-sub"), Some("s"));
        assert_eq!(header("x-deep"), Some("7"));
        assert_eq!(header("x-yes"), Some("true"));
        assert_eq!(header("x-list"), None);
        let payload = URL_SAFE_NO_PAD
            .decode(header("x-payload").unwrap())
            .unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), claims);
        // Who has no token tells of none.
        let without = check(&all, "http://web/", &made_up);
        assert!(without.result.unwrap().is_none() && without.headers.is_empty());
    }
}

#[test]
fn of_two_valid_tokens_one_counts_for_everybody() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let told = |issuer: &str, signer: &Signer, place: &str, prefix: &str| {
        let mut rule = rule(issuer, &[signer.public()]);
        rule.claim_headers = vec![("x-user".to_owned(), "sub".to_owned())];
        rule.places = vec![TokenPlace::Header {
            name: place.to_owned(),
            prefix: prefix.to_owned(),
        }];
        issuers(vec![rule])
    };
    let all = [
        told("a", &one, "authorization", "Bearer "),
        told("b", &two, "x-token", ""),
    ];
    let a = one.sign(&json!({ "iss": "a", "sub": "s" }));
    let b = two.sign(&json!({ "iss": "b", "sub": "t" }));
    let headers = [("authorization", format!("bearer {a}")), ("x-token", b)];
    let seen = check_all(&all, "http://web/", &headers);
    assert_eq!(named(&seen.result.unwrap().unwrap()), "a/s");
    assert_eq!(seen.headers["x-user"], "s");
    assert_eq!(seen.headers.len(), 1, "{:?}", seen.headers);
    // What is wrong with a token counts more than that it is of another issuer.
    let expired = two.sign(&json!({ "iss": "b", "sub": "t", "exp": 1 }));
    let both = issuers(vec![rule("a", &[one.public()]), rule("b", &[two.public()])]);
    assert_eq!(who(&both, &expired), Err(Refused::Expired));
}

#[test]
fn tokens_are_found_however_their_place_is_spelled() {
    let one = Signer::new("one");
    let all = issuers(vec![rule("a", &[one.public()])]);
    for uri in [
        "http://web/?access%5Ftoken=x",
        "http://web/?a=b&%61ccess_token=x",
    ] {
        assert!(check(&all, uri, &[]).result.is_err(), "{uri}");
    }
    assert!(
        check(
            &all,
            "http://web/",
            &[("authorization", "BEARER x".to_owned())]
        )
        .result
        .is_err()
    );
    // What is no token is left as it is.
    let token = one.sign(&json!({ "iss": "a", "sub": "s" }));
    let basic = [("authorization", "Basic x".to_owned())];
    let seen = check(&all, &format!("http://web/?access_token={token}"), &basic);
    assert!(seen.result.unwrap().is_some());
    assert_eq!(seen.headers["authorization"], "Basic x");
    assert_eq!(seen.uri, "http://web/");
}

#[test]
fn claims_have_values() {
    let one = Signer::new("one");
    let mut lists = rule("a", &[one.public()]);
    lists.lists = vec!["roles".to_owned()];
    let all = issuers(vec![lists]);
    let claims = json!({
        "iss": "a", "scope": "read  write", "roles": "x y", "text": "x y", "list": ["x", 1, "y"], "number": 7,
        "deep": { "scope": "x y" },
    });
    let checked = check(&all, "http://web/", &bearer(&one.sign(&claims)));
    let token = checked.result.unwrap().unwrap();
    for (path, expected) in [
        (&["scope"][..], &["read", "write"][..]),
        (&["roles"], &["x", "y"]),
        (&["text"], &["x y"]),
        (&["list"], &["x", "y"]),
        (&["number"], &[]),
        (&["deep", "scope"], &["x y"]),
        (&["none"], &[]),
        (&["text", "more"], &[]),
    ] {
        let path: Vec<String> = path.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(
            token.values(&TokenField::Claim(path.clone())),
            expected,
            "{path:?}"
        );
    }
    // Without a subject there is nobody.
    assert!(token.values(&TokenField::Principal).is_empty());
}

/// Keys as they are at the moment.
#[derive(Default)]
struct Held(Mutex<Option<Arc<Keys>>>);

impl KeySource for Held {
    fn keys(&self) -> Option<Arc<Keys>> {
        self.0.lock().clone()
    }

    fn look<'a>(&'a self, _: Option<&'a str>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

#[test]
fn keys_that_are_asked_for_count_as_they_are() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let held = Arc::<Held>::default();
    let mut fetched = rule("a", &[]);
    fetched.keys = TokenKeys::Fetched(KeyFetch {
        from: KeyAddress::Url("https://a/keys".to_owned()),
        timeout: Duration::from_secs(5),
    });
    let source = Arc::clone(&held);
    let sources = move |_: &KeyFetch| Arc::clone(&source) as Arc<dyn KeySource>;
    let all = issuers_with(vec![fetched], &sources);
    let publish = |keys: &[&Signer]| {
        let keys: Vec<_> = keys.iter().map(|signer| signer.public()).collect();
        let keys = Keys::read(json!({ "keys": keys }).to_string().as_bytes());
        *held.0.lock() = keys.ok().map(Arc::new);
    };
    let lacking = |token: &str| {
        let [(name, value)] = bearer(token);
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        let uri = "http://web/".parse().unwrap();
        let lacking = Issuers::lacking(std::slice::from_ref(&all), &headers, &uri);
        lacking.into_iter().map(|of| of.id).collect::<Vec<_>>()
    };
    let claims = json!({ "iss": "a", "sub": "s" });
    let (first, second) = (one.sign(&claims), two.sign(&claims));
    let nameless = one.sign_as(&Header::new(Algorithm::ES256), &claims);
    let others = one.sign(&json!({ "iss": "b" }));
    let name = |id: &str| vec![Some(id.to_owned())];
    // Without keys no token is valid, and it is known whose are needed.
    assert_eq!(who(&all, &first), Err(Refused::NoKeys));
    assert_eq!(who(&all, &others), Err(Refused::Issuer));
    assert_eq!(
        (lacking(&first), lacking(&nameless)),
        (name("one"), vec![None])
    );
    assert!(lacking(&others).is_empty() && lacking("x").is_empty());
    publish(&[&one]);
    assert_eq!(who(&all, &first), Ok("a/s".to_owned()));
    assert_eq!(who(&all, &second), Err(Refused::Signature));
    assert_eq!((lacking(&first), lacking(&second)), (vec![], name("two")));
    assert!(lacking(&nameless).is_empty());
    // A token that was valid is not, once its key is withdrawn.
    publish(&[&two]);
    assert_eq!(who(&all, &first), Err(Refused::Signature));
    assert_eq!(who(&all, &second), Ok("a/s".to_owned()));
}

#[test]
fn what_is_no_set_of_keys_is_told_from_an_empty_one() {
    for (text, expected) in [
        (r#"{"keys": []}"#.to_owned(), true),
        (r#"{"keys": [{"kty": "new"}]}"#.to_owned(), true),
        ("<html>".to_owned(), false),
        (r#"{"error": "x"}"#.to_owned(), false),
        (json!({ "keys": vec![json!({}); 257] }).to_string(), false),
    ] {
        assert_eq!(Keys::read(text.as_bytes()).is_ok(), expected, "{text}");
    }
    // Whoever reads a private key can sign with it.
    let one = Signer::new("one");
    let mut private = one.public();
    private["d"] = json!("AA");
    let all = issuers(vec![rule("a", &[private])]);
    let token = one.sign(&json!({ "iss": "a" }));
    assert_eq!(who(&all, &token), Err(Refused::Signature));
}
