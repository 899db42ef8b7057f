//! Puts the segments of one direction back in order.

use std::collections::BTreeMap;

use super::{MAX_PAYLOAD, packet::Segment};

/// One direction of a connection: what was seen of it, by offset from its start.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The number of the first payload byte.
    origin: Option<u32>,
    pieces: BTreeMap<usize, Vec<u8>>,
    packets: u64,
    bytes: u64,
}

impl Stream {
    pub(super) fn add(&mut self, segment: &Segment<'_>) {
        self.packets += 1;
        self.bytes += segment.payload.len() as u64;
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        // A new connection between the same ports starts the record anew.
        if segment.syn {
            self.origin = Some(first);
            self.pieces.clear();
        }
        let origin = *self.origin.get_or_insert(first);
        let offset = first.wrapping_sub(origin) as usize;
        let fits = offset
            .checked_add(segment.payload.len())
            .is_some_and(|end| end <= MAX_PAYLOAD);
        if !segment.payload.is_empty() && fits {
            let piece = self.pieces.entry(offset).or_default();
            if piece.len() < segment.payload.len() {
                *piece = segment.payload.to_vec();
            }
        }
    }

    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The payload up to the first gap.
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for (offset, piece) in &self.pieces {
            let Some(known) = payload.len().checked_sub(*offset) else {
                break;
            };
            payload.extend_from_slice(piece.get(known..).unwrap_or_default());
        }
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence number, SYN, payload.
    type Sent<'a> = (u32, bool, &'a [u8]);

    fn stream(segments: &[Sent<'_>]) -> Stream {
        let mut stream = Stream::default();
        for &(sequence, syn, payload) in segments {
            stream.add(&Segment {
                source: "10.0.0.1:1".parse().unwrap(),
                destination: "10.0.0.2:2".parse().unwrap(),
                sequence,
                syn,
                payload,
            });
        }
        stream
    }

    #[test]
    fn segments_are_put_in_order() {
        let cases: [(&str, &[Sent<'_>], &[u8]); 6] = [
            (
                "in order",
                &[(9, true, b""), (10, false, b"ab"), (12, false, b"c")],
                b"abc",
            ),
            (
                "swapped",
                &[(9, true, b""), (12, false, b"c"), (10, false, b"ab")],
                b"abc",
            ),
            (
                "repeated",
                &[(9, true, b""), (10, false, b"ab"), (10, false, b"abc")],
                b"abc",
            ),
            (
                "gap",
                &[(9, true, b""), (10, false, b"a"), (12, false, b"c")],
                b"a",
            ),
            (
                "numbers wrap",
                &[
                    (u32::MAX - 1, true, b""),
                    (u32::MAX, false, b"ab"),
                    (1, false, b"c"),
                ],
                b"abc",
            ),
            (
                "start not seen",
                &[(50, false, b"ab"), (52, false, b"c")],
                b"abc",
            ),
        ];
        for (name, segments, payload) in cases {
            assert_eq!(stream(segments).payload(), payload, "{name}");
        }
    }

    #[test]
    fn payload_is_bounded_and_bytes_are_counted_on() {
        let big = vec![1; MAX_PAYLOAD];
        let stream = stream(&[
            (0, true, b""),
            (1, false, &big),
            (1 + (1 << 20), false, b"more"),
        ]);
        assert_eq!(stream.payload().len(), MAX_PAYLOAD);
        assert_eq!(stream.bytes(), MAX_PAYLOAD as u64 + 4);
    }
}
