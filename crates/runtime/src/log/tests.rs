use super::*;
use std::io::Write;
use std::sync::mpsc;

use tracing::subscriber::with_default;
use tracing::{Level, debug, error, info, info_span, warn};

#[derive(Clone)]
struct Output(mpsc::Sender<Vec<u8>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test may have seen enough.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that `events` writes.
fn lines(config: LogConfig, events: impl FnOnce(&LogHandle)) -> Vec<String> {
    let (writes, written) = mpsc::channel();
    let (subscriber, handle) = build(config, Output(writes)).unwrap();
    with_default(subscriber, || events(&handle));
    handle.flush();
    let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(str::to_owned).collect()
}

fn config(format: Format) -> LogConfig {
    LogConfig {
        format,
        hidden_prefix: "tulle_runtime::log::",
        ..LogConfig::default()
    }
}

/// Plain lines without their time, whose form is checked.
fn plain(events: impl FnOnce(&LogHandle)) -> Vec<String> {
    let lines = lines(config(Format::Plain), events);
    let strip = |line: String| {
        let (time, rest) = line.split_once('\t').unwrap();
        check_time(time);
        rest.to_owned()
    };
    lines.into_iter().map(strip).collect()
}

fn json(events: impl FnOnce(&LogHandle)) -> Vec<serde_json::Value> {
    let lines = lines(config(Format::Json), events);
    let parse = |line: String| {
        let mut value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let time = value.as_object_mut().unwrap().remove("time").unwrap();
        check_time(time.as_str().unwrap());
        value
    };
    lines.into_iter().map(parse).collect()
}

fn check_time(time: &str) {
    let form: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000Z", "{time}");
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] io::Error);

fn outer() -> Outer {
    Outer(io::Error::other("inner"))
}

#[test]
fn plain_lines_are_tab_separated_with_fields_last() {
    let lines = plain(|_| {
        tracing::event!(target: "access", Level::INFO, src.addr = %"10.0.0.1:4711", bytes = 5, identity = "spiffe://x", "connection complete");
        warn!("no fields");
        error!(
            error = &outer() as &dyn std::error::Error,
            r#type = true,
            "failed"
        );
    });
    assert_eq!(
        lines,
        [
            "info\taccess\tconnection complete\tsrc.addr=10.0.0.1:4711 bytes=5 identity=\"spiffe://x\"",
            "warn\ttests\tno fields",
            "error\ttests\tfailed\terror=\"outer: inner\" type=true",
        ]
    );
}

#[test]
fn json_lines_are_objects() {
    let lines = json(|_| {
        tracing::event!(target: "access", Level::INFO, src.addr = %"10.0.0.1:4711", bytes = 5u64, ratio = 0.5, ok = true, "done");
        error!(
            error = &outer() as &dyn std::error::Error,
            not = f64::NAN,
            "failed"
        );
    });
    assert_eq!(
        lines,
        [
            serde_json::json!({"level": "info", "scope": "access", "message": "done",
                "src.addr": "10.0.0.1:4711", "bytes": 5, "ratio": 0.5, "ok": true}),
            serde_json::json!({"level": "error", "scope": "tests", "message": "failed",
                "error": "outer: inner", "not": "NaN"}),
        ]
    );
}

#[test]
fn spans_are_shown_from_the_outermost() {
    fn events() {
        let outer = info_span!("proxy", uid = 7, later = tracing::field::Empty);
        let _outer = outer.enter();
        outer.record("later", "l\"1");
        let inner = info_span!("inbound");
        let _inner = inner.enter();
        info!(a = 1, "hello");
    }
    let lines = plain(|_| events());
    assert_eq!(
        lines,
        ["info\ttests:proxy{uid=7 later=\"l\\\"1\"}:inbound\thello\ta=1"]
    );
    let lines = json(|_| events());
    assert_eq!(
        lines,
        [
            serde_json::json!({"level": "info", "scope": "tests", "message": "hello", "a": 1,
            "proxy": {"uid": 7, "later": "l\"1"}, "inbound": {}})
        ]
    );
}

#[test]
fn no_value_can_forge_a_line() {
    let evil = "a\n2026\tinfo\taccess\tforged\r\u{1b}[31m\"\\\u{85}";
    let lines = plain(|_| info!(value = %evil, text = evil, "{evil}"));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].matches('\t').count(), 3);
    assert!(!lines[0].replace('\t', "").contains(char::is_control));
    let lines = json(|_| info!(value = %evil, text = evil, "{evil}"));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["value"], evil);
    assert_eq!(lines[0]["text"], evil);
    assert_eq!(lines[0]["message"], evil);
}

#[test]
fn levels_can_be_changed_and_reset() {
    let lines = plain(|log| {
        debug!("before");
        log.set("tulle_runtime::log=debug").unwrap();
        assert_eq!(log.current(), "info,tulle_runtime::log=debug");
        debug!("changed");
        debug!(target: "other", "not changed");
        log.set("trace").unwrap();
        debug!(target: "other", "now changed");
        assert!(log.set("loud").is_err());
        assert_eq!(log.current(), "trace,tulle_runtime::log=debug");
        log.reset();
        assert_eq!(log.current(), "info");
        debug!("after");
        assert!(!tracing::enabled!(Level::DEBUG));
    });
    assert_eq!(
        lines,
        ["debug\ttests\tchanged", "debug\tother\tnow changed"]
    );
}

#[tokio::test]
async fn logging_route_shows_adds_and_resets() {
    let (_subscriber, handle) = build(LogConfig::default(), io::sink()).unwrap();
    let router = handle.routes();
    for (method, query, status, body) in [
        (Method::GET, &[][..], 405, "method not allowed\n"),
        (Method::POST, &[], 200, "current log level is info\n"),
        (
            Method::POST,
            &[("level", "access=debug")],
            200,
            "current log level is info,access=debug\n",
        ),
        (
            Method::POST,
            &[("level", "b=loud")],
            400,
            "invalid level \"loud\": use off, error, warn, info, debug or trace, alone or as target=level\n",
        ),
        (
            Method::POST,
            &[("reset", ""), ("level", "b=warn")],
            200,
            "current log level is info,b=warn\n",
        ),
        (
            Method::POST,
            &[("reset", "")],
            200,
            "current log level is info\n",
        ),
    ] {
        let query = query.iter().map(|&(k, v)| (k.into(), v.into()));
        let request = Request {
            method,
            query: query.collect(),
            ..Request::get("/logging")
        };
        let response = router.respond(request).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(crate::http::testing::body(response).await, body);
    }
}

#[test]
fn dropping_the_last_handle_writes_out_what_is_buffered() {
    let (writes, written) = mpsc::channel();
    let (subscriber, handle) = build(LogConfig::default(), Output(writes)).unwrap();
    let second = handle.clone();
    with_default(subscriber, || info!("last words"));
    drop(handle);
    drop(second);
    let text = String::from_utf8(written.try_iter().flatten().collect()).unwrap();
    assert!(text.contains("last words"), "{text}");
}
