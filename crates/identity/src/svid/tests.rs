use std::time::Duration;

use proptest::prelude::*;
use tulle_testkit::{Hostile, LeafSpec, TestCa, spiffe};

use super::*;
use crate::{InvalidPeer, peer_identity};

#[test]
fn reads_the_leaf() {
    let ca = TestCa::new();
    let id = spiffe("shop", "cart");
    let minted = ca.svid(&id);
    let svid = build(&id, &minted.key, &minted.response).unwrap();
    assert_eq!(svid.id, id);
    assert_eq!(svid.chain(), minted.chain);
    assert_eq!(svid.roots().certificates(), [ca.root().clone()]);
    let life = svid.not_after().duration_since(svid.not_before()).unwrap();
    assert_eq!(life, Duration::from_secs(3720));
    assert!(!svid.serial().is_empty());
    assert!(!svid.is_expired(svid.not_after() - Duration::from_secs(1)));
    assert!(svid.is_expired(svid.not_after()));
}

#[test]
fn last_element_may_hold_several_roots_and_some_rubbish() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let id = spiffe("shop", "cart");
    let minted = ca.intermediate(None).svid(&id);
    let mut response = minted.response.clone();
    let rubbish = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\
                   -----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    let bundle = format!("{}{rubbish}{}", other.root_pem(), ca.root_pem());
    *response.last_mut().unwrap() = bundle;
    let svid = build(&id, &minted.key, &response).unwrap();
    assert_eq!(svid.chain().len(), 2);
    let roots = [other.root().clone(), ca.root().clone()];
    assert_eq!(svid.roots().certificates(), roots);
}

#[test]
fn refuses_answers_of_the_wrong_shape() {
    let ca = TestCa::new();
    let id = spiffe("shop", "cart");
    let minted = ca.svid(&id);
    let [leaf, root] = &minted.response[..] else {
        panic!("leaf and root");
    };
    let cases: [(&str, Vec<String>); 7] = [
        ("TooShort", vec![]),
        ("TooShort", vec![leaf.clone()]),
        ("TooLong", vec![leaf.clone(); 17]),
        ("Pem", vec![String::new(), root.clone()]),
        ("Pem", vec![leaf.clone(), "x".to_owned(), root.clone()]),
        ("Roots(Empty)", vec![leaf.clone(), String::new()]),
        ("Roots(TooMany)", vec![leaf.clone(), root.repeat(65)]),
    ];
    for (expected, response) in cases {
        let error = format!("{:?}", build(&id, &minted.key, &response).unwrap_err());
        assert!(error.starts_with(expected), "{expected}: {error}");
    }
}

#[test]
fn refuses_a_leaf_that_is_not_what_was_asked_for() {
    let ca = TestCa::new();
    let (id, other) = (spiffe("shop", "cart"), spiffe("shop", "db"));
    let minted = ca.svid(&other);
    let error = build(&id, &minted.key, &minted.response).unwrap_err();
    assert!(matches!(error, InvalidSvid::WrongIdentity { actual } if actual == other));

    let (mine, thine) = (ca.svid(&id), ca.svid(&id));
    let error = build(&id, &thine.key, &mine.response).unwrap_err();
    assert!(matches!(error, InvalidSvid::Key(_)), "{error:?}");

    let expired = ca.mint(&Hostile::Expired.spec(&id));
    let error = build(&id, &expired.key, &expired.response).unwrap_err();
    assert!(matches!(error, InvalidSvid::Expired), "{error:?}");

    let two = ca.mint(&Hostile::TwoUris.spec(&id));
    let error = build(&id, &two.key, &two.response).unwrap_err();
    assert!(matches!(error, InvalidSvid::Leaf(InvalidPeer::SeveralUris)));
}

#[test]
fn other_names_beside_the_uri_do_not_matter() {
    let id = spiffe("shop", "cart");
    let minted = TestCa::new().mint(&LeafSpec {
        dns: vec!["spiffe://cluster.local/ns/kube-system/sa/admin".to_owned()],
        common_name: Some("admin".to_owned()),
        ..LeafSpec::for_id(&id)
    });
    assert_eq!(peer_identity(&minted.chain), Ok(id));
    assert_eq!(peer_identity(&[]), Err(InvalidPeer::NoCertificate));
}

proptest! {
    #[test]
    fn any_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(peer_identity(&[CertificateDer::from(bytes)]).is_err());
    }

    #[test]
    fn a_damaged_chain_never_panics(position in 0usize..2000, value in any::<u8>(), cut in 0usize..2000) {
        let id = spiffe("shop", "cart");
        let minted = GOOD.with(|good| (good.0.clone(), good.1.clone_key()));
        let (mut leaf, key) = minted;
        let position = position % leaf.len();
        leaf[position] = value;
        leaf.truncate(leaf.len() - cut % leaf.len() / 8);
        let text = String::from_utf8_lossy(&leaf).into_owned();
        let _ = build(&id, &key, &[text.clone(), text]);
    }

    #[test]
    fn a_damaged_certificate_never_proves_more(position in 0usize..2000, value in any::<u8>()) {
        let id = spiffe("shop", "cart");
        let mut der = GOOD.with(|good| good.2.to_vec());
        let position = position % der.len();
        der[position] = value;
        // Without its signature anything may parse; the point is that nothing panics and names stay well formed.
        if let Ok(read) = peer_identity(&[CertificateDer::from(der)]) {
            prop_assert_eq!(read.to_string().len(), id.to_string().len());
        }
    }

    #[test]
    fn any_text_is_no_answer(response in proptest::collection::vec(".{0,80}", 0..5)) {
        let id = spiffe("shop", "cart");
        let key = GOOD.with(|good| good.1.clone_key());
        prop_assert!(build(&id, &key, &response).is_err());
    }
}

thread_local! {
    static GOOD: (Vec<u8>, PrivateKeyDer<'static>, CertificateDer<'static>) = {
        let minted = TestCa::new().svid(&spiffe("shop", "cart"));
        (minted.response[0].clone().into_bytes(), minted.key, minted.chain[0].clone())
    };
}

fn build(
    id: &SpiffeId,
    key: &PrivateKeyDer<'static>,
    response: &[String],
) -> Result<Svid, InvalidSvid> {
    Svid::from_response(id, key.clone_key(), response, WallClock::default())
}
