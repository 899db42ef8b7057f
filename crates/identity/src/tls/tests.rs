use std::io;

use rustls::{HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector, client, server};
use tulle_testkit::{Hostile, LeafSpec, Minted, TestCa, Trickle, Usage, spiffe};

use super::*;
use crate::{InvalidPeer, peer_identity};

type Stream = Trickle<tokio::io::DuplexStream>;
type Ends = (
    io::Result<client::TlsStream<Stream>>,
    io::Result<server::TlsStream<Stream>>,
);

#[tokio::test]
async fn mutual_handshake_uses_the_profile() {
    let ca = TestCa::new();
    let (cart, db) = (spiffe("shop", "cart"), spiffe("shop", "db"));
    let (client, server) = handshake(
        client_of(&ca.svid(&cart), &ca),
        server_of(&ca.svid(&db), &ca),
    )
    .await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());

    server.write_all(b"after the handshake").await.unwrap();
    let mut greeting = [0; 19];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"after the handshake");

    let (_, connection) = client.get_ref();
    assert_eq!(
        peer_identity(connection.peer_certificates().unwrap()),
        Ok(db)
    );
    assert_eq!(connection.alpn_protocol(), Some(ALPN));
    assert_eq!(
        connection.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let suite = connection.negotiated_cipher_suite().unwrap();
    assert_eq!(suite.suite(), rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
    let group = connection.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(connection.tls13_tickets_received(), 0);

    let (_, connection) = server.get_ref();
    assert_eq!(
        peer_identity(connection.peer_certificates().unwrap()),
        Ok(cart)
    );
    assert_eq!(connection.server_name(), None);
}

#[tokio::test]
async fn hostile_certificates_are_refused_by_servers_and_clients() {
    let ca = TestCa::new();
    let id = spiffe("shop", "cart");
    let good = ca.svid(&spiffe("shop", "db"));
    for hostile in Hostile::ALL {
        let bad = ca.mint(&hostile.spec(&id));
        let (_, refused) = handshake(client_of(&bad, &ca), server_of(&good, &ca)).await;
        assert_refused(refused.map(|_| ()), hostile, "by a server");
        let (refused, _) = handshake(client_of(&good, &ca), server_of(&bad, &ca)).await;
        assert_refused(refused.map(|_| ()), hostile, "by a client");
    }
}

#[tokio::test]
async fn a_certificate_serves_only_its_usage() {
    let ca = TestCa::new();
    let id = spiffe("shop", "cart");
    let only = |usage| {
        ca.mint(&LeafSpec {
            usages: vec![usage],
            ..LeafSpec::for_id(&id)
        })
    };
    let (as_server, as_client) = (only(Usage::Server), only(Usage::Client));
    let (client, server) = handshake(client_of(&as_client, &ca), server_of(&as_server, &ca)).await;
    client.unwrap();
    server.unwrap();
    let (client, _) = handshake(client_of(&as_client, &ca), server_of(&as_client, &ca)).await;
    assert_error(client.map(|_| ()), "RequiredEkuNotFound");
    let (_, server) = handshake(client_of(&as_server, &ca), server_of(&as_server, &ca)).await;
    assert_error(server.map(|_| ()), "RequiredEkuNotFound");
}

#[tokio::test]
async fn server_refuses_another_trust_domain_and_client_leaves_it_to_its_caller() {
    let ca = TestCa::new();
    let own = ca.svid(&spiffe("shop", "db"));
    let foreign = "spiffe://elsewhere/ns/shop/sa/db".parse().unwrap();
    let foreign = ca.svid(&foreign);
    let (_, server) = handshake(client_of(&foreign, &ca), server_of(&own, &ca)).await;
    assert_error(server.map(|_| ()), "TrustDomain");
    let (client, _) = handshake(client_of(&own, &ca), server_of(&foreign, &ca)).await;
    let client = client.unwrap();
    let chain = client.get_ref().1.peer_certificates().unwrap();
    assert_eq!(
        peer_identity(chain).unwrap().trust_domain().as_str(),
        "elsewhere"
    );
}

#[tokio::test]
async fn chain_must_lead_to_our_roots() {
    let (ours, theirs) = (TestCa::new(), TestCa::new());
    let id = spiffe("shop", "cart");
    let (good, bad) = (ours.svid(&id), theirs.svid(&id));
    // Both roots have one name, as two generations of a root have.
    let (_, server) = handshake(client_of(&bad, &ours), server_of(&good, &ours)).await;
    assert_error(server.map(|_| ()), "BadSignature");
    let (client, _) = handshake(client_of(&good, &ours), server_of(&bad, &ours)).await;
    assert_error(client.map(|_| ()), "BadSignature");

    let mut below = ours.intermediate(None).svid(&id);
    let (client, server) = handshake(client_of(&below, &ours), server_of(&below, &ours)).await;
    client.unwrap();
    server.unwrap();
    below.chain.truncate(1);
    let (_, server) = handshake(client_of(&below, &ours), server_of(&good, &ours)).await;
    assert_error(server.map(|_| ()), "UnknownIssuer");
    let constrained = ours.intermediate(Some("elsewhere")).svid(&id);
    let (_, server) = handshake(client_of(&constrained, &ours), server_of(&good, &ours)).await;
    assert_error(server.map(|_| ()), "NameConstraintViolation");
}

#[tokio::test]
async fn either_root_of_a_rotation_is_good() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let both = [new.root_pem(), old.root_pem()].concat();
    let both = Arc::new(Roots::from_pem(both.as_bytes()).unwrap());
    let id = spiffe("shop", "cart");
    for (client_ca, server_ca) in [(&old, &new), (&new, &old)] {
        let (client, server) = (client_ca.svid(&id), server_ca.svid(&id));
        let clock = WallClock::default();
        let server = server_config(
            certified(&server),
            both.clone(),
            id.trust_domain().clone(),
            clock.clone(),
        );
        let client = client_config(certified(&client), both.clone(), clock);
        let (client, server) = handshake(client.unwrap(), server.unwrap()).await;
        client.unwrap();
        server.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let ca = TestCa::new();
    let good = ca.svid(&spiffe("shop", "db"));
    let stolen = Minted {
        chain: ca.svid(&spiffe("shop", "cart")).chain,
        ..ca.svid(&spiffe("shop", "thief"))
    };
    let (_, server) = handshake(client_of(&stolen, &ca), server_of(&good, &ca)).await;
    assert_error(server.map(|_| ()), "BadSignature");
    let (client, _) = handshake(client_of(&good, &ca), server_of(&stolen, &ca)).await;
    assert_error(client.map(|_| ()), "BadSignature");
}

#[tokio::test]
async fn client_certificate_and_h2_are_mandatory() {
    let ca = TestCa::new();
    let good = ca.svid(&spiffe("shop", "db"));
    let anonymous = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::any_trust_domain(
            roots(&ca),
            provider(),
        )))
        .with_no_client_auth();
    let mut anonymous_h2 = anonymous.clone();
    anonymous_h2.alpn_protocols = vec![ALPN.to_vec()];
    let (_, server) = handshake(anonymous_h2, server_of(&good, &ca)).await;
    assert_error(server.map(|_| ()), "NoCertificatesPresented");

    let mut http1 = client_of(&good, &ca);
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (_, server) = handshake(http1, server_of(&good, &ca)).await;
    assert_error(server.map(|_| ()), "NoApplicationProtocol");
}

