//! Hostile servers against our client and its pool.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, task::spawn_local, time::Instant};
use tulle_hbone::{Broken, ConnectError, Pool, PoolSettings, Side, Tunnel};
use tulle_identity::Svid;

use crate::{
    frames::{
        CONTINUATION, DATA, END_HEADERS, GOAWAY, HEADERS, MAX_CONCURRENT_STREAMS, PING,
        PUSH_PROMISE, RST_STREAM, SETTINGS, block, bomb, frame, goodbye, reset, setting,
        window_update,
    },
    lab::{ECHO, application_of, echo, open, open_until, pool, run, svids, wait_until},
    raw::{Raw, STATUS_200},
};

/// CVE-2021-32780.
#[test]
fn a_server_that_says_goodbye_and_allows_no_streams_is_dialled_anew() {
    run(async {
        let server = Hostile::first(|mut raw| async move {
            let request = raw.first_request().await;
            let stream = request.stream;
            let answer = frame(HEADERS, END_HEADERS, stream, STATUS_200);
            let end = [goodbye(stream), setting(MAX_CONCURRENT_STREAMS, 0)].concat();
            raw.send(&[answer, end].concat()).await.unwrap();
            // The tunnel that is open runs on.
            let data = raw.until_kind(DATA, stream).await.unwrap();
            raw.send(&frame(DATA, 0, stream, &data.payload))
                .await
                .unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let old = server.open().await.unwrap();
        for _ in 0..10 {
            let mut app = application_of(server.open().await.unwrap()).await;
            echo(&mut app).await;
        }
        assert_eq!(server.connections(), 2);
        echo(&mut application_of(old).await).await;
    });
}

/// CVE-2021-32780: a server that never allows any must not make us fill the pool with connections to it.
#[test]
fn a_server_that_never_allows_streams_gets_few_connections() {
    run(async {
        let server = Hostile::always(|mut raw| async move {
            let none = setting(MAX_CONCURRENT_STREAMS, 0);
            raw.send(&none).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        for _ in 0..20 {
            assert!(server.open().await.is_err());
        }
        assert!(server.connections() <= 8, "{}", server.connections());
        assert_eq!(server.pool.usage().1, 0, "no stream is left open");
    });
}

#[test]
fn a_server_that_never_answers_costs_one_request_its_time() {
    run(async {
        let server = Hostile::first(|mut raw| async move {
            let request = raw.first_request().await;
            assert_eq!(request.stream, 1);
            while let Some(request) = raw.next().await {
                if request.kind == HEADERS {
                    let answer = frame(HEADERS, END_HEADERS, request.stream, STATUS_200);
                    raw.send(&answer).await.unwrap();
                }
            }
        })
        .await;
        let error = server.open().await.err();
        assert!(
            matches!(error, Some(ConnectError::ResponseTimeout)),
            "{error:?}"
        );
        assert_eq!(server.pool.usage(), (1, 0));
        // The connection is good for others.
        server.open().await.unwrap();
        assert_eq!(server.connections(), 1);
    });
}

/// One peer that does nothing after TCP, TLS or its half of the preface holds up nobody who wants another peer.
#[test]
fn a_server_that_stalls_delays_nobody_else() {
    run(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stalled_in_tls = silent.local_addr().unwrap();
        let stalled_in_http2 = Hostile::always(|raw| async move {
            let _raw = raw;
            std::future::pending().await
        })
        .await;
        let honest = Hostile::honest().await;
        let (pool, svid) = (&honest.pool, &honest.client_svid);
        let mut in_tls = std::pin::pin!(open(pool, ECHO, stalled_in_tls, svid));
        let mut in_http2 = std::pin::pin!(open(
            pool,
            ECHO,
            stalled_in_http2.address,
            &stalled_in_http2.client_svid
        ));
        assert!(futures_pending(in_tls.as_mut()).await);
        assert!(futures_pending(in_http2.as_mut()).await);
        for _ in 0..10 {
            echo(&mut application_of(honest.open().await.unwrap()).await).await;
        }
        let error = in_http2.await.err();
        assert!(
            matches!(error, Some(ConnectError::ResponseTimeout)),
            "{error:?}"
        );
    });
}

#[test]
fn an_answer_and_a_reset_break_one_tunnel_and_not_the_connection() {
    run(async {
        let server = Hostile::first(|mut raw| async move {
            let request = raw.first_request().await;
            let answer = frame(HEADERS, END_HEADERS, request.stream, STATUS_200);
            raw.send(&[answer, reset(request.stream)].concat())
                .await
                .unwrap();
            let request = raw.until(|frame| frame.kind == HEADERS).await.unwrap();
            let answer = frame(HEADERS, END_HEADERS, request.stream, STATUS_200);
            let data = frame(DATA, 0, request.stream, b"well");
            raw.send(&[answer, data].concat()).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let mut tunnel = server.open().await.unwrap();
        let read = poll_fn(|cx| tunnel.poll_read(cx)).await;
        assert!(matches!(read, Err(Broken::Reset)), "{read:?}");
        let mut next = server.open().await.unwrap();
        let read = poll_fn(|cx| next.poll_read(cx)).await;
        assert_eq!(read.unwrap(), "well");
        assert_eq!(server.connections(), 1);
    });
}

/// CVE-2024-27919, CVE-2026-47774, RUSTSEC-2024-0003 from a server; the pool dials another connection afterwards.
#[test]
fn answers_that_are_no_http2_fail_the_request_and_the_pool_recovers() {
    let ok = || frame(HEADERS, END_HEADERS, 1, STATUS_200);
    let huge = [STATUS_200, &bomb(60_000)].concat();
    let endless = std::iter::once(frame(HEADERS, 0, 1, STATUS_200))
        .chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]), 1000));
    let answers: [(&str, Vec<u8>); 10] = [
        ("header bomb", frame(HEADERS, END_HEADERS, 1, &huge)),
        ("endless headers", endless.collect::<Vec<_>>().concat()),
        ("data before headers", frame(DATA, 0, 1, b"x")),
        (
            "no status",
            frame(HEADERS, END_HEADERS, 1, &block(&[("x", "y")])),
        ),
        ("data on an idle stream", frame(DATA, 0, 99, b"x")),
        (
            "answer to no request",
            frame(HEADERS, END_HEADERS, 99, STATUS_200),
        ),
        (
            "push",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
        ),
        (
            "window beyond the largest",
            window_update(0, i32::MAX as u32),
        ),
        ("frame too long", frame(DATA, 0, 1, &vec![0; (1 << 20) + 1])),
        (
            "empty data",
            [ok(), frame(DATA, 0, 1, &[]).repeat(1000)].concat(),
        ),
    ];
    for (name, answer) in answers {
        run(async move {
            let server = Hostile::first(|mut raw| async move {
                raw.first_request().await;
                raw.flood([answer]).await;
                let complaints = [RST_STREAM, GOAWAY];
                raw.until(|frame| complaints.contains(&frame.kind)).await;
            })
            .await;
            // The request may have been made again at once, over another connection.
            match server.open().await {
                Err(error) => {
                    assert!(matches!(error, ConnectError::Http2(_)), "{name}: {error}");
                }
                Ok(mut tunnel) if server.connections() == 1 => {
                    let read = poll_fn(|cx| tunnel.poll_read(cx)).await;
                    assert!(read.is_err(), "{name}: {read:?}");
                }
                Ok(_) => {}
            }
            echo(&mut application_of(server.open().await.unwrap()).await).await;
        });
    }
}

/// Interim answers are allowed and forgotten at once, however many.
#[test]
fn a_flood_of_interim_answers_is_not_kept() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let minute = Duration::from_secs(60);
        let server = Hostile::first_within(minute, |mut raw| async move {
            raw.first_request().await;
            let interim = block(&[(":status", "103"), ("x", &"y".repeat(1000))]);
            let interim = frame(HEADERS, END_HEADERS, 1, &interim).repeat(100);
            count.set(raw.flood(std::iter::repeat_n(interim, 3000)).await);
            raw.send(&frame(HEADERS, END_HEADERS, 1, STATUS_200))
                .await
                .unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let before = resident();
        server.open().await.unwrap();
        let sent = sent.get();
        assert!(sent > 250 << 20, "{sent}");
        let grown = resident().saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes kept of {sent}");
    });
}

