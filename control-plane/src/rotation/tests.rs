use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[test]
fn every_step_can_follow_the_one_before_and_takes_an_overlap() {
    let start = SystemTime::now();
    let first = record(start);
    let announced = written(&first, true, start);
    assert!(announced.files.certificate == first.files.certificate);
    assert_eq!(roots(&announced, start), 2);
    assert_eq!(wait(&announced, start + DAY / 2), Some(start + DAY));
    let switched = written(&announced, false, start + DAY);
    assert!(switched.files.certificate != first.files.certificate);
    assert!(switched.files.key != first.files.key);
    assert_eq!(roots(&switched, start), 2);
    // Asked again, it is not begun again.
    assert!(step(&switched, true, start + DAY) == Step::Wait(Some(start + DAY * 2)));
    let last = written(&switched, false, start + DAY * 2);
    assert_eq!(roots(&last, start), 1);
    assert!(last.phase == Phase::Rest);
    assert!(last.files.roots == last.files.certificate);
    let [first, last] = [&first, &last].map(|record| ca(&record.files, start));
    assert!(last.can_follow(&first, start).is_err(), "not at once");
}

#[test]
fn a_root_is_renewed_when_a_fifth_of_its_life_is_left() {
    let start = SystemTime::now();
    let first = record(start);
    let begins = wait(&first, start).unwrap();
    let years = begins.duration_since(start).unwrap().as_secs_f64() / (365.0 * DAY.as_secs_f64());
    assert!((7.9..8.1).contains(&years), "{years}");
    assert!(matches!(
        step(&first, false, begins),
        Step::Write(Record {
            phase: Phase::Announced { .. },
            ..
        })
    ));
}

#[test]
fn a_signer_that_ends_half_way_is_followed_all_the_same() {
    let start = SystemTime::now();
    let announced = written(&record(start), true, start + DAY * 30);
    let ended = ca(&announced.files, start).not_after();
    let Step::Write(switched) = step(&announced, false, ended) else {
        panic!("nothing to write");
    };
    assert!(matches!(switched.phase, Phase::Switched { .. }));
    let error = failure(&record(start), false, ended);
    assert!(matches!(error, RotationError::Ended), "{error}");
}

#[test]
fn roots_of_others_stay() {
    let start = SystemTime::now();
    let mut first = record(start);
    let other = record(start).files.roots;
    // Without an end of line, as people write it.
    first.files.roots = format!("{}{}", other, first.files.roots.trim_end());
    let announced = written(&first, true, start);
    assert_eq!(roots(&announced, start), 3);
    let switched = written(&announced, false, start + DAY);
    let last = written(&switched, false, start + DAY * 2);
    assert_eq!(roots(&last, start), 2);
    assert!(last.files.roots.contains(other.trim()));
}

#[test]
fn what_cannot_be_followed_is_not_written() {
    let start = SystemTime::now();
    let announced = written(&record(start), true, start);
    let mut unannounced = announced.clone();
    // Somebody has taken the next root out again.
    unannounced.files.roots = announced.files.certificate.clone();
    let error = failure(&unannounced, false, start + DAY);
    assert!(matches!(error, RotationError::Successor(_)), "{error}");
    let mut broken = announced.clone();
    if let Phase::Announced { key, .. } = &mut broken.phase {
        key.clear();
    }
    let error = failure(&broken, false, start + DAY);
    assert!(matches!(error, RotationError::Successor(_)), "{error}");
}

#[test]
fn what_hangs_from_another_root_is_not_ours_to_renew() {
    let start = SystemTime::now();
    let ca = tulle_testkit::TestCa::new().intermediate(None);
    let below = Record {
        files: PemFiles {
            certificate: ca.intermediates_pem().concat(),
            chain: ca.intermediates_pem().concat(),
            key: ca.key_pem(),
            roots: ca.root_pem().to_owned(),
        },
        phase: Phase::Rest,
    };
    assert!(wait(&below, start).is_some());
    let error = failure(&below, true, start);
    assert!(matches!(error, RotationError::NotRoot), "{error}");
}

fn record(now: SystemTime) -> Record {
    Record {
        files: PemFiles::generate(&TrustDomain::default(), now).unwrap(),
        phase: Phase::Rest,
    }
}

fn step(record: &Record, asked: bool, now: SystemTime) -> Step {
    let step = record.step(asked, DAY, &TrustDomain::default(), now);
    step.unwrap()
}

fn failure(record: &Record, asked: bool, now: SystemTime) -> RotationError {
    let step = record.step(asked, DAY, &TrustDomain::default(), now);
    step.err().unwrap()
}

fn written(record: &Record, asked: bool, now: SystemTime) -> Record {
    let Step::Write(next) = step(record, asked, now) else {
        panic!("nothing to write");
    };
    let follows = ca(&next.files, now).can_follow(&ca(&record.files, now), now);
    follows.unwrap();
    next
}

fn wait(record: &Record, now: SystemTime) -> Option<SystemTime> {
    match step(record, false, now) {
        Step::Wait(until) => until,
        Step::Write(_) => panic!("something to write"),
    }
}

fn ca(files: &PemFiles, now: SystemTime) -> SigningCa {
    SigningCa::from_pem(files, now).unwrap()
}

fn roots(record: &Record, now: SystemTime) -> usize {
    ca(&record.files, now).roots()
}
