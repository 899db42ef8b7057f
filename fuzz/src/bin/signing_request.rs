//! Signing requests, as whoever has a token may write them: whatever is signed proves the identity that was asked for on the side,
//! and is good for as long as was asked for, and for no server and no signing.

#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use tulle_identity::{Svid, WallClock, ca::SigningCa, csr::KeyAndCsr, peer_identity};
use tulle_model::SpiffeId;

fuzz_target!(|der: &[u8]| {
    let (ca, id) = &*CA;
    let text = STANDARD.encode(der);
    let pem =
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    let Ok(chain) = ca.issue(&pem, id, HOUR, SystemTime::now()) else {
        return;
    };
    // Another key was certified than the one at hand, and nothing else is wrong with it.
    let ours = KeyAndCsr::generate(id).expect("a key");
    let error = Svid::from_response(id, ours.key, &chain, WallClock::default());
    assert!(error.is_err());
    let leaf = chain.first().expect("a leaf");
    let body: String = leaf.lines().filter(|line| !line.starts_with('-')).collect();
    let leaf = STANDARD.decode(body).expect("PEM").into();
    assert_eq!(peer_identity(&[leaf]).expect("an identity"), *id);
});

static CA: LazyLock<(SigningCa, SpiffeId)> = LazyLock::new(|| {
    let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart"
        .parse()
        .expect("an identity");
    let ca = SigningCa::generate(id.trust_domain(), SystemTime::now()).expect("a CA");
    (ca, id)
});

const HOUR: Duration = Duration::from_secs(3600);
