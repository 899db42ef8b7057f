use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use tokio::{
    sync::Notify,
    task::{LocalSet, spawn_local},
};

use super::*;

/// Who is asked: answers with what is next, and counts.
#[derive(Clone, Default)]
struct Issuer(Rc<Told>);

#[derive(Default)]
struct Told {
    answers: RefCell<VecDeque<Option<&'static str>>>,
    asked: RefCell<Vec<Instant>>,
    /// Answers wait for this, if there is one for each.
    held: Option<Notify>,
}

impl Issuer {
    fn new(answers: &[Option<&'static str>]) -> Self {
        let told = Told {
            answers: RefCell::new(answers.iter().copied().collect()),
            ..Told::default()
        };
        Self(Rc::new(told))
    }

    async fn get(self, _: KeyFetch) -> Option<Got> {
        self.0.asked.borrow_mut().push(Instant::now());
        if let Some(held) = &self.0.held {
            held.notified().await;
        }
        // The last answer stays.
        let mut answers = self.0.answers.borrow_mut();
        let next = match answers.len() {
            0 | 1 => answers.front().copied().flatten(),
            _ => answers.pop_front().flatten(),
        };
        let id = next?;
        let text = Bytes::from(KEY.replace("ID", id));
        let keys = Keys::read(&text).ok()?;
        let max_age = None;
        Some(Got {
            keys,
            text,
            max_age,
        })
    }

    fn asked(&self) -> usize {
        self.0.asked.borrow().len()
    }
}

const KEY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "ID",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fn fetch(url: &str) -> KeyFetch {
    KeyFetch {
        from: KeyAddress::Url(url.to_owned()),
        timeout: Duration::from_secs(5),
    }
}

/// Runs a test beside what asks.
async fn beside<T>(issuer: &Issuer, test: impl AsyncFnOnce(KeyStore) -> T) -> T {
    let (store, to_ask) = KeyStore::new();
    let issuer = issuer.clone();
    let local = LocalSet::new();
    local
        .run_until(async {
            spawn_local(run(to_ask, move |fetch| issuer.clone().get(fetch)));
            test(store).await
        })
        .await
}

fn has(source: &Arc<dyn KeySource>, id: &str) -> bool {
    source.keys().is_some_and(|keys| keys.has(id))
}

#[tokio::test(start_paused = true)]
async fn one_is_asked_for_all_and_no_more_once_nobody_wants_it() {
    let issuer = Issuer::new(&[Some("a")]);
    beside(&issuer, async |store| {
        let one = store.source(&fetch("http://k/"));
        let two = store.source(&fetch("http://k/"));
        assert!(one.keys().is_none(), "nobody has answered yet");
        one.look(Some("a")).await;
        two.look(None).await;
        assert!(has(&one, "a") && has(&two, "a"));
        assert_eq!(issuer.asked(), 1);
        drop((one, two));
        tokio::time::advance(RARELY * 2).await;
        assert_eq!(issuer.asked(), 1);
        let again = store.source(&fetch("http://k/"));
        again.look(None).await;
        assert_eq!(issuer.asked(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_answer_and_no_longer() {
    let told = Told {
        held: Some(Notify::new()),
        answers: RefCell::new(VecDeque::from([None])),
        ..Told::default()
    };
    let issuer = Issuer(Rc::new(told));
    beside(&issuer, async |store| {
        let source = store.source(&fetch("http://k/"));
        let waits = source.look(None);
        let answer = async { issuer.0.held.as_ref().unwrap().notify_one() };
        tokio::join!(waits, answer);
        assert!(source.keys().is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_exchanged_after_a_while() {
    let issuer = Issuer::new(&[Some("a"), Some("b")]);
    beside(&issuer, async |store| {
        let source = store.source(&fetch("http://k/"));
        source.look(None).await;
        let first = source.keys().unwrap();
        tokio::time::sleep(USUAL.mul_f64(1.2)).await;
        assert!(has(&source, "b") && !has(&source, "a"));
        let second = source.keys().unwrap();
        tokio::time::sleep(USUAL.mul_f64(1.2)).await;
        assert!(issuer.asked() > 2);
        assert!(
            Arc::ptr_eq(&second, &source.keys().unwrap()),
            "they are the same"
        );
        assert!(!Arc::ptr_eq(&first, &second));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_name_has_it_asked_but_not_all_the_time() {
    let issuer = Issuer::new(&[Some("a"), Some("b"), Some("c")]);
    beside(&issuer, async |store| {
        let source = store.source(&fetch("http://k/"));
        source.look(Some("a")).await;
        source.look(Some("b")).await;
        assert!(has(&source, "b"));
        for _ in 0..5 {
            source.look(Some("made up")).await;
        }
        assert_eq!(issuer.asked(), 2);
        tokio::time::advance(PAUSE).await;
        source.look(Some("c")).await;
        assert!(has(&source, "c"));
        assert_eq!(issuer.asked(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn keys_outlive_a_silence_but_not_a_long_one() {
    let issuer = Issuer::new(&[None, None, Some("a"), None]);
    beside(&issuer, async |store| {
        let source = store.source(&fetch("http://k/"));
        source.look(None).await;
        assert!(source.keys().is_none());
        tokio::time::sleep(SOON * 5).await;
        assert!(has(&source, "a"), "it is asked again soon");
        tokio::time::sleep(GOOD / 2).await;
        assert!(has(&source, "a"));
        tokio::time::sleep(GOOD).await;
        assert!(source.keys().is_none());
    })
    .await;
}

#[test]
fn how_long_keys_are_good_is_told_within_bounds() {
    for (told, expected) in [
        (None, USUAL),
        (Some(0), OFTEN),
        (Some(600), Duration::from_secs(600)),
        (Some(u64::MAX), RARELY),
    ] {
        let got = Got {
            keys: Keys::default(),
            text: Bytes::new(),
            max_age: told.map(Duration::from_secs),
        };
        let pause = State::default().take(Some(got), Instant::now());
        assert_eq!(pause, expected, "{told:?}");
    }
}