/// A server that sends beyond the window it was given.
#[test]
fn data_beyond_the_window_ends_the_connection() {
    run(async {
        let server = Hostile::first(|mut raw| async move {
            raw.first_request().await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, STATUS_200))
                .await
                .unwrap();
            let block = frame(DATA, 0, 1, &vec![0; 16 << 10]);
            raw.flood(std::iter::repeat_n(block, 10_000)).await;
        })
        .await;
        // Not read, so nothing is given back to the window.
        let stalled = server.open().await.unwrap();
        wait_until(|| server.pool.usage().0 == 0).await;
        drop(stalled);
        echo(&mut application_of(server.open().await.unwrap()).await).await;
        assert_eq!(server.connections(), 2);
    });
}

/// RUSTSEC-2024-0003 from a server that reads nothing.
#[test]
fn answers_to_a_server_that_reads_nothing_are_bounded() {
    run(async {
        let sent = Rc::new(RefCell::new(Vec::new()));
        let count = sent.clone();
        let server = Hostile::first(|mut raw| async move {
            raw.first_request().await;
            raw.send(&frame(HEADERS, END_HEADERS, 1, STATUS_200))
                .await
                .unwrap();
            for asking in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
                let blocks = std::iter::repeat_n(asking.repeat(1000), 100_000);
                let sent = raw.flood(blocks).await;
                count.borrow_mut().push(sent);
            }
            std::future::pending::<()>().await;
        })
        .await;
        let _tunnel = server.open().await.unwrap();
        wait_until(|| sent.borrow().len() == 2).await;
        let taken: usize = sent.borrow().iter().sum();
        assert!(taken < 64 << 20, "{taken} bytes taken");
    });
}