#[tokio::test]
async fn handshake_survives_single_byte_segments() {
    let ca = TestCa::new();
    let (cart, db) = (ca.svid(&spiffe("a", "cart")), ca.svid(&spiffe("a", "db")));
    let (near, far) = duplex(64 << 10);
    let connect = TlsConnector::from(Arc::new(client_of(&cart, &ca)))
        .connect(no_server_name(), Trickle::new(near, 1));
    let accept = async {
        // Servers choose the certificate after reading the first message.
        let start = LazyConfigAcceptor::new(Default::default(), Trickle::new(far, 1)).await?;
        assert_eq!(start.client_hello().server_name(), None);
        start.into_stream(Arc::new(server_of(&db, &ca))).await
    };
    let (client, server) = tokio::join!(connect, accept);
    client.unwrap();
    server.unwrap();
}

#[tokio::test]
async fn garbage_instead_of_a_client_hello_is_an_error() {
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0, 0],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0x80, 0x2e, 1, 0, 2],
    ] {
        let (mut near, far) = duplex(1 << 10);
        near.write_all(garbage).await.unwrap();
        drop(near);
        let result = LazyConfigAcceptor::new(Default::default(), Trickle::new(far, 1)).await;
        assert!(result.is_err(), "{garbage:x?}");
    }
}

