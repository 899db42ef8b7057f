//! Resources from a control plane: understood, or refused; and what was understood is understood again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tulle_xds::{decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode::claimed_addresses(bytes);
    if let Ok(address) = decode::address(bytes) {
        let again = decode::address(&encode::address(&address));
        assert_eq!(again.expect("what was encoded here"), address);
    }
    if let Ok(policy) = decode::authorization(bytes) {
        let again = decode::authorization(&encode::authorization(&policy));
        assert_eq!(again.expect("what was encoded here"), policy);
    }
    if let Ok(configuration) = decode::configuration(bytes) {
        let again = decode::configuration(&encode::configuration(&configuration));
        assert_eq!(again.expect("what was encoded here"), configuration);
    }
});
