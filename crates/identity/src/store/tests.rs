use std::{pin::pin, sync::atomic::AtomicU64, sync::atomic::Ordering, time::SystemTime};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{advance, sleep},
};
use tulle_testkit::{FakeAuthority, spiffe};

use super::*;
use crate::{CaError, SignFuture};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn one_request_serves_everybody_who_waits() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    let (a, b) = tokio::join!(t.store.get(&id), t.store.get(&id));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(a.id, id);
    t.store.prefetch(&id);
    assert!(Arc::ptr_eq(&a, &t.store.get(&id).await.unwrap()));
    assert!(Arc::ptr_eq(&a, &t.store.current(&id).unwrap()));
    assert_eq!(t.authority.asked(), [id]);
}

#[tokio::test(start_paused = true)]
async fn renewed_about_half_way_through_its_life() {
    let t = Setup::new(hourly());
    let mut watch = t.store.watch(&spiffe("shop", "cart")).unwrap();
    let mut last = watch.next().await.unwrap();
    for _ in 0..20 {
        let start = Instant::now();
        let next = watch.next().await.unwrap();
        let after = start.elapsed();
        assert_ne!(next.serial(), last.serial());
        assert!(
            HOUR.mul_f64(0.449) < after && after < HOUR.mul_f64(0.551),
            "{after:?}"
        );
        last = next;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_answered_at_once_until_the_next_success() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    t.authority.fail_next(3);
    t.store.prefetch(&id);
    for attempts in 1..=3 {
        t.until(|| t.authority.asked().len() == attempts && t.authority.waiting() == 0)
            .await;
        let start = Instant::now();
        let error = t.store.get(&id).await.unwrap_err();
        assert!(matches!(error, SvidError::Unavailable(_)), "{error:?}");
        assert_eq!(start.elapsed(), Duration::ZERO);
        let status = &t.store.statuses()[0];
        assert_eq!(status.state, SvidState::Unavailable);
        sleep(status.next_attempt.unwrap()).await;
    }
    t.until(|| t.store.current(&id).is_some()).await;
    assert_eq!(t.store.get(&id).await.unwrap().id, id);
    assert_eq!(t.authority.asked().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_old_certificate_is_kept_until_it_expires_and_not_longer() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    let old = t.store.get(&id).await.unwrap();
    t.authority.fail_next(usize::MAX);
    t.at(old.not_after() - Duration::from_secs(1)).await;
    assert!(t.authority.asked().len() > 5, "renewal was tried");
    assert!(Arc::ptr_eq(&old, &t.store.get(&id).await.unwrap()));
    assert!(t.store.statuses()[0].last_error.is_some());

    let before = t.authority.asked().len();
    t.at(old.not_after()).await;
    let mut watch = t.store.watch(&id).unwrap();
    let mut news = pin!(watch.next());
    assert!(futures_util::poll!(news.as_mut()).is_pending());
    assert!(matches!(
        t.store.get(&id).await,
        Err(SvidError::Unavailable(_))
    ));
    assert!(t.store.current(&id).is_none());
    assert_eq!(t.store.statuses()[0].state, SvidState::Expired);
    t.until(|| t.authority.asked().len() > before).await;

    t.authority.fail_next(0);
    sleep(Duration::from_secs(151)).await;
    let new = t.store.get(&id).await.unwrap();
    assert_ne!(new.serial(), old.serial());
    assert!(Arc::ptr_eq(&new, &news.await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_expired_while_the_machine_slept_is_renewed_at_once() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    let old = t.store.get(&id).await.unwrap();
    t.skew.store(7200, Ordering::Relaxed);
    assert!(t.store.current(&id).is_none());
    let start = Instant::now();
    let new = t.store.get(&id).await.unwrap();
    assert_ne!(new.serial(), old.serial());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_identity_forgotten_while_it_is_fetched_stays_forgotten() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    t.authority.hold();
    let mut waiter = pin!(t.store.get(&id));
    assert!(futures_util::poll!(waiter.as_mut()).is_pending());
    t.until(|| t.authority.waiting() == 1).await;
    t.store.forget(&id);
    assert!(matches!(waiter.await, Err(SvidError::Forgotten)));
    t.authority.release(1);
    t.until(|| t.authority.waiting() == 0).await;
    assert!(t.store.current(&id).is_none());
    assert!(t.store.statuses().is_empty());

    // Asked for again, it is fetched again.
    t.authority.release(1);
    assert_eq!(t.store.get(&id).await.unwrap().id, id);
    assert_eq!(t.authority.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn connections_go_before_prefetches_and_eight_are_in_flight() {
    let t = Setup::new(hourly());
    t.authority.hold();
    for number in 0..20 {
        t.store.prefetch(&spiffe("shop", &format!("pod-{number}")));
    }
    t.until(|| t.authority.waiting() == 8).await;
    let (urgent, promoted) = (spiffe("shop", "urgent"), spiffe("shop", "pod-19"));
    let mut waiting = [pin!(t.store.get(&urgent)), pin!(t.store.get(&promoted))];
    for waiter in &mut waiting {
        assert!(futures_util::poll!(waiter.as_mut()).is_pending());
    }
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(t.authority.asked().len(), 8);
    t.authority.release(2);
    t.until(|| t.authority.asked().len() == 10).await;
    let mut next = t.authority.asked().split_off(8);
    next.sort();
    assert_eq!(next.iter().collect::<Vec<_>>(), [&promoted, &urgent]);
    assert_eq!(t.authority.waiting(), 8);
}

#[tokio::test(start_paused = true)]
async fn refresh_now_rotates_and_new_roots_take_effect() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    assert!(!t.store.refresh_now(&id), "nobody asked for it yet");
    let mut watch = t.store.watch(&id).unwrap();
    let old = watch.next().await.unwrap();
    t.authority.change_root();
    let start = Instant::now();
    assert!(t.store.refresh_now(&id));
    let new = watch.next().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_ne!(new.roots().certificates(), old.roots().certificates());
    assert!(Arc::ptr_eq(&new, &t.store.get(&id).await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn refresh_now_during_a_fetch_fetches_once_more() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    t.authority.hold();
    t.store.prefetch(&id);
    t.until(|| t.authority.waiting() == 1).await;
    assert!(t.store.refresh_now(&id));
    assert!(t.store.refresh_now(&id));
    t.authority.release(2);
    t.until(|| t.authority.asked().len() == 2 && t.authority.waiting() == 0)
        .await;
    for _ in 0..100 {
        yield_now().await;
    }
    assert_eq!(t.authority.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_identities_is_bounded() {
    let t = Setup::new(SvidStoreConfig {
        max_identities: 1,
        ..hourly()
    });
    let (a, b) = (spiffe("shop", "a"), spiffe("shop", "b"));
    t.store.get(&a).await.unwrap();
    assert!(matches!(t.store.get(&b).await, Err(SvidError::Full)));
    t.store.prefetch(&b);
    t.store.forget(&a);
    assert_eq!(t.store.get(&b).await.unwrap().id, b);
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_nobody_waits() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    t.authority.hold();
    let mut waiter = pin!(t.store.get(&id));
    assert!(futures_util::poll!(waiter.as_mut()).is_pending());
    t.until(|| t.authority.waiting() == 1).await;
    t.worker.abort();
    assert!(matches!(
        waiter.await,
        Err(SvidError::Forgotten | SvidError::Stopped)
    ));
    assert!(matches!(t.store.get(&id).await, Err(SvidError::Stopped)));
}

#[tokio::test]
async fn usable_from_another_thread_and_runtime() {
    let t = Setup::new(hourly());
    let id = spiffe("shop", "cart");
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let (store, wanted) = (t.store.clone(), id.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        sender.send(runtime.unwrap().block_on(store.get(&wanted)))
    });
    assert_eq!(receiver.await.unwrap().unwrap().id, id);
}

#[tokio::test(start_paused = true)]
async fn backoff_doubles_up_to_its_cap() {
    let config = hourly();
    let mut schedule = Schedule::new(config);
    let (id, wall) = (spiffe("shop", "cart"), SystemTime::now());
    schedule
        .want(&id, Priority::Warmup, Instant::now())
        .unwrap();
    let mut nominal = 0.5;
    for _ in 0..12 {
        let job = schedule.next_job(Instant::now()).unwrap();
        assert!(schedule.next_job(Instant::now()).is_none(), "one at a time");
        let wait = schedule
            .finish(&job, Err(Arc::new(refusal())), wall, Instant::now())
            .unwrap();
        let seconds = wait.as_secs_f64();
        assert!(
            (nominal * 0.799..=nominal * 1.201).contains(&seconds) || seconds == 150.0,
            "{seconds} instead of {nominal}"
        );
        assert!(seconds <= 150.0);
        advance(wait - Duration::from_millis(2)).await;
        assert!(schedule.next_job(Instant::now()).is_none(), "too early");
        advance(Duration::from_millis(2)).await;
        nominal = f64::min(nominal * 2.0, 150.0);
    }
    assert!(nominal >= 150.0);
}

struct Setup {
    store: SvidStore,
    authority: Arc<FakeAuthority>,
    worker: JoinHandle<()>,
    /// Seconds by which the wall clock has jumped ahead.
    skew: Arc<AtomicU64>,
    clock: WallClock,
}

impl Setup {
    fn new(config: SvidStoreConfig) -> Self {
        let (start, wall) = (Instant::now(), SystemTime::now());
        let skew = Arc::new(AtomicU64::new(0));
        let ahead = skew.clone();
        let clock = WallClock::new(move || {
            wall + start.elapsed() + Duration::from_secs(ahead.load(Ordering::Relaxed))
        });
        let dates = clock.clone();
        let authority = Arc::new(FakeAuthority::new(move || dates.now()));
        let (store, worker) = SvidStore::new(config, authority.clone(), clock.clone());
        Self {
            store,
            authority,
            worker: tokio::spawn(async move {
                worker.run().await;
            }),
            skew,
            clock,
        }
    }

    /// Lets other tasks run, without moving time, until `condition` holds.
    async fn until(&self, condition: impl Fn() -> bool) {
        for _ in 0..1000 {
            if condition() {
                return;
            }
            yield_now().await;
        }
        panic!("the condition does not come true");
    }

    /// Waits until the wall clock shows `time`.
    async fn at(&self, time: SystemTime) {
        let wait = time.duration_since(self.clock.now()).unwrap();
        sleep(wait).await;
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl CertificateAuthority for FakeAuthority {
    fn sign<'a>(&'a self, id: &'a SpiffeId, csr_pem: String, validity: Duration) -> SignFuture<'a> {
        Box::pin(async move {
            self.sign(id, &csr_pem, validity)
                .await
                .map_err(|message| CaError::Refused {
                    code: tonic::Code::Unavailable,
                    message,
                })
        })
    }
}

fn refusal() -> FetchError {
    CaError::Deadline(HOUR).into()
}

fn hourly() -> SvidStoreConfig {
    SvidStoreConfig {
        validity: HOUR,
        ..SvidStoreConfig::default()
    }
}
