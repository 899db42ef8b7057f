use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use tulle_testkit::{TestCa, spiffe};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::*;
use crate::{Svid, WallClock, csr::KeyAndCsr, peer_identity};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let (ca, now) = (new_ca(), SystemTime::now());
    let id = spiffe("shop", "cart");
    let key = KeyPair::generate().unwrap();
    let plain = CertificateParams::default().serialize_request(&key);
    let mut hostile = CertificateParams::new(vec!["kubernetes.default.svc".to_owned()]).unwrap();
    hostile.distinguished_name.push(DnType::CommonName, "admin");
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
    hostile
        .subject_alt_names
        .push(SanType::URI(admin.try_into().unwrap()));
    hostile.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    hostile.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    hostile.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::CodeSigning,
    ];
    let hostile = hostile.serialize_request(&key);

    let issue = |csr: Result<rcgen::CertificateSigningRequest, rcgen::Error>| {
        let csr = csr.unwrap().pem().unwrap();
        leaf(&ca.issue(&csr, &id, HOUR, now).unwrap())
    };
    let (plain, hostile) = (issue(plain), issue(hostile));
    let (plain, hostile) = (parse(&plain), parse(&hostile));
    // Serial number and signature differ; all else is the template.
    let rest = |certificate: &X509Certificate<'_>| {
        let tbs = &certificate.tbs_certificate;
        let raw: &[u8] = tbs.as_ref();
        let serial_end = raw
            .windows(tbs.raw_serial().len())
            .position(|window| window == tbs.raw_serial())
            .unwrap()
            + tbs.raw_serial().len();
        raw[serial_end..].to_vec()
    };
    assert_eq!(rest(&plain), rest(&hostile));
    assert_ne!(plain.raw_serial(), hostile.raw_serial());
}

#[test]
fn the_template() {
    let (ca, now) = (new_ca(), SystemTime::now());
    let id = spiffe("shop", "cart");
    let request = KeyAndCsr::generate(&id).unwrap();
    let der = leaf(&ca.issue(&request.csr_pem, &id, HOUR, now).unwrap());
    let certificate = parse(&der);
    assert_eq!(certificate.subject().iter().count(), 0);
    let oids: Vec<_> = certificate
        .extensions()
        .iter()
        .map(|extension| (extension.oid.to_id_string(), extension.critical))
        .collect();
    let expected = [
        ("2.5.29.35", false), // authority key identifier
        ("2.5.29.17", true),  // subject alternative name
        ("2.5.29.15", true),  // key usage
        ("2.5.29.37", false), // extended key usage
        ("2.5.29.14", false), // subject key identifier
        ("2.5.29.19", true),  // basic constraints
    ];
    assert_eq!(
        oids,
        expected.map(|(oid, critical)| (oid.to_owned(), critical))
    );
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.to_string(), "Digital Signature, Key Encipherment");
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && extended.other.is_empty());
    assert!(!(extended.any || extended.code_signing || extended.ocsp_signing));
    assert!(!certificate.is_ca());
    assert_eq!(peer_identity(std::slice::from_ref(&der)), Ok(id));
    assert!(certificate.raw_serial().len() > 12, "random 128 bit");
    let seconds = |at: x509_parser::time::ASN1Time| from_unix_seconds(at.timestamp());
    let validity = certificate.validity();
    let age = now.duration_since(seconds(validity.not_before)).unwrap();
    assert!((120..=121).contains(&age.as_secs()), "{age:?}");
    let left = seconds(validity.not_after).duration_since(now).unwrap();
    assert!((3598..=3600).contains(&left.as_secs()), "{left:?}");
}

#[test]
fn a_certificate_never_outlives_its_signer() {
    let (ca, now) = (new_ca(), SystemTime::now());
    let id = spiffe("shop", "cart");
    let request = KeyAndCsr::generate(&id).unwrap();
    let end = |ttl, now| {
        let chain = ca.issue(&request.csr_pem, &id, ttl, now)?;
        let der = leaf(&chain);
        let not_after = parse(&der).validity().not_after.timestamp();
        Ok::<_, IssueError>(from_unix_seconds(not_after))
    };
    assert_eq!(end(HOUR * 24 * 36500, now).unwrap(), ca.not_after());
    assert_eq!(end(Duration::MAX, now).unwrap(), ca.not_after());
    assert_eq!(
        end(HOUR, ca.not_after() - HOUR / 2).unwrap(),
        ca.not_after()
    );
    for (ttl, at) in [(HOUR, ca.not_after()), (Duration::ZERO, now)] {
        assert!(matches!(end(ttl, at), Err(IssueError::NoValidity)));
    }
}

#[test]
fn only_kinds_of_key_that_every_peer_can_verify() {
    let (ca, id) = (new_ca(), spiffe("shop", "cart"));
    let issue = |algorithm: &'static SignatureAlgorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let csr = CertificateParams::default().serialize_request(&key);
        ca.issue(&csr.unwrap().pem().unwrap(), &id, HOUR, SystemTime::now())
    };
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA512,
    ] {
        assert!(issue(algorithm).is_ok(), "{algorithm:?}");
    }
    assert!(matches!(
        issue(&rcgen::PKCS_ECDSA_P521_SHA512),
        Err(IssueError::KeyKind)
    ));
}

