use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;

fn key() -> (tempfile::TempDir, TokenKey) {
    let state = tempfile::tempdir().unwrap();
    let key = TokenKey::load_or_generate(state.path()).unwrap();
    (state, key)
}

fn caller() -> Caller {
    Caller {
        account: ObjectKey::new("istio-system", "ztunnel"),
        pod: "ztunnel-x".to_owned(),
        pod_uid: "u1".to_owned(),
        node: Some("n1".to_owned()),
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_token_proves_what_it_was_issued_for() {
    let (state, key) = key();
    let token = key.issue(&caller(), HOUR, SystemTime::now()).unwrap();
    assert_eq!(key.verify(&token), Ok(caller()));
    // The key is kept, and readable by its owner only.
    let again = TokenKey::load_or_generate(state.path()).unwrap();
    assert_eq!(again.verify(&token), Ok(caller()));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(state.path().join("token-key.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    let (_other, other) = self::key();
    assert_eq!(other.verify(&token), Err(InvalidToken::Signature));
}

#[test]
fn a_token_has_its_time() {
    let (_state, key) = key();
    let now = SystemTime::now();
    for (issued, expected) in [
        (now, Ok(caller())),
        (
            now - HOUR - Duration::from_secs(60),
            Err(InvalidToken::Expired),
        ),
        (now + HOUR, Err(InvalidToken::NotYetValid)),
    ] {
        let token = key.issue(&caller(), HOUR, issued).unwrap();
        assert_eq!(key.verify(&token), expected);
    }
}

/// A token with these changes of the claims, signed by the right key.
fn forged(key: &TokenKey, change: impl Fn(&mut Value)) -> String {
    let token = key.issue(&caller(), HOUR, SystemTime::now()).unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let mut claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    change(&mut claims);
    encode(&Header::new(Algorithm::ES256), &claims, key.signing()).unwrap()
}

#[test]
fn claims_must_be_right_and_agree() {
    let (_state, key) = key();
    let set = |path: &'static str, value: Value| {
        forged(&key, move |claims| {
            *claims.pointer_mut(path).unwrap() = value.clone()
        })
    };
    let remove = |name: &'static str| {
        forged(&key, move |claims| {
            drop(claims.as_object_mut().unwrap().remove(name))
        })
    };
    for (token, expected) in [
        (set("/aud", json!(["istio-ca", "other"])), Ok(caller())),
        (set("/aud", json!(["other"])), Err(InvalidToken::Audience)),
        (set("/aud", json!([])), Err(InvalidToken::Audience)),
        (set("/iss", json!("other")), Err(InvalidToken::Audience)),
        (
            set("/sub", json!("system:serviceaccount:istio-system:other")),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/sub", json!("system:node:n1")),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/kubernetes.io/namespace", json!("other")),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/kubernetes.io/serviceaccount/name", json!("other")),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/kubernetes.io/pod", json!(null)),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/kubernetes.io/pod/uid", json!("")),
            Err(InvalidToken::Unbound),
        ),
        (
            set("/kubernetes.io", json!(null)),
            Err(InvalidToken::Unbound),
        ),
        (remove("exp"), Err(InvalidToken::Malformed)),
        (remove("nbf"), Err(InvalidToken::Malformed)),
        (remove("aud"), Err(InvalidToken::Malformed)),
    ] {
        assert_eq!(key.verify(&token), expected, "{token}");
    }
}

#[test]
fn the_token_does_not_choose_its_algorithm() {
    let (state, key) = key();
    let token = key.issue(&caller(), HOUR, SystemTime::now()).unwrap();
    let [_, claims, signature]: [&str; 3] =
        token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let header = |alg: &str| URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
    // The public key as a shared secret: the classic confusion.
    let pem = std::fs::read_to_string(state.path().join("token-key.pem")).unwrap();
    let public = rcgen::KeyPair::from_pem(&pem).unwrap().public_key_pem();
    let secret = jsonwebtoken::EncodingKey::from_secret(public.as_bytes());
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    for token in [
        encode(&Header::new(Algorithm::HS256), &value, &secret).unwrap(),
        format!("{}.{claims}.", header("none")),
        format!("{}.{claims}.{signature}", header("none")),
        format!("{}.{claims}.{signature}", header("HS256")),
        format!("{}.{claims}.{signature}", header("ES384")),
        format!("{claims}.{signature}"),
        String::new(),
        "a.b.c".to_owned(),
        "x".repeat(MAX_TOKEN + 1),
    ] {
        assert_eq!(key.verify(&token), Err(InvalidToken::Malformed), "{token}");
    }
}

/// Claims as deep as fit into a token overflow nothing.
#[test]
fn deep_claims_are_malformed() {
    let (_state, key) = key();
    for opening in ["[", "{\"a\":"] {
        let claims = opening.repeat(MAX_TOKEN / 2 / opening.len());
        let token = format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(claims));
        assert!(token.len() <= MAX_TOKEN, "it is looked at");
        assert_eq!(key.verify(&token), Err(InvalidToken::Malformed));
        let claimed = claimed(&token).map(|claimed| claimed.uid);
        assert_eq!(claimed, Err(InvalidToken::Malformed));
    }
}
