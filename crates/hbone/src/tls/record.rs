//! The TLS 1.3 record layer of one connection after its handshake.
//!
//! Records are sealed and opened by the ciphers of rustls, with the keys of rustls; what is ours is only the framing,
//! the sequence numbers, and the reaction to the few messages that may come after a handshake. Opening works in place,
//! sealing copies the plaintext once.
//!
//! ```text
//! record: type u8 = 23 | version u16 = 0x0303 | length u16 | ciphertext (plaintext, inner type, padding) + 16 byte tag
//! ```
//!
//! Spec: RFC 8446 §5 (records), §4.6 (post-handshake messages), §6 (alerts).

use rustls::{
    ConnectionTrafficSecrets, ContentType, ExtractedSecrets, ProtocolVersion, Tls13CipherSuite,
    client::ClientConnectionData,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
        OutboundPlainMessage,
    },
    kernel::KernelConnection,
    server::ServerConnectionData,
};

/// Bytes of a record header.
pub(super) const HEADER: usize = 5;
/// Most plaintext bytes in one record.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;
/// Most bytes after the header of one record: plaintext, inner type and padding, tag.
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// Post-handshake messages that a peer may send between two records with data. Tickets come in twos and fours, key
/// updates once in many gigabytes; a peer that sends more wants to burn our time.
const MAX_CONSECUTIVE_CONTROL: u32 = 32;
/// Longest post-handshake message that is put together from several records.
const MAX_HANDSHAKE_MESSAGE: usize = 64 * 1024;
/// Records sealed under one key before it is replaced, as a margin below the cipher's own limit.
const KEY_UPDATE_MARGIN: u64 = 1 << 10;

const ALERT_CLOSE_NOTIFY: u8 = 0;
const ALERT_USER_CANCELED: u8 = 90;
const HANDSHAKE_NEW_SESSION_TICKET: u8 = 4;
const HANDSHAKE_KEY_UPDATE: u8 = 24;

/// Why the records of a connection stopped making sense. Always fatal.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// A record that cannot be, by its header.
    #[error("malformed TLS record")]
    Malformed,
    /// Wrong key, forged bytes, or a cipher limit.
    #[error("TLS record could not be opened or sealed")]
    Cipher(#[source] rustls::Error),
    /// The peer reported an error.
    #[error("TLS alert {0} received")]
    Alert(u8),
    /// A message that may not come after a handshake, or too many that may.
    #[error("unexpected TLS message")]
    Unexpected,
}

/// What one record turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Data; the length of its plaintext, which starts right after the header.
    Data(usize),
    /// Something for the TLS layer, already dealt with.
    Control,
    /// The peer will send no more.
    Closed,
}

/// The connection object that remains after the keys were taken out of it.
pub(super) enum Keys {
    Client(Box<KernelConnection<ClientConnectionData>>),
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Keys {
    fn next_tx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_rx(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// Both directions of one connection.
pub(super) struct RecordLayer {
    keys: Keys,
    suite: &'static Tls13CipherSuite,
    encrypter: Box<dyn MessageEncrypter>,
    tx_sequence: u64,
    decrypter: Box<dyn MessageDecrypter>,
    rx_sequence: u64,
    /// A post-handshake message of which a part has come.
    partial_handshake: Vec<u8>,
    consecutive_control: u32,
    key_update_owed: bool,
}

impl RecordLayer {
    pub(super) fn new(
        keys: Keys,
        suite: &'static Tls13CipherSuite,
        secrets: ExtractedSecrets,
    ) -> Self {
        let (tx_sequence, tx) = secrets.tx;
        let (rx_sequence, rx) = secrets.rx;
        Self {
            keys,
            suite,
            encrypter: encrypter(suite, tx),
            tx_sequence,
            decrypter: decrypter(suite, rx),
            rx_sequence,
            partial_handshake: Vec::new(),
            consecutive_control: 0,
            key_update_owed: false,
        }
    }

    /// Total length of the record at the start of `bytes`, once its header is there.
    pub(super) fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, major, _minor, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // After the handshake every record is protected, and protected records look like application data.
        if kind != u8::from(ContentType::ApplicationData) || major != 3 || length > MAX_CIPHERTEXT {
            return Err(RecordError::Malformed);
        }
        Ok(Some(HEADER + length))
    }

    /// Opens one whole record in place.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let body = record.get_mut(HEADER..).ok_or(RecordError::Malformed)?;
        let message =
            InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, body);
        let message = self
            .decrypter
            .decrypt(message, self.rx_sequence)
            .map_err(RecordError::Cipher)?;
        self.rx_sequence += 1;
        let (kind, length) = (message.typ, message.payload.len());
        if kind == ContentType::ApplicationData && length > 0 {
            self.consecutive_control = 0;
            return Ok(Opened::Data(length));
        }
        self.consecutive_control += 1;
        if self.consecutive_control > MAX_CONSECUTIVE_CONTROL {
            return Err(RecordError::Unexpected);
        }
        match kind {
            ContentType::ApplicationData => Ok(Opened::Control),
            ContentType::Alert => alert(message.payload),
            ContentType::Handshake => {
                self.partial_handshake.extend_from_slice(message.payload);
                self.post_handshake()?;
                Ok(Opened::Control)
            }
            _ => Err(RecordError::Unexpected),
        }
    }

