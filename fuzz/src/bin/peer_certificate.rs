//! Certificates that a peer shows: they prove an identity, or are refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tulle_identity::peer_identity;

fuzz_target!(|der: &[u8]| {
    if let Ok(id) = peer_identity(&[der.to_vec().into()]) {
        // What was read is written the same way, so that nothing compares unequal to itself.
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});
