//! Abuse below HTTP/2: of TLS records, of the messages that may follow a handshake, and of the handshake itself.

use std::sync::Arc;

use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion, Tls13CipherSuite,
    crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, TlsStream};
use tulle_hbone::tls;
use tulle_testkit::Trickle;

use crate::{
    frames::{DATA, PING, connect, frame, preface},
    lab::{ECHO, Lab, SERVER, run, svids, wait_until},
    raw::{Raw, STATUS_200},
};

/// RUSTSEC-2024-0399: the ClientHello comes byte by byte, and in many records.
#[test]
fn a_client_hello_in_pieces_is_put_together() {
    for max_fragment_size in [None, Some(64)] {
        run(async move {
            let lab = Lab::start().await;
            let tcp = TcpStream::connect(lab.server).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let mut config = (**lab.client_svid.client_config()).clone();
            config.max_fragment_size = max_fragment_size;
            let name = ServerName::try_from("ignored.test").unwrap();
            let mut io = TlsConnector::from(Arc::new(config))
                .connect(name, Trickle::new(tcp, 1))
                .await
                .unwrap();
            let request = [preface(), connect(1, ECHO), frame(DATA, 0, 1, b"hello")].concat();
            io.write_all(&request).await.unwrap();
            io.flush().await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                answer.push(io.read_u8().await.unwrap());
            }
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// A handshake message that promises more than any certificate chain, and records that hold nothing.
#[test]
fn a_handshake_that_never_ends_is_cut() {
    let endless = record(22, &[&[1, 0xff, 0xff, 0xff][..], &[0; 16_000]].concat());
    let empty = record(22, &[]);
    for (name, bytes) in [("long message", endless), ("empty records", empty)] {
        run(async move {
            let lab = Lab::start().await;
            let mut tcp = TcpStream::connect(lab.server).await.unwrap();
            let mut sent = 0;
            while tcp.write_all(&bytes).await.is_ok() {
                sent += bytes.len();
                assert!(sent < 32 << 20, "{name}: {sent} bytes taken");
            }
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// New keys for every few bytes: each asks for work and an answer, and none of the answers is read.
#[test]
fn answers_to_key_updates_are_bounded() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        // Bytes of one long frame that never ends, so that no PING answer hides the effect.
        attacker.send(&connect(1, ECHO)).await.unwrap();
        attacker
            .send(&[0x0f, 0, 0, DATA, 0, 0, 0, 0, 1])
            .await
            .unwrap();
        wait_until(|| lab.received(&attacker).is_some()).await;
        // Far fewer fill the buffers of both sockets.
        for _ in 0..40_000 {
            let before = lab.received(&attacker).unwrap();
            let (_, connection) = client_of(&mut attacker);
            connection.refresh_traffic_keys().unwrap();
            attacker.send(b"x").await.unwrap();
            // So that the server answers them one by one.
            wait_until(|| lab.received(&attacker).unwrap() > before).await;
        }
        let queued = lab.queued(&attacker).unwrap();
        assert!(
            (200 << 10..300 << 10).contains(&queued),
            "{queued} bytes of answers"
        );
        lab.assert_honest_client_is_served().await;
    });
}

/// The same in one go.
#[test]
fn key_updates_without_data_between_them_end_the_connection() {
    run(async {
        let lab = Lab::start().await;
        let mut attacker = lab.attacker().await;
        for _ in 0..100 {
            let (_, connection) = client_of(&mut attacker);
            connection.refresh_traffic_keys().unwrap();
        }
        attacker.flood([frame(PING, 0, 0, &[0; 8])]).await;
        let ended = lab.end_of(&attacker).await.unwrap_err();
        assert!(
            format!("{ended:?}").contains("unexpected TLS message"),
            "{ended:?}"
        );
        lab.assert_honest_client_is_served().await;
    });
}

/// What may not come after a handshake, or not that often.
#[test]
fn records_that_carry_nothing_useful_end_the_connection() {
    let ticket = [&[4, 0, 0, 13][..], &[0; 13]].concat();
    let cases: [(&str, ContentType, Vec<u8>, usize); 8] = [
        ("empty data", ContentType::ApplicationData, Vec::new(), 33),
        ("closing soon", ContentType::Alert, vec![1, 90], 33),
        ("ticket from a client", ContentType::Handshake, ticket, 1),
        (
            "another ClientHello",
            ContentType::Handshake,
            vec![1, 0, 0, 1, 0],
            1,
        ),
        (
            "bad key update",
            ContentType::Handshake,
            vec![24, 0, 0, 1, 2],
            1,
        ),
        (
            "bytes of a long message",
            ContentType::Handshake,
            vec![4],
            33,
        ),
        ("bad alert", ContentType::Alert, vec![2], 1),
        ("cipher change", ContentType::ChangeCipherSpec, vec![1], 1),
    ];
    for (name, kind, payload, times) in cases {
        run(async move {
            let lab = Lab::start().await;
            let attacker = Raw::client(lab.server, &lab.client_svid).await;
            let (address, mut records) = (attacker.address, Sealer::of(attacker));
            let start = [preface(), connect(1, ECHO)].concat();
            records.send(ContentType::ApplicationData, &start).await;
            for _ in 0..times {
                records.send(kind, &payload).await;
            }
            let ended = lab.end_at(address).await;
            assert!(ended.is_err(), "{name}: {ended:?}");
            lab.assert_honest_client_is_served().await;
        });
    }
}

/// The same number of them with data in between is nothing.
#[test]
fn a_few_records_without_data_are_read_over() {
    run(async {
        let lab = Lab::start().await;
        let attacker = Raw::client(lab.server, &lab.client_svid).await;
        let (address, mut records) = (attacker.address, Sealer::of(attacker));
        records.send(ContentType::ApplicationData, &preface()).await;
        for _ in 0..10 {
            for _ in 0..31 {
                records.send(ContentType::ApplicationData, &[]).await;
            }
            let ping = frame(PING, 0, 0, &[0; 8]);
            records.send(ContentType::ApplicationData, &ping).await;
        }
        records.send(ContentType::Alert, &[1, 0]).await;
        let ended = lab.end_at(address).await;
        assert!(ended.is_ok(), "{ended:?}");
    });
}

/// A server that sends tickets for ever to our client, which has no use for any.
#[test]
fn a_flood_of_tickets_ends_our_clients_connection() {
    run(async {
        let (client, server) = svids();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let expected = [SERVER.parse().unwrap()];
        let (near, far) = tokio::join!(
            tls::connect(tcp, client.client_config().clone(), &expected),
            Raw::server(far, &server)
        );
        let (mut near, mut records) = (near.unwrap().0, Sealer::of(far.unwrap()));
        let ticket = [&[4, 0, 0, 13][..], &[0; 13]].concat();
        for _ in 0..4 {
            records.send(ContentType::Handshake, &ticket).await;
        }
        records.send(ContentType::ApplicationData, STATUS_200).await;
        assert_eq!(near.read_u8().await.unwrap(), STATUS_200[0]);
        for _ in 0..33 {
            records.send(ContentType::Handshake, &ticket).await;
        }
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.to_string(), "unexpected TLS message");
    });
}

/// Writes whatever records a test wants with the keys of a finished handshake.
struct Sealer {
    tcp: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Sealer {
    /// Nothing must have been sent: the ciphers insist on counting from zero.
    fn of(raw: Raw) -> Self {
        let (tcp, secrets, suite) = match raw.io {
            TlsStream::Client(stream) => {
                let (tcp, connection) = stream.into_inner();
                let suite = connection.negotiated_cipher_suite();
                (tcp, connection.dangerous_extract_secrets(), suite)
            }
            TlsStream::Server(stream) => {
                let (tcp, connection) = stream.into_inner();
                let suite = connection.negotiated_cipher_suite();
                (tcp, connection.dangerous_extract_secrets(), suite)
            }
        };
        let (sequence, secrets) = secrets.unwrap().tx;
        let suite: &Tls13CipherSuite = suite.unwrap().tls13().unwrap();
        let (key, iv): (AeadKey, Iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (key, iv),
            _ => panic!("another suite"),
        };
        Self {
            tcp,
            encrypter: suite.aead_alg.encrypter(key, iv),
            sequence,
        }
    }

    /// Sends one record. That the peer has hung up shows elsewhere.
    async fn send(&mut self, typ: ContentType, payload: &[u8]) {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_3,
            payload: OutboundChunks::Single(payload),
        };
        let sealed = self.encrypter.encrypt(message, self.sequence).unwrap();
        self.sequence += 1;
        let _ = self.tcp.write_all(&sealed.encode()).await;
    }
}

fn client_of(raw: &mut Raw) -> (&mut TcpStream, &mut rustls::ClientConnection) {
    match &mut raw.io {
        TlsStream::Client(stream) => stream.get_mut(),
        TlsStream::Server(_) => panic!("a server"),
    }
}

/// A record in the clear.
fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3, high, low][..], payload].concat()
}