    /// Seals one record of at most [`MAX_PLAINTEXT`] bytes. Key updates that are due come first, so up to three
    /// records may be pushed.
    pub(super) fn seal(
        &mut self,
        plaintext: OutboundChunks<'_>,
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<(), RecordError> {
        let limit = self.suite.common.confidentiality_limit - KEY_UPDATE_MARGIN;
        if self.key_update_owed || self.tx_sequence >= limit {
            self.update_tx_key(out)?;
        }
        out(self.seal_as(ContentType::ApplicationData, plaintext)?);
        Ok(())
    }

    /// Whether the peer asked for new keys and has not got them yet.
    pub(super) fn key_update_owed(&self) -> bool {
        self.key_update_owed
    }

    /// Tells the peer that the key changes, and changes it.
    pub(super) fn update_tx_key(
        &mut self,
        out: &mut impl FnMut(Vec<u8>),
    ) -> Result<(), RecordError> {
        const UPDATE_NOT_REQUESTED: [u8; 5] = [HANDSHAKE_KEY_UPDATE, 0, 0, 1, 0];
        out(self.seal_as(
            ContentType::Handshake,
            OutboundChunks::Single(&UPDATE_NOT_REQUESTED),
        )?);
        let (sequence, secrets) = self.keys.next_tx().map_err(RecordError::Cipher)?;
        self.encrypter = encrypter(self.suite, secrets);
        self.tx_sequence = sequence;
        self.key_update_owed = false;
        Ok(())
    }

    /// The record that says we will send no more.
    pub(super) fn close_notify(&mut self) -> Result<Vec<u8>, RecordError> {
        const WARNING: u8 = 1;
        self.seal_as(
            ContentType::Alert,
            OutboundChunks::Single(&[WARNING, ALERT_CLOSE_NOTIFY]),
        )
    }

    fn seal_as(
        &mut self,
        typ: ContentType,
        payload: OutboundChunks<'_>,
    ) -> Result<Vec<u8>, RecordError> {
        let message = OutboundPlainMessage {
            typ,
            version: ProtocolVersion::TLSv1_3,
            payload,
        };
        let sealed = self
            .encrypter
            .encrypt(message, self.tx_sequence)
            .map_err(RecordError::Cipher)?;
        self.tx_sequence += 1;
        Ok(sealed.encode())
    }

    /// Handles the whole messages that have come; keeps the rest.
    fn post_handshake(&mut self) -> Result<(), RecordError> {
        while let Some(&[kind, a, b, c]) = self.partial_handshake.first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c]))
                .map_err(|_| RecordError::Malformed)?;
            if length > MAX_HANDSHAKE_MESSAGE {
                return Err(RecordError::Unexpected);
            }
            let Some(body) = self.partial_handshake.get(4..4 + length) else {
                return Ok(());
            };
            match (kind, body) {
                // Nothing is ever resumed, so tickets are of no use.
                (HANDSHAKE_NEW_SESSION_TICKET, _) if matches!(self.keys, Keys::Client(_)) => {}
                (HANDSHAKE_KEY_UPDATE, &[requested @ (0 | 1)]) => {
                    // A key update ends the old key: nothing may follow it in the same record.
                    if self.partial_handshake.len() != 4 + length {
                        return Err(RecordError::Unexpected);
                    }
                    let (sequence, secrets) = self.keys.next_rx().map_err(RecordError::Cipher)?;
                    self.decrypter = decrypter(self.suite, secrets);
                    self.rx_sequence = sequence;
                    self.key_update_owed |= requested == 1;
                }
                _ => return Err(RecordError::Unexpected),
            }
            self.partial_handshake.drain(..4 + length);
        }
        if self.partial_handshake.is_empty() {
            self.partial_handshake = Vec::new();
        }
        Ok(())
    }
}

fn alert(payload: &[u8]) -> Result<Opened, RecordError> {
    match *payload {
        [_, ALERT_CLOSE_NOTIFY] => Ok(Opened::Closed),
        [_, ALERT_USER_CANCELED] => Ok(Opened::Control),
        [_, description] => Err(RecordError::Alert(description)),
        _ => Err(RecordError::Malformed),
    }
}

fn encrypter(
    suite: &'static Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Box<dyn MessageEncrypter> {
    let (key, iv) = key_and_iv(secrets);
    suite.aead_alg.encrypter(key, iv)
}

fn decrypter(
    suite: &'static Tls13CipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Box<dyn MessageDecrypter> {
    let (key, iv) = key_and_iv(secrets);
    suite.aead_alg.decrypter(key, iv)
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> (AeadKey, Iv) {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        // The enum may grow; the suites that this project configures may not.
        _ => unreachable!("only AES-GCM suites are ever configured"),
    }
}