#[test]
fn a_request_must_be_well_formed_and_signed_by_its_key() {
    let (ca, id) = (new_ca(), spiffe("shop", "cart"));
    let issue = |csr: &str| ca.issue(csr, &id, HOUR, SystemTime::now());
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let other = KeyPair::generate().unwrap();
    let mut swapped = csr.der().to_vec();
    let (mine, thine) = (key.public_key_raw(), other.public_key_raw());
    let at = swapped
        .windows(mine.len())
        .position(|window| window == mine);
    swapped.splice(at.unwrap()..at.unwrap() + mine.len(), thine.iter().copied());
    let error = issue(&to_request_pem(&swapped)).unwrap_err();
    assert!(matches!(error, IssueError::Signature), "{error:?}");

    let mut trailing = csr.der().to_vec();
    trailing.push(0);
    let big = "x".repeat(17 << 10);
    for malformed in [
        "",
        "x",
        &big,
        &to_request_pem(b"x"),
        &to_request_pem(&trailing),
    ] {
        assert!(matches!(issue(malformed), Err(IssueError::Request)));
    }
}

proptest! {
    #[test]
    fn a_damaged_request_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut der = CSR.with(Clone::clone);
        for (at, value) in changes {
            let at = at.index(der.len());
            der[at] = value;
        }
        let whole = der.len();
        der.truncate(cut.index(whole + 1));
        der.extend(&more);
        let _ = request::public_key(&to_request_pem(&der));
        let _ = request::public_key(&to_request_pem(&more));
        let _ = request::public_key(&String::from_utf8_lossy(&der));
    }
}

#[test]
fn what_it_issues_is_an_svid() {
    let (ca, id) = (new_ca(), spiffe("shop", "cart"));
    let request = KeyAndCsr::generate(&id).unwrap();
    let chain = ca
        .issue(&request.csr_pem, &id, HOUR, SystemTime::now())
        .unwrap();
    assert_eq!(chain.len(), 2, "a root signs leaves itself");
    let svid = Svid::from_response(&id, request.key, &chain, WallClock::default()).unwrap();
    assert_eq!(svid.id, id);
}

#[test]
fn an_intermediate_is_sent_along_and_its_root_is_not() {
    let root = TestCa::new();
    let files = files_of(&root.intermediate(None));
    let ca = SigningCa::from_pem(&files, SystemTime::now()).unwrap();
    let id = spiffe("shop", "cart");
    let request = KeyAndCsr::generate(&id).unwrap();
    let chain = ca
        .issue(&request.csr_pem, &id, HOUR, SystemTime::now())
        .unwrap();
    assert_eq!(chain.len(), 3);
    let svid = Svid::from_response(&id, request.key, &chain, WallClock::default()).unwrap();
    assert_eq!(svid.chain().len(), 2);
    assert_eq!(svid.roots().certificates(), [root.root().clone()]);
}

#[test]
fn files_that_do_not_belong_together_are_found_out() {
    let (one, two) = (
        TestCa::new().intermediate(None),
        TestCa::new().intermediate(None),
    );
    let mixed = |change: &dyn Fn(&mut PemFiles, PemFiles)| {
        let mut files = files_of(&one);
        change(&mut files, files_of(&two));
        format!(
            "{:?}",
            SigningCa::from_pem(&files, SystemTime::now()).unwrap_err()
        )
    };
    let key = mixed(&|files, other| files.key = other.key);
    assert!(key.starts_with("Chain"), "{key}");
    let roots = mixed(&|files, other| files.roots = other.roots);
    assert!(roots.starts_with("Chain"), "{roots}");
    let empty = mixed(&|files, _| files.key = String::new());
    assert_eq!(empty, "Key");
    let empty = mixed(&|files, _| files.certificate = String::new());
    assert_eq!(empty, "Certificate");
    let empty = mixed(&|files, _| files.roots = String::new());
    assert_eq!(empty, "Roots(Empty)");
}

#[test]
fn one_authority_follows_another_over_roots_that_both_have() {
    let now = SystemTime::now();
    let generate = |at| PemFiles::generate(&TrustDomain::default(), at).unwrap();
    let (old, new) = (generate(now), generate(now));
    let both = old.roots.clone() + &new.roots;
    let ca = |signer: &PemFiles, roots: &str| {
        let files = PemFiles {
            roots: roots.to_owned(),
            ..signer.clone()
        };
        SigningCa::from_pem(&files, now).unwrap()
    };
    let (first, last) = (ca(&old, &old.roots), ca(&new, &new.roots));
    let (announced, switched) = (ca(&old, &both), ca(&new, &both));
    let steps = [&first, &announced, &switched, &last];
    for pair in steps.windows(2) {
        assert_eq!(pair[1].can_follow(pair[0], now), Ok(()));
        assert_eq!(pair[0].can_follow(pair[1], now), Ok(()), "and back");
    }
    assert_eq!((first.roots(), announced.roots()), (1, 2));
    for (previous, next, gap) in [
        (&first, &last, Gap::New),
        (&first, &switched, Gap::New),
        (&announced, &last, Gap::Old),
    ] {
        assert_eq!(next.can_follow(previous, now), Err(gap));
    }
    let ended = first.not_after();
    assert_eq!(
        last.can_follow(&first, ended),
        Ok(()),
        "nothing is left of it"
    );
    assert!(first.is_root());
    let below = SigningCa::from_pem(&files_of(&TestCa::new().intermediate(None)), now).unwrap();
    assert!(!below.is_root());
}

