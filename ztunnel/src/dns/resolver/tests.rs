use std::{cell::RefCell, io, rc::Rc};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use tokio::{
    sync::Notify,
    task::LocalSet,
    time::{advance, sleep},
};

use super::*;
use crate::dns::{
    message::{Query, Transport},
    servers::AskError,
};

/// Name servers that say what they are told to, after a while.
#[derive(Default)]
struct Servers {
    /// By name and type.
    zone: RefCell<HashMap<(String, &'static str), Says>>,
    delay: RefCell<Duration>,
    asked: RefCell<Vec<String>>,
    /// Tells that a question has come.
    heard: Notify,
}

#[derive(Clone, Copy)]
enum Says {
    Addresses(&'static [u8], u32),
    NoSuchName,
    Refused,
    Unreachable,
}

impl Servers {
    fn say(&self, name: &str, kind: &'static str, says: Says) {
        self.zone.borrow_mut().insert((name.to_owned(), kind), says);
    }

    fn slow_down(&self, delay: Duration) {
        *self.delay.borrow_mut() = delay;
    }

    /// What was asked since this was last called.
    fn asked(&self) -> Vec<String> {
        self.asked.take()
    }
}

impl Ask for Servers {
    async fn put(&self, query: &Query, _: Transport) -> Result<Vec<u8>, AskError> {
        let (name, kind) = (query.name().unwrap(), query.kind());
        self.asked.borrow_mut().push(format!("{name} {kind}"));
        self.heard.notify_waiters();
        let delay = *self.delay.borrow();
        sleep(delay).await;
        let says = self.zone.borrow().get(&(name, kind)).copied();
        let asked = Message::from_vec(&query.renumbered(1)).unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_queries(asked.queries.clone());
        let owner = asked.queries[0].name();
        match says {
            Some(Says::Addresses(last, ttl)) => message.add_answers(last.iter().map(|last| {
                let data = match asked.queries[0].query_type() {
                    RecordType::AAAA => RData::AAAA(AAAA(v6(*last))),
                    _ => RData::A(A::new(192, 0, 2, *last)),
                };
                Record::from_rdata(owner.clone(), ttl, data)
            })),
            None => &mut message,
            Some(Says::NoSuchName) => {
                message.metadata.response_code = ResponseCode::NXDomain;
                &mut message
            }
            Some(Says::Refused) => {
                message.metadata.response_code = ResponseCode::Refused;
                &mut message
            }
            Some(Says::Unreachable) => {
                return Err(AskError::Failed {
                    server: [192, 0, 2, 53].into(),
                    error: io::ErrorKind::NetworkUnreachable.into(),
                });
            }
        };
        Ok(message.to_vec().unwrap())
    }
}

fn v6(last: u8) -> std::net::Ipv6Addr {
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()].into()
}

struct Lab {
    servers: Servers,
    resolver: Resolver,
}

impl Lab {
    fn new() -> Self {
        Self::remembering(100)
    }

    fn remembering(most: usize) -> Self {
        Self {
            servers: Servers::default(),
            resolver: Resolver::new(most, ResolverMetrics::default()),
        }
    }

    /// What an app finds that dialled IPv4: the last parts of the addresses, or why there are none.
    async fn find(&self, name: &str) -> Result<Vec<u8>, String> {
        self.find_in(name, &[Family::Ipv4]).await
    }