#[test]
fn preferences_are_ours() {
    let provider = provider();
    let groups: Vec<_> = provider
        .kx_groups
        .iter()
        .map(|group| group.name())
        .collect();
    assert_eq!(
        groups,
        [
            NamedGroup::X25519MLKEM768,
            NamedGroup::X25519,
            NamedGroup::secp256r1,
            NamedGroup::secp384r1
        ]
    );
    assert_eq!(provider.cipher_suites.len(), 2);
}

async fn handshake(client: ClientConfig, server: ServerConfig) -> Ends {
    let (near, far) = duplex(64 << 10);
    let (near, far) = (Trickle::new(near, 4096), Trickle::new(far, 4096));
    let connect = TlsConnector::from(Arc::new(client)).connect(no_server_name(), near);
    let accept = TlsAcceptor::from(Arc::new(server)).accept(far);
    tokio::join!(connect, accept)
}

/// A configuration that shows any certificate, good or not.
fn client_of(minted: &Minted, ca: &TestCa) -> ClientConfig {
    client_config(certified(minted), roots(ca), WallClock::default()).unwrap()
}

fn server_of(minted: &Minted, ca: &TestCa) -> ServerConfig {
    let trust_domain = peer_identity(&minted.chain)
        .map(|id| id.trust_domain().clone())
        .unwrap_or_default();
    let (key, clock) = (certified(minted), WallClock::default());
    server_config(key, roots(ca), trust_domain, clock).unwrap()
}

fn certified(minted: &Minted) -> Arc<CertifiedKey> {
    let key = provider()
        .key_provider
        .load_private_key(minted.key.clone_key());
    Arc::new(CertifiedKey::new(minted.chain.clone(), key.unwrap()))
}

fn roots(ca: &TestCa) -> Arc<Roots> {
    Arc::new(Roots::from_pem(ca.root_pem().as_bytes()).unwrap())
}

fn assert_refused(result: io::Result<()>, hostile: Hostile, by: &str) {
    let error = format!(
        "{:?}",
        result.expect_err(&format!("{hostile:?} accepted {by}"))
    );
    let expected = match hostile {
        Hostile::TwoUris => format!("{:?}", InvalidPeer::SeveralUris),
        Hostile::NulInUri | Hostile::HttpsUri | Hostile::OtherPath => "NotSpiffe".to_owned(),
        Hostile::DnsOnly | Hostile::OtherName | Hostile::CommonName | Hostile::Nameless => {
            format!("{:?}", InvalidPeer::NoUri)
        }
        Hostile::Expired => "ExpiredContext".to_owned(),
        Hostile::NotYetValid => "NotValidYetContext".to_owned(),
        Hostile::WrongUsage => "RequiredEkuNotFound".to_owned(),
        Hostile::NoUsage => format!("{:?}", InvalidPeer::NoKeyUsage),
        Hostile::Ca => "CaUsedAsEndEntity".to_owned(),
    };
    assert!(error.contains(&expected), "{hostile:?} {by}: {error}");
}

fn assert_error(result: io::Result<()>, expected: &str) {
    let error = format!("{:?}", result.expect_err(expected));
    assert!(error.contains(expected), "{error}");
}