#[test]
fn a_connection_that_nobody_uses_is_released() {
    run(async {
        let server = Hostile::honest().await;
        let settings = PoolSettings {
            idle_release: Duration::from_millis(50),
            ..PoolSettings::default()
        };
        let pool = pool(settings);
        let tunnel = open(&pool, ECHO, server.address, &server.client_svid).await;
        let mut app = application_of(tunnel.unwrap()).await;
        assert_eq!(pool.usage(), (1, 1));
        // Many of its periods later it is still there, since it is in use.
        tokio::time::timeout(Duration::from_millis(500), app.readable())
            .await
            .unwrap_err();
        echo(&mut app).await;
        drop(app);
        wait_until(|| pool.usage() == (0, 0)).await;
    });
}

#[test]
fn a_connection_is_not_used_beyond_its_time() {
    run(async {
        let server = Hostile::honest().await;
        let open_until = |until| {
            let svid = &server.client_svid;
            open_until(&server.pool, ECHO, server.address, svid, Some(until))
        };
        let error = open_until(Instant::now()).await.err();
        assert!(
            matches!(
                error.as_ref().map(ConnectError::root),
                Some(ConnectError::Certificate(_))
            ),
            "{error:?}"
        );
        assert_eq!(server.connections(), 1, "no second try");

        let until = Instant::now() + Duration::from_millis(300);
        let mut old = application_of(open_until(until).await.unwrap()).await;
        wait_until(|| Instant::now() >= until).await;
        open_until(until + Duration::from_secs(60)).await.unwrap();
        assert_eq!(server.connections(), 3);
        echo(&mut old).await;
    });
}

type Script = Rc<dyn Fn(Raw) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A server whose connections follow a script, and a client with a pool.
struct Hostile {
    address: SocketAddr,
    pool: Pool<String>,
    client_svid: Arc<Svid>,
    connections: Rc<Cell<usize>>,
}

impl Hostile {
    /// The first connection follows `script`, all others are honest.
    async fn first<F: Future<Output = ()> + 'static>(
        script: impl FnOnce(Raw) -> F + 'static,
    ) -> Self {
        Self::first_within(RESPONSE_TIMEOUT, script).await
    }

    /// The same for a client that waits that long for answers.
    async fn first_within<F: Future<Output = ()> + 'static>(
        response_timeout: Duration,
        script: impl FnOnce(Raw) -> F + 'static,
    ) -> Self {
        let script = Cell::new(Some(script));
        let script: Script = Rc::new(move |raw| match script.take() {
            Some(script) => Box::pin(script(raw)),
            None => Box::pin(raw.echo_for_ever()),
        });
        Self::start(script, response_timeout).await
    }

    async fn always<F: Future<Output = ()> + 'static>(script: impl Fn(Raw) -> F + 'static) -> Self {
        Self::start(Rc::new(move |raw| Box::pin(script(raw))), RESPONSE_TIMEOUT).await
    }

    async fn honest() -> Self {
        Self::always(Raw::echo_for_ever).await
    }

    async fn start(script: Script, response_timeout: Duration) -> Self {
        let (client_svid, server_svid) = svids();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let count = connections.clone();
        spawn_local(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.set(count.get() + 1);
                let (script, svid) = (script.clone(), server_svid.clone());
                spawn_local(async move {
                    if let Some(raw) = Raw::server(tcp, &svid).await {
                        script(raw).await;
                    }
                });
            }
        });
        let settings = PoolSettings {
            response_timeout,
            ..PoolSettings::default()
        };
        Self {
            address,
            pool: pool(settings),
            client_svid,
            connections,
        }
    }

    async fn open(&self) -> Result<Tunnel, ConnectError> {
        open(&self.pool, ECHO, self.address, &self.client_svid).await
    }

    fn connections(&self) -> usize {
        self.connections.get()
    }
}

/// Memory of this process, tests at the same time included.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Whether a future is still not ready after everything else had its turn.
async fn futures_pending<F: Future>(mut future: Pin<&mut F>) -> bool {
    for _ in 0..100 {
        let ready = poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
        if ready {
            return false;
        }
        tokio::task::yield_now().await;
    }
    true
}

/// Short, for servers that never answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