    async fn find_in(&self, name: &str, families: &[Family]) -> Result<Vec<u8>, String> {
        let name = name.into();
        let found = self
            .resolver
            .resolve_by(&self.servers, &name, families)
            .await;
        let found = found.map_err(|error| error.to_string())?;
        let last = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        Ok(found.iter().map(last).collect())
    }
}

const API: &str = "api.example.com";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn addresses_are_kept_for_their_time() {
    for (ttl, kept) in [(60, 60), (0, 1), (86_400, 300)] {
        let lab = Lab::new();
        lab.servers.say(API, "A", Says::Addresses(&[1, 2], ttl));
        assert_eq!(lab.find(API).await, Ok(vec![1, 2]));
        lab.servers.say(API, "A", Says::Addresses(&[3], ttl));
        advance(seconds(kept) - Duration::from_millis(1)).await;
        assert_eq!(lab.find(API).await, Ok(vec![1, 2]), "{ttl}");
        assert_eq!(lab.servers.asked().len(), 1);
        advance(Duration::from_millis(1)).await;
        assert_eq!(lab.find(API).await, Ok(vec![3]), "{ttl}");
        assert_eq!(lab.servers.asked().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn that_there_is_nothing_is_kept_shortly() {
    let lab = Lab::new();
    for (says, expected) in [
        (Says::NoSuchName, "there is no such name"),
        (Says::Addresses(&[], 9), "it has no address"),
    ] {
        lab.servers.say(API, "A", says);
        assert_eq!(lab.find(API).await, Err(expected.to_owned()));
        assert_eq!(lab.find(API).await, Err(expected.to_owned()));
        assert_eq!(lab.servers.asked().len(), 1);
        advance(SHORTEST).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_server_in_trouble_is_not_asked_by_each_connection() {
    let lab = Lab::new();
    for (says, expected) in [
        (Says::Refused, "name server: Query Refused"),
        (Says::Unreachable, "192.0.2.53: network unreachable"),
    ] {
        lab.servers.say(API, "A", says);
        for _ in 0..5 {
            assert_eq!(lab.find(API).await, Err(expected.to_owned()));
        }
        assert_eq!(lab.servers.asked().len(), 1);
        advance(ASK_AGAIN).await;
    }
    lab.servers.slow_down(seconds(60));
    let started = Instant::now();
    let silence = "no name server answers".to_owned();
    assert_eq!(lab.find(API).await, Err(silence));
    assert_eq!(started.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn the_last_addresses_outlive_an_outage_but_not_a_definite_answer() {
    let lab = Lab::new();
    lab.servers.say(API, "A", Says::Addresses(&[1], 60));
    assert_eq!(lab.find(API).await, Ok(vec![1]));
    lab.servers.say(API, "A", Says::Refused);
    lab.servers.asked();
    advance(seconds(60)).await;
    assert_eq!(lab.find(API).await, Ok(vec![1]));
    advance(ASK_AGAIN_WITH_ANSWER - Duration::from_millis(1)).await;
    assert_eq!(lab.find(API).await, Ok(vec![1]));
    assert_eq!(lab.servers.asked().len(), 1);
    advance(Duration::from_millis(1)).await;

    // Silence costs less patience than it would without an answer.
    lab.servers.slow_down(seconds(60));
    let started = Instant::now();
    assert_eq!(lab.find(API).await, Ok(vec![1]));
    assert_eq!(started.elapsed(), PATIENCE_WITH_ANSWER);
    lab.servers.slow_down(Duration::ZERO);
    advance(LONGEST_STALE - seconds(60)).await;
    assert_eq!(lab.find(API).await, Ok(vec![1]));
    advance(seconds(60)).await;
    let refused = "name server: Query Refused".to_owned();
    assert_eq!(lab.find(API).await, Err(refused));

    advance(ASK_AGAIN).await;
    lab.servers.say(API, "A", Says::Addresses(&[2], 60));
    assert_eq!(lab.find(API).await, Ok(vec![2]));
    advance(seconds(60)).await;
    lab.servers.say(API, "A", Says::NoSuchName);
    let none = "there is no such name".to_owned();
    assert_eq!(lab.find(API).await, Err(none.clone()));
    advance(LONGEST_NOTHING).await;
    // It is not brought back by an outage either.
    lab.servers.say(API, "A", Says::Refused);
    let refused = "name server: Query Refused".to_owned();
    assert_eq!(lab.find(API).await, Err(refused));
}

#[tokio::test(start_paused = true)]
async fn one_question_answers_all_who_wait() {
    let lab = Rc::new(Lab::new());
    lab.servers.say(API, "A", Says::Addresses(&[1], 60));
    lab.servers
        .say("other.example", "A", Says::Addresses(&[2], 60));
    lab.servers.slow_down(seconds(1));
    let local = LocalSet::new();
    let task = |name: &'static str| {
        let lab = lab.clone();
        local.spawn_local(async move { lab.find(name).await })
    };
    let first = task(API);
    let waiting: Vec<_> = (0..20).map(|_| task(API)).collect();
    let other = task("other.example");
    local
        .run_until(async {
            lab.servers.heard.notified().await;
            // The one that asks goes away; another takes its place.
            first.abort();
            for task in waiting {
                assert_eq!(task.await.unwrap(), Ok(vec![1]));
            }
            assert_eq!(other.await.unwrap(), Ok(vec![2]));
        })
        .await;
    let (of_api, of_other): (Vec<_>, Vec<_>) =
        (lab.servers.asked().into_iter()).partition(|question| question.starts_with(API));
    assert_eq!((of_api.len(), of_other.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn families_in_order() {
    let lab = Lab::new();
    let both = [Family::Ipv4, Family::Ipv6];
    lab.servers.say(API, "A", Says::Addresses(&[4], 60));
    lab.servers.say(API, "AAAA", Says::Addresses(&[6], 60));
    assert_eq!(lab.find_in(API, &both).await, Ok(vec![4]));
    assert_eq!(lab.servers.asked(), [format!("{API} A")]);
    assert_eq!(
        lab.find_in(API, &[Family::Ipv6, Family::Ipv4]).await,
        Ok(vec![6])
    );

    lab.servers
        .say("six.example", "AAAA", Says::Addresses(&[6], 60));
    assert_eq!(lab.find_in("six.example", &both).await, Ok(vec![6]));
    let nothing = Err("it has no address".to_owned());
    assert_eq!(lab.find("six.example").await, nothing);
    assert_eq!(lab.find_in("six.example", &[]).await, nothing);

    // One that could not be asked for may be the one that there is.
    lab.servers.say("half.example", "A", Says::Refused);
    let refused = Err("name server: Query Refused".to_owned());
    assert_eq!(lab.find_in("half.example", &both).await, refused);
    lab.servers.asked();
    lab.servers.say("none.example", "A", Says::NoSuchName);
    let none = Err("there is no such name".to_owned());
    assert_eq!(lab.find_in("none.example", &both).await, none);
    assert_eq!(lab.servers.asked(), ["none.example A"]);
}

#[tokio::test(start_paused = true)]
async fn as_many_names_as_are_to_be_remembered() {
    let lab = Lab::remembering(2);
    for name in ["a", "b", "c"] {
        lab.servers.say(name, "A", Says::Addresses(&[1], 60));
        lab.find(name).await.unwrap();
        advance(Duration::from_millis(1)).await;
    }
    let known = || -> Vec<String> {
        let known = lab.resolver.known().into_iter();
        known.map(|known| known.name.to_string()).collect()
    };
    assert_eq!(known(), ["b", "c"]);
    // The one that is used stays.
    lab.find("b").await.unwrap();
    advance(Duration::from_millis(1)).await;
    lab.find("a").await.unwrap();
    assert_eq!(known(), ["a", "b"]);
    // What has nothing left to say goes first, however lately it was asked for.
    advance(seconds(1)).await;
    let last = lab.find("nobody").await;
    assert_eq!(last, Err("it has no address".to_owned()));
    assert_eq!(known(), ["a", "nobody"]);
    advance(SHORTEST).await;
    lab.find("c").await.unwrap();
    assert_eq!(known(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_told() {
    let lab = Lab::new();
    lab.servers.say(API, "A", Says::Addresses(&[1], 60));
    lab.find(API).await.unwrap();
    lab.find("nobody").await.unwrap_err();
    advance(Duration::from_millis(500)).await;
    let addresses: Arc<[IpAddr]> = [[192, 0, 2, 1].into()].into();
    let told = |name: &str, addresses, good_for| KnownName {
        name: name.into(),
        family: Family::Ipv4,
        addresses,
        good_for: Duration::from_millis(good_for),
    };
    let expected = [
        told(API, Ok(addresses), 59_500),
        told("nobody", Err(ResolveError::NoAddress), 500),
    ];
    assert_eq!(lab.resolver.known(), expected);
}