#[test]
fn files_of_a_certificate_manager_are_read_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let files = files_of(&TestCa::new().intermediate(None));
    write("tls.crt", &files.chain);
    write("tls.key", &files.key);
    let load = || {
        let files = PemFiles::read(directory.path())?;
        SigningCa::from_pem(&files, SystemTime::now())
    };
    let error = load().unwrap_err().to_string();
    assert!(error.contains("ca.crt"), "{error}");
    write("ca.crt", &files.roots);
    assert!(!load().unwrap().is_root());
    // Of both sets, the mesh's own counts; and it is not completed from the other.
    write("ca-cert.pem", &files.certificate);
    assert!(load().unwrap_err().to_string().contains("ca-key.pem"));
}

#[test]
fn a_generated_root_is_kept_and_its_key_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let (domain, now) = (TrustDomain::default(), SystemTime::now());
    let files = PemFiles::read_or_generate(&path, &domain, now).unwrap();
    assert!(files == PemFiles::read_or_generate(&path, &domain, now).unwrap());
    let first = SigningCa::from_pem(&files, now).unwrap();
    let mode = |name: &str| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("ca-key.pem"), 0o600);
    let der = CertificateDer::from_pem_slice(first.roots_pem().as_bytes()).unwrap();
    let root = parse(&der);
    assert_eq!(root.subject().to_string(), "O=cluster.local");
    let life = first.not_after().duration_since(now).unwrap();
    assert_eq!(life.as_secs() / 86400, 3649);

    for name in [
        "ca-cert.pem",
        "ca-key.pem",
        "cert-chain.pem",
        "root-cert.pem",
    ] {
        let saved = fs::read(path.join(name)).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        let error = PemFiles::read_or_generate(&path, &domain, now)
            .err()
            .unwrap();
        let message = error.to_string();
        assert!(matches!(error, LoadError::Missing { .. }));
        assert!(message.contains(name), "{message}");
        fs::write(path.join(name), saved).unwrap();
    }
}

#[test]
fn serving_certificates_need_a_name() {
    let (ca, now) = (new_ca(), SystemTime::now());
    let names = ["tulled.tulle-system.svc".to_owned()];
    let address = "127.0.0.1".parse().unwrap();
    let serving = ca.issue_serving(&names, &[address], HOUR, now).unwrap();
    let certificate = parse(&serving.chain[0]);
    let extended = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth);
    assert_eq!(
        peer_identity(&serving.chain),
        Err(crate::InvalidPeer::NoUri)
    );
    for names in [&[][..], &["".to_owned()], &["ä".to_owned()]] {
        let error = ca.issue_serving(names, &[], HOUR, now).unwrap_err();
        assert!(matches!(error, IssueError::Name(_)), "{error:?}");
    }
}

thread_local! {
    static CSR: Vec<u8> = {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key);
        csr.unwrap().der().to_vec()
    };
}

fn new_ca() -> SigningCa {
    SigningCa::generate(&TrustDomain::default(), SystemTime::now()).unwrap()
}

fn files_of(ca: &TestCa) -> PemFiles {
    let intermediates = ca.intermediates_pem();
    PemFiles {
        certificate: intermediates[0].clone(),
        key: ca.key_pem(),
        chain: intermediates.concat() + ca.root_pem(),
        roots: ca.root_pem().to_owned(),
    }
}

fn leaf(chain: &[String]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain[0].as_bytes()).unwrap()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> X509Certificate<'a> {
    X509Certificate::from_der(der).unwrap().1
}

fn to_request_pem(der: &[u8]) -> String {
    to_pem(&CertificateDer::from(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
}

/// What a kubelet makes of an optional Secret that is none.
#[test]
fn a_volume_of_nothing_has_no_files() {
    let volume = tempfile::tempdir().unwrap();
    let version = volume.path().join("..2026_01_01");
    std::fs::create_dir(&version).unwrap();
    std::os::unix::fs::symlink("..2026_01_01", volume.path().join("..data")).unwrap();
    assert!(!PemFiles::are_in(volume.path()));
    for name in ["ca-key.pem", "tls.crt"] {
        std::fs::write(version.join(name), "").unwrap();
        let linked = volume.path().join(name);
        std::os::unix::fs::symlink(format!("..data/{name}"), &linked).unwrap();
        assert!(PemFiles::are_in(volume.path()), "{name}");
        std::fs::remove_file(linked).unwrap();
    }
}
