use std::{borrow::Cow, time::SystemTime};

use super::*;

struct Seen;

impl Facts for Seen {
    fn value(&self, fact: Fact) -> Option<Value<'_>> {
        match fact {
            Fact::StartTime => Some(Value::Time(SystemTime::UNIX_EPOCH)),
            Fact::Path => Some(Value::Text("/a\n\"b\"".into())),
            Fact::ResponseCode => Some(Value::Number(503)),
            Fact::GrpcStatus => Some(Value::Number(14)),
            Fact::Method => Some(Value::Text("GET".into())),
            _ => None,
        }
    }

    fn header(&self, of: Headers, name: &str) -> Option<Cow<'_, str>> {
        let is_it = of == Headers::Request && name == "x-team";
        is_it.then_some(Cow::Borrowed("blåtand"))
    }
}

fn line(text: &str) -> String {
    Format::text(text).unwrap().line(&Seen)
}

#[test]
fn texts_tell_what_they_name() {
    for (text, told) in [
        ("", "\n"),
        ("plain\n", "plain\n"),
        ("[%START_TIME%] 100%%", "[1970-01-01T00:00:00.000Z] 100%\n"),
        (
            "%REQ(:METHOD)% %RESPONSE_CODE% %RESP(:STATUS)%",
            "GET 503 503\n",
        ),
        (
            "%REQ(X-TEAM)% %REQ(X-TEAM):3% %REQ(x-team):100%",
            "blåtand blå blåtand\n",
        ),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:METHOD)%", "GET\n"),
        (
            "%REQ(a?x-team)%|%REQ(a?b)%|%RESP(x-team)%|%TRAILER(a)%",
            "blåtand|-|-|-\n",
        ),
        (
            "%GRPC_STATUS% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%",
            "Unavailable 14 14\n",
        ),
        (
            "%ROUTE_NAME% %UPSTREAM_LOCAL_ADDRESS% %METADATA(a:b)%",
            "- - -\n",
        ),
    ] {
        assert_eq!(line(text), told, "{text}");
    }
}

#[test]
fn values_forge_no_lines() {
    assert_eq!(line("\"%REQ(:PATH)%\""), "\"/a\\x0a\\\"b\\\"\"\n");
    let labels = [("path", "%REQ(:PATH)%")];
    let labels = labels.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let format = Format::labels(&labels.into(), false).unwrap();
    let told: Json = serde_json::from_str(&format.line(&Seen)).unwrap();
    assert_eq!(told, serde_json::json!({"path": "/a\n\"b\""}));
}

#[test]
fn what_is_no_line_is_as_it_came() {
    let value = Format::text("of %REQ(:PATH)%").unwrap().value(&Seen);
    assert_eq!(value.as_deref(), Some("of /a\n\"b\""));
    let labels = [("both".to_owned(), "of %REQ(:PATH)%".to_owned())];
    let format = Format::labels(&labels.into(), false).unwrap();
    let told: Json = serde_json::from_str(&format.line(&Seen)).unwrap();
    assert_eq!(told["both"], "of /a\n\"b\"");
    let home = Format::text("%ENVIRONMENT(PATH):1%").unwrap().line(&Seen);
    assert_eq!(home.len(), 2, "{home}");
}

#[test]
fn labels_have_values_of_their_own() {
    let labels = [
        ("code", "%RESPONSE_CODE%"),
        ("both", "%REQ(:METHOD)% %RESPONSE_CODE%"),
        ("route", "%ROUTE_NAME%"),
        ("fixed", "a"),
    ];
    let labels: BTreeMap<String, String> = labels
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
    let told = |leaves_out| {
        let format = Format::labels(&labels, leaves_out).unwrap();
        serde_json::from_str::<Json>(&format.line(&Seen)).unwrap()
    };
    let all = serde_json::json!({"code": 503, "both": "GET 503", "route": null, "fixed": "a"});
    assert_eq!(told(false), all);
    assert_eq!(told(true).as_object().unwrap().len(), 3);
}

#[test]
fn what_is_not_understood_is_refused() {
    for unended in [
        "%",
        "a % b",
        "%REQ(a%",
        "%DURATION",
        "%DURATION:x%",
        "%DURATION-%",
        "%req(a)%",
    ] {
        let refused = Format::text(unended);
        assert!(
            matches!(
                refused,
                Err(InvalidFormat::Unended(_) | InvalidFormat::Unknown(_))
            ),
            "{unended}"
        );
    }
    assert_eq!(
        Format::text("%LATER%"),
        Err(InvalidFormat::Unknown("LATER".to_owned()))
    );
    for argument in [
        "%REQ()%",
        "%REQ%",
        "%REQ(:later)%",
        "%DURATION(x)%",
        "%GRPC_STATUS(x)%",
    ] {
        assert!(Format::text(argument).is_err(), "{argument}");
    }
    assert_eq!(Format::text(&"a".repeat(9000)), Err(InvalidFormat::TooLong));
}

#[test]
fn values_are_there_if_anything_is_known() {
    let value = |text| Format::text(text).unwrap().value(&Seen);
    assert_eq!(value("%ROUTE_NAME%"), None);
    assert_eq!(value("a").as_deref(), Some("a"));
    assert_eq!(
        value("%REQ(x-team)%/%ROUTE_NAME%").as_deref(),
        Some("blåtand/-")
    );
}

#[test]
fn headers_are_kept_if_they_are_named() {
    let keeps = |text| Format::text(text).unwrap().keeps();
    assert_eq!(keeps("%REQ(:PATH)% %REQ(user-agent)%"), Kept::default());
    assert!(keeps("%REQ(x)%").request && keeps("%RESP(x)%").response);
    assert!(keeps("%TRAILER(x)%").response);
}
