//! The TLS handshake, driven by hand so that its connection can be taken apart afterwards.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, CommonState, ServerConfig, Tls13CipherSuite,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tulle_identity::{InvalidPeer, peer_identity};
use tulle_model::SpiffeId;

use super::{
    record::{Keys, RecordLayer},
    stream::TlsStream,
};

/// Why a handshake failed. Nothing of the user's was sent by then.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed or the peer went away.
    #[error("connection lost during the TLS handshake")]
    Io(#[from] io::Error),
    /// The peer's certificate or messages were refused.
    #[error("TLS handshake failed")]
    Tls(#[from] rustls::Error),
    /// The peer did not agree to HTTP/2.
    #[error("peer did not agree to HTTP/2 by ALPN")]
    NoHttp2,
    /// The peer's chain is valid but holds no usable identity.
    #[error("peer has no usable identity")]
    Identity(#[from] InvalidPeer),
    /// The peer proved to be somebody else.
    #[error("peer proved {actual}, not an expected identity")]
    WrongIdentity {
        /// Whose certificate it was.
        actual: SpiffeId,
    },
}

/// Makes the client's side of a handshake and returns the stream with the server's identity.
///
/// # Errors
/// Besides the handshake's own, [`HandshakeError::WrongIdentity`] unless the server proved one of `expected`. An
/// empty list matches nobody.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    expected: &[SpiffeId],
) -> Result<(TlsStream, SpiffeId), HandshakeError> {
    // Verified by identity, not by name; no name is sent.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let connection = UnbufferedClientConnection::new(config, name)?;
    let (stream, peer) = drive(tcp, connection).await?;
    if expected.contains(&peer) {
        Ok((stream, peer))
    } else {
        Err(HandshakeError::WrongIdentity { actual: peer })
    }
}

/// Makes the server's side of a handshake and returns the stream with the client's identity.
///
/// # Errors
/// When the socket fails, or the client is not one that `config` accepts.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(TlsStream, SpiffeId), HandshakeError> {
    drive(tcp, UnbufferedServerConnection::new(config)?).await
}

/// What both roles of an unbuffered rustls connection have in common.
trait Role: Sized {
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_records(self, suite: &'static Tls13CipherSuite) -> Result<RecordLayer, rustls::Error>;
}

impl Role for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_records(self, suite: &'static Tls13CipherSuite) -> Result<RecordLayer, rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok(RecordLayer::new(
            Keys::Client(Box::new(kernel)),
            suite,
            secrets,
        ))
    }
}

impl Role for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_records(self, suite: &'static Tls13CipherSuite) -> Result<RecordLayer, rustls::Error> {
        let (secrets, kernel) = self.dangerous_into_kernel_connection()?;
        Ok(RecordLayer::new(
            Keys::Server(Box::new(kernel)),
            suite,
            secrets,
        ))
    }
}

/// What to do before the connection can be asked again.
enum Next {
    Again,
    Send,
    Receive,
    Done,
}

async fn drive<R: Role>(
    mut tcp: TcpStream,
    mut connection: R,
) -> Result<(TlsStream, SpiffeId), HandshakeError> {
    let mut incoming = Vec::with_capacity(FIRST_READ);
    let mut outgoing = Vec::new();
    let mut early = Vec::new();
    loop {
        let step = step(&mut connection, &mut incoming, &mut outgoing, &mut early);
        match step {
            Ok(Next::Again) => {}
            Ok(Next::Done) => break,
            Ok(Next::Send) => {
                tcp.write_all(&outgoing).await?;
                outgoing.clear();
            }
            Ok(Next::Receive) => receive(&mut tcp, &mut incoming).await?,
            Err(error) => {
                send_alert(&mut tcp, &mut connection).await;
                return Err(error.into());
            }
        }
    }
    if connection.common().alpn_protocol() != Some(b"h2") {
        return Err(HandshakeError::NoHttp2);
    }
    let peer = peer_identity(chain(connection.common()))?;
    let suite = connection
        .common()
        .negotiated_cipher_suite()
        .and_then(|suite| suite.tls13())
        .ok_or(rustls::Error::HandshakeNotComplete)?;
    let records = connection.into_records(suite)?;
    Ok((TlsStream::new(tcp, records, incoming, early), peer))
}

/// Lets the connection take one step.
fn step<R: Role>(
    connection: &mut R,
    incoming: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
    early: &mut Vec<u8>,
) -> Result<Next, rustls::Error> {
    let UnbufferedStatus { discard, state, .. } = connection.process(incoming);
    let next = match state? {
        ConnectionState::EncodeTlsData(mut data) => {
            let start = outgoing.len();
            let mut room = FIRST_WRITE;
            let written = loop {
                outgoing.resize(start + room, 0);
                let target = outgoing.get_mut(start..).unwrap_or_default();
                match data.encode(target) {
                    Ok(written) => break written,
                    Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
                    Err(EncodeError::AlreadyEncoded) => break 0,
                }
            };
            outgoing.truncate(start + written);
            Next::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Next::Send
        }
        ConnectionState::BlockedHandshake => Next::Receive,
        ConnectionState::WriteTraffic(_) => Next::Done,
        // The client may have sent data right behind the last message of its handshake.
        ConnectionState::ReadTraffic(mut data) => {
            while let Some(record) = data.next_record() {
                early.extend_from_slice(record?.payload);
            }
            Next::Again
        }
        // A peer that closes in the middle of the handshake, or early data, which is never enabled.
        _ => return Err(rustls::Error::HandshakeNotComplete),
    };
    incoming.drain(..discard);
    Ok(next)
}

async fn receive(tcp: &mut TcpStream, incoming: &mut Vec<u8>) -> io::Result<()> {
    if incoming.len() > MAX_UNPROCESSED {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "handshake message too long",
        ));
    }
    if tcp.read_buf(incoming).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Tells the peer why, as far as rustls prepared an alert and the socket takes it at once.
async fn send_alert<R: Role>(tcp: &mut TcpStream, connection: &mut R) {
    let mut outgoing = Vec::new();
    for _ in 0..MAX_ALERT_STEPS {
        match step(connection, &mut Vec::new(), &mut outgoing, &mut Vec::new()) {
            Ok(Next::Again) => {}
            Ok(Next::Send) | Ok(Next::Receive) | Ok(Next::Done) | Err(_) => break,
        }
    }
    if !outgoing.is_empty() {
        let _ = tcp.try_write(&outgoing);
    }
}

fn chain(common: &CommonState) -> &[CertificateDer<'static>] {
    common.peer_certificates().unwrap_or_default()
}

/// Room for a ClientHello with a post-quantum key share.
const FIRST_READ: usize = 4 * 1024;
/// Room for most flights; grown when rustls asks for more.
const FIRST_WRITE: usize = 4 * 1024;
/// rustls takes whole records, so more than this can only be a peer that never completes one.
const MAX_UNPROCESSED: usize = 64 * 1024;
const MAX_ALERT_STEPS: usize = 4;
