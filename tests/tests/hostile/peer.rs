//! A client of HBONE that does as it is told.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Result;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tulle_lab::Pod;
use tulle_testkit::Minted;

use crate::wire::{DATA, GOAWAY, HEADERS, RST_STREAM, STATUS_200, frame, preface, request};

/// What to try.
pub(crate) struct Attempt<'a> {
    /// Whose certificate to show.
    pub(crate) certificate: Option<&'a Minted>,
    /// The pseudo-header, as it is.
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

pub(crate) struct Peer(TlsStream<TcpStream>);

impl Peer {
    /// Opens a tunnel and sends a few bytes through it. Tells whether they came back; anything else that ends the
    /// attempt is a refusal.
    pub(crate) async fn tunnel(
        from: &Pod,
        to: SocketAddr,
        attempt: &Attempt<'_>,
    ) -> io::Result<bool> {
        let Ok(mut peer) = Self::connect(from, to, attempt.certificate).await else {
            return Ok(false);
        };
        Ok(peer
            .exchange(1, attempt.authority, attempt.headers)
            .await
            .unwrap_or(false))
    }

    /// TLS and the HTTP/2 preface. In TLS 1.3 a client hears of its certificate's refusal only afterwards.
    pub(crate) async fn connect(
        from: &Pod,
        to: SocketAddr,
        certificate: Option<&Minted>,
    ) -> io::Result<Self> {
        let tcp = from.connect(to).await?;
        let name = ServerName::IpAddress(to.ip().into());
        let io = TlsConnector::from(config(certificate))
            .connect(name, tcp)
            .await?;
        let mut peer = Self(io);
        peer.send(&preface()).await?;
        Ok(peer)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await?;
        self.0.flush().await
    }

    /// Asks for a tunnel and tells whether it was granted.
    pub(crate) async fn open(
        &mut self,
        stream: u32,
        authority: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<bool> {
        let fields = [
            &[(":method", "CONNECT"), (":authority", authority)],
            headers,
        ]
        .concat();
        self.send(&request(stream, &fields)).await?;
        let (kind, payload) = self.until(stream, &[HEADERS, RST_STREAM, GOAWAY]).await?;
        Ok(kind == HEADERS && payload.first() == Some(&STATUS_200))
    }

    async fn exchange(
        &mut self,
        stream: u32,
        authority: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<bool> {
        if !self.open(stream, authority, headers).await? {
            return Ok(false);
        }
        self.send(&frame(DATA, 0, stream, b"attack")).await?;
        let (kind, payload) = self.until(stream, &[DATA, RST_STREAM, GOAWAY]).await?;
        Ok(kind == DATA && payload == b"attack")
    }

    /// The next frame of one of `kinds` on `stream` or for the whole connection.
    pub(crate) async fn until(&mut self, stream: u32, kinds: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await?;
            let [a, b, c, kind, _flags, on @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.0.read_exact(&mut payload).await?;
            let on = u32::from_be_bytes(on);
            if kinds.contains(&kind) && (on == stream || on == 0) {
                return Ok((kind, payload));
            }
        }
    }

    /// Reads until the other end closes.
    pub(crate) async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while self
            .0
            .read(&mut buffer)
            .await
            .is_ok_and(|length| length > 0)
        {}
    }
}

fn config(certificate: Option<&Minted>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = match certificate {
        Some(minted) => config
            .with_client_auth_cert(minted.chain.clone(), minted.key.clone_key())
            .expect("key and certificate belong together"),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// An attacker does not care whom it attacks.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
