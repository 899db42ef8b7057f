//! The `traceparent` header: one id to find a connection by in the logs of both sides.
//!
//! Spec: W3C Trace Context §3.2.

use fastrand::Rng;

/// Name of the header.
pub const HEADER: &str = "traceparent";

/// The header of a new trace. Nothing is sampled: the flags are `00`.
pub fn header(random: &mut Rng) -> [u8; LENGTH] {
    let mut header = *b"00-00000000000000000000000000000000-0000000000000000-00";
    // Neither id may be 0.
    write_hex(&mut header, TRACE_ID, random.u128(1..));
    write_hex(&mut header, SPAN_ID, u128::from(random.u64(1..)));
    header
}

fn write_hex(header: &mut [u8; LENGTH], place: std::ops::Range<usize>, mut number: u128) {
    for digit in header.get_mut(place).into_iter().flatten().rev() {
        let value = u32::try_from(number & 0xf).unwrap_or_default();
        *digit = char::from_digit(value, 16).map_or(b'0', |c| c as u8);
        number >>= 4;
    }
}

const LENGTH: usize = 55;
const TRACE_ID: std::ops::Range<usize> = 3..35;
const SPAN_ID: std::ops::Range<usize> = 36..52;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_version_trace_span_and_flags() {
        let mut random = Rng::with_seed(1);
        let header = String::from_utf8(header(&mut random).to_vec()).unwrap();
        let parts: Vec<_> = header.split('-').collect();
        let [version, trace, span, flags] = parts[..] else {
            panic!("{header}");
        };
        assert_eq!((version, flags), ("00", "00"));
        let mut same = Rng::with_seed(1);
        assert_eq!(trace, format!("{:032x}", same.u128(1..)));
        assert_eq!(span, format!("{:016x}", same.u64(1..)));
    }

    #[test]
    fn small_ids_keep_their_zeros() {
        let mut header = *b"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-00";
        write_hex(&mut header, TRACE_ID, 0x1a);
        write_hex(&mut header, SPAN_ID, 0xb);
        let expected = b"00-0000000000000000000000000000001a-000000000000000b-00";
        assert_eq!(header, *expected);
    }
}
