use proptest::prelude::*;

use super::*;

const fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn passes(buckets: &Buckets, key: Option<u64>, milliseconds: u64) -> bool {
    buckets.take(key, at(milliseconds)).from.is_some()
}

#[test]
fn a_bucket_is_emptied_at_once_and_fills_evenly() {
    let buckets = Buckets::new(10, Duration::from_secs(1), 3);
    for left in [2, 1, 0] {
        let taken = buckets.take(None, at(0));
        assert_eq!((taken.from, taken.left), (Some(Place::Shared(0)), left));
    }
    let refused = buckets.take(None, at(0));
    assert_eq!((refused.from, refused.left), (None, 0));
    assert_eq!(refused.reset, at(300));
    assert!(!passes(&buckets, None, 99));
    assert!(passes(&buckets, None, 100));
    assert!(!passes(&buckets, None, 199));
    // It does not fill beyond its brim.
    let late = [0, 1, 2, 3].map(|_| passes(&buckets, None, 60_000));
    assert_eq!(late, [true, true, true, false]);
}

#[test]
fn tokens_of_no_use_are_put_back() {
    for key in [None, Some(7)] {
        let buckets = Buckets::new(1, Duration::from_secs(1), 1);
        let place = buckets.take(key, at(0)).from.unwrap();
        assert!(!passes(&buckets, key, 0));
        buckets.give_back(place);
        assert!(passes(&buckets, key, 0));
    }
}

#[test]
fn keys_have_buckets_of_their_own_as_far_as_there_is_room() {
    let buckets = Buckets::new(1, Duration::from_secs(1), 1);
    for key in 0..MOST as u64 {
        assert!(passes(&buckets, Some(key), 0), "{key}");
    }
    assert!(!passes(&buckets, Some(0), 0), "its own is empty");
    // Of those that come too late some share one, and others do not.
    let [first, second] = [1, 1 + SHARED].map(|more| (MOST + more) as u64);
    assert_eq!(
        buckets.take(Some(first), at(0)).from,
        Some(Place::Shared(2))
    );
    assert!(!passes(&buckets, Some(second), 1));
    assert!(passes(&buckets, Some(first + 1), 1));
    assert_eq!(buckets.by_key.lock().full_at.len(), MOST);
    // A token of one that is full makes no difference.
    buckets.give_back(Place::Own(first));
    assert!(!passes(&buckets, Some(second), 2));
    // Once the others are full, they make room.
    let own = buckets.take(Some(second), at(1_500)).from;
    assert_eq!(own, Some(Place::Own(second)));
    assert_eq!(buckets.by_key.lock().full_at.len(), 1);
}

#[test]
fn keys_are_of_all_parts_in_their_places() {
    let buckets = Buckets::new(1, Duration::from_secs(1), 1);
    let key = |parts: &[Option<&str>]| buckets.key(parts.iter());
    let ab = key(&[Some("a"), Some("b")]);
    assert_eq!(ab, key(&[Some("a"), Some("b")]));
    for other in [
        key(&[Some("ab"), Some("")]),
        key(&[Some("b"), Some("a")]),
        key(&[Some("a"), None]),
        key(&[Some("a")]),
    ] {
        assert_ne!(ab, other);
    }
    assert_ne!(key(&[None]), key(&[Some("")]), "absent is not empty");
}

#[test]
fn limits_beyond_all_reason_do_no_harm() {
    for (requests, per, burst) in [
        (0, Duration::ZERO, 0),
        (u32::MAX, Duration::from_nanos(1), u32::MAX),
        (1, Duration::MAX, u32::MAX),
    ] {
        let buckets = Buckets::new(requests, per, burst);
        for now in [Duration::ZERO, Duration::MAX, Duration::ZERO] {
            buckets.take(None, now);
            buckets.take(Some(1), now);
        }
    }
    // More than can be counted is refused, and not let through.
    let day = Duration::from_secs(86_400);
    let buckets = Buckets::new(1, day, 1_000_000);
    let mut passed = 0;
    while passes(&buckets, None, 0) {
        passed += 1;
        assert!(passed <= 1_000_000, "nothing is refused");
    }
}

proptest! {
    /// Tokens that fill a bucket one by one, counted in units of which each millisecond brings `requests`.
    #[test]
    fn as_many_pass_as_tokens_were_filled_in(
        requests in 1..20_u32,
        burst in 1..10_u32,
        keyed in any::<bool>(),
        pauses in prop::collection::vec(0..400_u64, 1..100),
    ) {
        // A period that each number of requests divides.
        let per = 232_792_560_u64;
        let buckets = Buckets::new(requests, Duration::from_nanos(per), burst);
        let capacity = u64::from(burst) * per;
        let (mut now, mut level) = (0, capacity);
        for pause in pauses {
            let pause = pause * 1_000_000;
            now += pause;
            level = capacity.min(level + pause * u64::from(requests));
            let expected = level >= per;
            if expected {
                level -= per;
            }
            let taken = buckets.take(keyed.then_some(1), Duration::from_nanos(now));
            prop_assert_eq!(taken.from.is_some(), expected);
            prop_assert_eq!(taken.left, level / per);
        }
    }
}
