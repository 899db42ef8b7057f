use std::time::Duration;

use tulle_model::{
    ServiceKey,
    http::BackendService,
    telemetry::{Collector, CollectorProtocol},
};
use tulle_proto::trace as wire;

use super::*;
use crate::telemetry::{Collectors, Counted, collectors::Spans};

const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
    let of = of.iter();
    of.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn spans() -> Spans {
    let (collectors, _) = Collectors::new(Counted::default(), wire::Resource::default());
    collectors.spans(&Collector {
        name: "otel".into(),
        service: BackendService {
            key: ServiceKey::new("obs", "otel"),
            port: Some(4317),
            subset: None,
        },
        timeout: Duration::from_secs(1),
        protocol: CollectorProtocol::Grpc,
    })
}

fn traces(sampling: u32) -> Traces {
    Traces {
        spans: spans(),
        sampling,
        is_passed_on: true,
        with_parties: true,
        tags: Vec::new(),
    }
}

fn begun(sampling: u32, of: &[(&'static str, &str)]) -> (Trace, HeaderMap) {
    let mut headers = headers(of);
    let trace = Trace::begin(&traces(sampling), &mut headers);
    (trace, headers)
}

#[test]
fn what_a_client_says_is_gone_on_with() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let span = "00f067aa0ba902b7";
    let b3 = |rest: &str| format!("{id}-{span}{rest}");
    for (of, sampled) in [
        (vec![("traceparent", W3C.to_owned())], true),
        (vec![("traceparent", W3C.replace("-01", "-00"))], false),
        (
            vec![(
                "traceparent",
                format!("{}-later", W3C.replacen("00", "cc", 1)),
            )],
            true,
        ),
        (vec![("b3", b3("-1"))], true),
        (vec![("b3", b3("-d-0000000000000001"))], true),
        (vec![("b3", b3("-0"))], false),
        (
            vec![
                ("x-b3-traceid", id.to_owned()),
                ("x-b3-spanid", span.to_owned()),
                ("x-b3-sampled", "0".to_owned()),
            ],
            false,
        ),
        (
            vec![
                ("x-b3-traceid", id.to_owned()),
                ("x-b3-spanid", span.to_owned()),
                ("x-b3-flags", "1".to_owned()),
            ],
            true,
        ),
        // The first that is understood.
        (
            vec![("traceparent", W3C.to_owned()), ("b3", "0".to_owned())],
            true,
        ),
    ] {
        let of: Vec<(&str, &str)> = of
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        // Whatever the waypoint would decide.
        for sampling in [0, MILLION] {
            let (trace, told) = begun(sampling, &of);
            assert_eq!(
                (trace.id, trace.parent, trace.is_sampled),
                (ID, Some(SPAN), sampled),
                "{of:?}"
            );
            let parent = told["traceparent"].to_str().unwrap();
            let flags = u8::from(sampled);
            assert_eq!(parent, format!("00-{id}-{:016x}-{flags:02x}", trace.span));
            assert_ne!(trace.span, SPAN);
            assert_eq!(id_of(&headers(&of)), id);
        }
    }
}

#[test]
fn nobody_s_word_is_the_share_that_is_wanted() {
    for (sampling, sampled) in [(0, false), (MILLION, true)] {
        let (trace, told) = begun(sampling, &[]);
        assert_eq!((trace.parent, trace.is_sampled), (None, sampled));
        // Endpoints are told of that too, so that they decide alike.
        assert_eq!(told.len(), 1);
    }
    let (trace, _) = begun(0, &[("b3", "4bf92f3577b34da6-00f067aa0ba902b7")]);
    assert_eq!((trace.id, trace.is_sampled), (0x4bf9_2f35_77b3_4da6, false));
    let (trace, _) = begun(MILLION, &[("b3", "0")]);
    assert_eq!((trace.parent, trace.is_sampled), (None, false));
}

#[test]
fn endpoints_are_told_in_the_client_s_words_too() {
    let (trace, told) = begun(
        0,
        &[("b3", "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1")],
    );
    let expected = format!("{ID:032x}-{:016x}-1-{SPAN:016x}", trace.span);
    assert_eq!(told["b3"], expected.as_str());
    let (trace, told) = begun(
        0,
        &[
            ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "1"),
        ],
    );
    assert_eq!(told["x-b3-spanid"], format!("{:016x}", trace.span).as_str());
    assert_eq!(told["x-b3-parentspanid"], format!("{SPAN:016x}").as_str());
    assert_eq!(told["x-b3-traceid"], format!("{ID:032x}").as_str());
    // Whoever reads the one or the other reads the same.
    let other = ("b3", "00000000000000010000000000000002-0000000000000003-0");
    let (trace, told) = begun(0, &[("traceparent", W3C), other, ("x-b3-flags", "1")]);
    let expected = format!("{ID:032x}-{:016x}-1-{SPAN:016x}", trace.span);
    assert_eq!(told["b3"], expected.as_str());
    assert_eq!(told["x-b3-spanid"], format!("{:016x}", trace.span).as_str());
    assert!(!told.contains_key("x-b3-flags"));
    // What others keep in a trace is kept in that trace alone.
    let state = [("tracestate", "a=b"), ("traceparent", W3C)];
    assert!(begun(0, &state).1.contains_key("tracestate"));
    assert!(!begun(0, &state[..1]).1.contains_key("tracestate"));
}

#[test]
fn what_is_kept_back_stays_as_it_came() {
    let kept = Traces {
        is_passed_on: false,
        ..traces(MILLION)
    };
    let mut told = headers(&[("traceparent", W3C)]);
    let trace = Trace::begin(&kept, &mut told);
    assert_eq!((trace.id, trace.parent), (ID, Some(SPAN)));
    assert_eq!(told["traceparent"], W3C);
}

#[test]
fn what_is_not_understood_is_not_said() {
    let short = W3C.get(..54).unwrap();
    for text in [
        "",
        "00",
        short,
        &W3C.replace("4bf9", "4BF9"),
        &W3C.replace("4bf9", "4bfx"),
        &W3C.replacen("00", "ff", 1),
        &format!("{W3C}-more"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert_eq!(said(&headers(&[("traceparent", text)])), None, "{text}");
    }
    for text in [
        "",
        "x",
        "1-2-3",
        "4bf92f3577b34da6-00f067aa0ba902b7-x",
        "a-b-c-d-e",
    ] {
        assert_eq!(said(&headers(&[("b3", text)])), None, "{text}");
    }
    assert_eq!(
        said(&headers(&[("x-b3-traceid", "4bf92f3577b34da6")])),
        None
    );
    let mut two = headers(&[("traceparent", W3C)]);
    two.append(PARENT, W3C.parse().unwrap());
    assert_eq!(said(&two), None);
    assert_eq!(id_of(&two), "");
}
