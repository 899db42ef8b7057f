use std::{fs, path::Path};

use tulle_model::TrustDomain;

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_in_the_files_is_taken_in_an_order_that_all_can_follow() {
    let directory = tempfile::tempdir().unwrap();
    let (now, domain) = (SystemTime::now(), TrustDomain::default());
    let first = PemFiles::read_or_generate(directory.path(), &domain, now).unwrap();
    let next = PemFiles::generate(&domain, now).unwrap();
    let metrics = Arc::<Metrics>::default();
    let keeper = Keeper::Directory(directory.path().to_owned());
    let succession = begin(keeper, &first, &metrics, now);
    let mut signer = succession.signer();
    let following = tokio::spawn(succession.follow());
    let roots = |signer: &mut Signer| signer.borrow_and_update().roots_pem().to_owned();
    assert_eq!(roots(&mut signer), first.roots);

    // At once, it would cut clients off; half of it is nothing at all.
    write(directory.path(), &next);
    refused(&metrics, 1).await;
    fs::remove_file(directory.path().join("ca-key.pem")).unwrap();
    refused(&metrics, 2).await;
    assert!(!signer.has_changed().unwrap());

    let both = first.roots.clone() + &next.roots;
    for (signs, trusted) in [(&first, &both), (&next, &both), (&next, &next.roots)] {
        let files = PemFiles {
            roots: trusted.clone(),
            ..signs.clone()
        };
        write(directory.path(), &files);
        signer.changed().await.unwrap();
        assert_eq!(roots(&mut signer), *trusted);
    }
    assert_eq!(metrics.authorities(), (3, 2));
    following.abort();
}

#[test]
fn who_was_cut_off_takes_what_others_have_come_to() {
    let (now, domain) = (SystemTime::now(), TrustDomain::default());
    let [first, next] = [(); 2].map(|()| PemFiles::generate(&domain, now).unwrap());
    let metrics = Arc::<Metrics>::default();
    let keeper = Keeper::Directory(PathBuf::new());
    let mut succession = begin(keeper, &first, &metrics, now);
    for _ in 0..2 {
        succession.offer(&next, now + LIFE);
        assert_eq!(metrics.authorities(), (0, 1), "told once");
    }
    succession.offer(&next, now + LIFE + Duration::from_secs(1));
    assert_eq!(metrics.authorities(), (1, 1));
    assert_eq!(succession.signer().borrow().roots_pem(), next.roots);
}

fn begin(keeper: Keeper, files: &PemFiles, metrics: &Arc<Metrics>, now: SystemTime) -> Succession {
    Succession::new(keeper, files.clone(), LIFE, Arc::clone(metrics), now).unwrap()
}

const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Waits until so many have been refused.
async fn refused(metrics: &Metrics, count: u64) {
    while metrics.authorities().1 < count {
        sleep(SETTLED).await;
    }
}

fn write(directory: &Path, files: &PemFiles) {
    for (name, text) in [
        ("ca-cert.pem", &files.certificate),
        ("ca-key.pem", &files.key),
        ("cert-chain.pem", &files.chain),
        ("root-cert.pem", &files.roots),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
}
