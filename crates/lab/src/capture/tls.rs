//! Whether captured bytes are TLS: the plaintext headers of its records.

/// What a TLS record carries, as its header says. Under TLS 1.3 everything after the hellos says
/// `ApplicationData`.
///
/// Spec: RFC 8446 §5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// Sent once per side for old middleboxes.
    ChangeCipherSpec,
    /// An alert in the clear.
    Alert,
    /// A hello.
    Handshake,
    /// Encrypted.
    ApplicationData,
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it carries.
    pub content: ContentType,
    /// Bytes of its body.
    pub length: usize,
}

/// Reads `bytes` as TLS records from its first byte to its last; the last may be cut short.
///
/// `None` if anything in it is not a TLS record, and when there is nothing.
pub fn records(bytes: &[u8]) -> Option<Vec<Record>> {
    let mut rest = bytes;
    let mut records = Vec::new();
    while let Some((header, body)) = rest.split_at_checked(HEADER) {
        let record = record(header)?;
        records.push(record);
        rest = body.get(record.length..).unwrap_or_default();
    }
    (!records.is_empty()).then_some(records)
}

fn record(header: &[u8]) -> Option<Record> {
    let [kind, 3, 1 | 3, high, low] = header else {
        return None;
    };
    let content = match kind {
        20 => ContentType::ChangeCipherSpec,
        21 => ContentType::Alert,
        22 => ContentType::Handshake,
        23 => ContentType::ApplicationData,
        _ => return None,
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    (length > 0 && length <= LONGEST).then_some(Record { content, length })
}

const HEADER: usize = 5;
/// RFC 8446 §5.2.
const LONGEST: usize = (1 << 14) + 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_other_bytes() {
        let hello = [22, 3, 1, 0, 2, 9, 9];
        let data = [23, 3, 3, 0, 1, 7];
        let both = [&hello[..], &data].concat();
        let cut = &both[..both.len() - 1];
        assert_eq!(records(&both).unwrap().len(), 2);
        assert_eq!(records(cut).unwrap().len(), 2);
        let not_tls: [&[u8]; 5] = [
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            &[&hello[..], b"GET / HTTP"].concat(),
            &[23, 3, 3, 0xff, 0xff, 1],
            &[23, 3, 3, 0, 0, 1],
        ];
        for bytes in not_tls {
            assert_eq!(records(bytes), None, "{bytes:?}");
        }
    }
}
