//! Hostile clients against our server.

use h2::Reason;
use tulle_hbone::Settings;

use crate::{
    frames::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM,
        SETTINGS, block, bomb, connect, connect_block, frame, reset, window_update,
    },
    lab::{ECHO, HOLD, Lab, STALL, run, wait_until},
    raw::{Raw, STATUS_200},
};

/// CVE-2023-44487.
#[test]
fn rapid_reset_ends_the_connection_before_a_hundred_requests() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let blocks = (0..1000).map(|n| {
            let streams = (0..100).map(|m| 1 + 2 * (n * 100 + m));
            let pairs = streams.map(|stream| [connect(stream, HOLD), reset(stream)].concat());
            pairs.collect::<Vec<_>>().concat()
        });
        attacker.flood(blocks).await;
        assert_eq!(lab.reason(&attacker).await, Reason::ENHANCE_YOUR_CALM);
        // The honest client's one comes on top.
        let requests = lab.state.requests.get();
        assert!(requests < 100, "{requests}");
        lab.assert_honest_client_is_served().await;
    });
}

/// CVE-2023-44487, slowly: each reset comes when its request is being worked on.
#[test]
fn requests_that_are_given_up_leave_nothing_behind() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let before = lab.state.requests.get();
        for n in 0..500 {
            let stream = 1 + 2 * n;
            attacker.send(&connect(stream, HOLD)).await.unwrap();
            let expected = before + usize::try_from(n).unwrap() + 1;
            wait_until(|| lab.state.requests.get() == expected).await;
            attacker.send(&reset(stream)).await.unwrap();
        }
        wait_until(|| lab.state.held.get() == 0).await;
        assert_eq!(lab.state.applications.get(), 1);
        // That much is no offence at this level: who drives the server decides when it is enough.
        attacker.send(&connect(1001, ECHO)).await.unwrap();
        let answer = attacker.until_kind(HEADERS, 1001).await.unwrap();
        assert!(answer.payload.starts_with(STATUS_200));
        lab.assert_honest_client_is_served().await;
    });
}

/// CVE-2025-8671, RUSTSEC-2024-0003: the resets are ours, provoked.
#[test]
fn provoked_resets_end_the_connection() {
    type Provoke = fn(u32) -> Vec<u8>;
    let provocations: [(&str, Provoke); 4] = [
        ("window update of zero", |stream| window_update(stream, 0)),
        ("window too large", |stream| {
            window_update(stream, i32::MAX as u32)
        }),
        ("second headers", |stream| connect(stream, HOLD)),
        ("data after the end", |stream| {
            [
                frame(DATA, END_STREAM, stream, b"x"),
                frame(DATA, 0, stream, b"x"),
            ]
            .concat()
        }),
    ];
    let limit = Settings::default().max_error_resets;
    for (name, provoke) in provocations {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            let blocks = (0..10_000).map(|n| {
                let stream = 1 + 2 * n;
                [connect(stream, HOLD), provoke(stream)].concat()
            });
            attacker.flood(blocks).await;
            let reason = lab.reason(&attacker).await;
            let allowed = [Reason::ENHANCE_YOUR_CALM, Reason::PROTOCOL_ERROR];
            assert!(allowed.contains(&reason), "{name}: {reason}");
            let requests = lab.state.requests.get();
            assert!(requests <= limit + 100, "{name}: {requests}");
            wait_until(|| lab.state.held.get() == 0).await;
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// CVE-2025-8671, with frames that no length fits.
#[test]
fn frames_of_a_wrong_length_end_the_connection() {
    let wrong: [(&str, Vec<u8>); 7] = [
        ("window update", frame(8, 0, 1, &[0; 3])),
        ("reset", frame(RST_STREAM, 0, 1, &[0; 5])),
        ("ping", frame(PING, 0, 0, &[0; 7])),
        ("settings", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings ack", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("padded data", frame(DATA, 8, 1, &[200, 0])),
        (
            "longer than allowed",
            frame(DATA, 0, 1, &vec![0; (1 << 20) + 1]),
        ),
    ];
    for (name, bytes) in wrong {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            attacker.send(&connect(1, HOLD)).await.unwrap();
            wait_until(|| lab.state.held.get() == 1).await;
            attacker.flood([bytes]).await;
            let reason = lab.reason(&attacker).await;
            assert!(
                [Reason::FRAME_SIZE_ERROR, Reason::PROTOCOL_ERROR].contains(&reason),
                "{name}: {reason}"
            );
            wait_until(|| lab.state.held.get() == 0).await;
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// CVE-2024-27919, CVE-2024-30255, RUSTSEC-2024-0332.
#[test]
fn headers_without_an_end_end_the_connection_within_a_few_frames() {
    for size in [0, 1, 16 << 10, 1000 << 10] {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            let mut head = frame(HEADERS, 0, 1, &connect_block(ECHO));
            // A field whose value never ends.
            let endless = [&[0, 1, b'x', 127, 255, 255, 255, 7][..], &vec![b'a'; size]].concat();
            head.extend(frame(CONTINUATION, 0, 1, &endless));
            let more = frame(CONTINUATION, 0, 1, &vec![b'a'; size]);
            let rest = std::iter::repeat_n(more, 1000);
            let sent = attacker.flood(std::iter::once(head).chain(rest)).await;
            let reason = lab.reason(&attacker).await;
            assert!(
                [Reason::ENHANCE_YOUR_CALM, Reason::COMPRESSION_ERROR].contains(&reason),
                "{size}: {reason}"
            );
            assert!(sent < 32 << 20, "{size}: {sent}");
            assert_eq!(lab.state.requests.get(), 1, "only the honest one");
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// CVE-2026-47774: the limit is on decoded bytes.
#[test]
fn headers_that_decode_beyond_the_limit_are_no_request() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let request = |copies| [connect_block(ECHO), bomb(copies)].concat();
        // 80 KB from 4: the stream ends, the connection need not.
        attacker
            .send(&frame(HEADERS, END_HEADERS, 1, &request(20)))
            .await
            .unwrap();
        let answer = attacker.until_kind(HEADERS, 1).await.unwrap();
        assert!(answer.flags & END_STREAM != 0);
        // 240 MB from 64 KB.
        attacker
            .flood([frame(HEADERS, END_HEADERS, 3, &request(60_000))])
            .await;
        assert_eq!(lab.reason(&attacker).await, Reason::ENHANCE_YOUR_CALM);
        assert_eq!(lab.state.requests.get(), 1, "only the honest one");
        lab.assert_honest_client_is_served().await;
    });
}

/// RUSTSEC-2026-0258.
#[test]
fn empty_data_to_a_stalled_reader_ends_the_connection() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let block = frame(DATA, 0, 1, &[]).repeat(1000);
        let blocks = std::iter::once(connect(1, STALL)).chain(std::iter::repeat_n(block, 1000));
        attacker.flood(blocks).await;
        assert_eq!(lab.reason(&attacker).await, Reason::ENHANCE_YOUR_CALM);
        lab.assert_honest_client_is_served().await;
    });
}

/// RUSTSEC-2026-0258, with frames that are not quite empty.
#[test]
fn tiny_data_to_a_stalled_reader_ends_the_connection() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let block = frame(DATA, 0, 1, b"x").repeat(1000);
        let sent = {
            let blocks = std::iter::once(connect(1, STALL)).chain(std::iter::repeat_n(block, 1000));
            attacker.flood(blocks).await
        };
        assert_eq!(lab.reason(&attacker).await, Reason::ENHANCE_YOUR_CALM);
        // The budget, in frames of ten bytes, and what the kernel had taken.
        let frames = Settings::default().small_frame_budget / 255;
        assert!(sent < frames * 10 + (16 << 20), "{sent}");
        lab.assert_honest_client_is_served().await;
    });
}

/// The other side of the two tests above: what is read in time is no flood, however small.
#[test]
fn a_chatty_client_is_served() {
    run(async {
        let lab = Lab::start().await;
        let mut chatty = lab.attacker().await;
        chatty.send(&connect(1, ECHO)).await.unwrap();
        let block = frame(DATA, 0, 1, b"x").repeat(1000);
        for _ in 0..100 {
            chatty.send(&block).await.unwrap();
            let mut back = 0;
            while back < 1000 {
                back += chatty.until_kind(DATA, 1).await.unwrap().payload.len();
            }
            chatty
                .send(&[window_update(1, 1000), window_update(0, 1000)].concat())
                .await
                .unwrap();
        }
        lab.assert_honest_client_is_served().await;
    });
}

/// RUSTSEC-2024-0003: what must be answered is not read while the answers before it are stuck.
#[test]
fn answers_that_nobody_reads_are_bounded() {
    for (name, asking) in [
        ("ping", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("refused", connect(1, "10.0.0.1:1")),
    ] {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            let mut stream = 1u32;
            let blocks = std::iter::from_fn(|| {
                let mut block = asking.repeat(1000);
                if name == "refused" {
                    for request in block.chunks_mut(asking.len()) {
                        request[5..9].copy_from_slice(&stream.to_be_bytes());
                        stream += 2;
                    }
                }
                Some(block)
            });
            let sent = attacker.flood(blocks.take(100_000)).await;
            assert!(sent < 64 << 20, "{name}: {sent} bytes taken");
            let queued = lab.queued(&attacker).unwrap_or(0);
            assert!(queued < 1 << 20, "{name}: {queued} bytes of answers");
            lab.assert_honest_client_is_served().await;
        });
    }
}

#[test]
fn frames_that_ask_for_nothing_cost_only_their_sender() {
    for (name, idle) in [
        ("window update", window_update(1, 1)),
        ("priority", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ("unknown kind", frame(99, 0, 1, b"whatever")),
        ("ping answer", frame(PING, ACK, 0, &[1; 8])),
    ] {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            attacker.send(&connect(1, ECHO)).await.unwrap();
            attacker
                .flood(std::iter::repeat_n(idle.repeat(1000), 50))
                .await;
            attacker.send(&frame(DATA, 0, 1, b"hello")).await.unwrap();
            let answer = attacker.until_kind(DATA, 1).await.unwrap();
            assert_eq!(answer.payload, b"hello", "{name}");
            lab.assert_honest_client_is_served().await;
        });
    }
}

#[test]
fn a_window_beyond_the_largest_ends_the_connection() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        attacker.flood([window_update(0, i32::MAX as u32)]).await;
        assert_eq!(lab.reason(&attacker).await, Reason::FLOW_CONTROL_ERROR);
        lab.assert_honest_client_is_served().await;
    });
}

/// HBONE smuggling: only a plain CONNECT is a tunnel, and how it was asked for is not guessed.
#[test]
fn requests_that_are_no_tunnels_get_none() {
    let requests: [&[(&str, &str)]; 9] = [
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", ECHO),
            (":path", "/"),
        ],
        &[
            (":method", "PUT"),
            (":scheme", "https"),
            (":authority", ECHO),
            (":path", "/"),
        ],
        &[
            (":method", "CONNECT"),
            (":scheme", "http"),
            (":authority", ECHO),
            (":path", "/"),
            (":protocol", "websocket"),
        ],
        &[(":method", "CONNECT")],
        &[(":method", "CONNECT"), (":authority", "")],
        &[(":method", "CONNECT"), (":authority", "user@10.0.0.1:7")],
        &[(":authority", ECHO)],
        &[
            (":method", "CONNECT"),
            (":authority", ECHO),
            (":authority", "10.0.0.1:9"),
        ],
        &[
            (":method", "CONNECT"),
            ("x-before", "1"),
            (":authority", ECHO),
        ],
    ];
    for request in requests {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = lab.attacker().await;
            let before = lab.state.applications.get();
            let headers = frame(HEADERS, END_HEADERS, 1, &block(request));
            attacker
                .send(&[headers, frame(DATA, 0, 1, b"smuggled")].concat())
                .await
                .unwrap();
            let ends = |kind| [HEADERS, RST_STREAM, crate::frames::GOAWAY].contains(&kind);
            let answer = attacker.until(|frame| ends(frame.kind)).await;
            if let Some(answer) = answer {
                let opened = answer.kind == HEADERS && answer.payload.starts_with(STATUS_200);
                assert!(!opened, "{request:?}");
            }
            lab.assert_honest_client_is_served().await;
            assert_eq!(lab.state.applications.get(), before, "{request:?}");
        });
    }
}

/// CVE-2025-64763: what comes behind a request waits for its answer.
#[test]
fn data_before_the_answer_is_held_until_it() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        let before = lab.state.applications.get();
        let early = [connect(1, HOLD), frame(DATA, END_STREAM, 1, b"early")].concat();
        attacker.send(&early).await.unwrap();
        wait_until(|| lab.state.held.get() == 1).await;
        assert_eq!(lab.state.applications.get(), before);
        lab.state.gate.notify_one();
        let answer = attacker.until_kind(HEADERS, 1).await.unwrap();
        assert!(answer.payload.starts_with(STATUS_200));
        let data = attacker.until_kind(DATA, 1).await.unwrap();
        assert_eq!(data.payload, b"early");
    });
}

#[test]
fn streams_beyond_the_limit_are_refused_and_their_flood_ends_the_connection() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        for n in 0..210 {
            attacker.send(&connect(1 + 2 * n, HOLD)).await.unwrap();
        }
        let refused = attacker
            .until(|frame| frame.kind == RST_STREAM)
            .await
            .unwrap();
        assert_eq!(refused.stream, 401, "two hundred streams were taken");
        assert_eq!(refused.payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
        attacker
            .flood((210..100_000).map(|n| connect(1 + 2 * n, HOLD)))
            .await;
        assert_eq!(lab.reason(&attacker).await, Reason::ENHANCE_YOUR_CALM);
        wait_until(|| lab.state.held.get() == 0).await;
        lab.assert_honest_client_is_served().await;
    });
}

#[test]
fn what_is_no_http2_ends_the_connection() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x00",
        &[0; 64],
        &[255; 64],
    ] {
        run(async move {
            let lab = Lab::start().await;
            let mut attacker = Raw::client(lab.server, &lab.client_svid).await;
            attacker.flood([garbage.to_vec()]).await;
            assert_eq!(lab.reason(&attacker).await, Reason::PROTOCOL_ERROR);
            lab.assert_honest_client_is_served().await;
        });
    }
}
