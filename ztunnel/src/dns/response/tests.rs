use std::net::Ipv4Addr;

use hickory_proto::{
    op::{MessageType, OpCode},
    rr::{
        RecordType,
        rdata::{A, AAAA, CNAME, SOA},
    },
};

use proptest::{prop_assert_eq, proptest};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn asked() -> Question {
    Question::query(name("api.example.com."), RecordType::A)
}

fn answer(code: ResponseCode) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.add_query(asked());
    message
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    let address = Ipv4Addr::new(192, 0, 2, last);
    Record::from_rdata(name(owner), ttl, RData::A(A(address)))
}

fn alias(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn read(message: &Message) -> Response {
    Response::read(&message.to_vec().unwrap(), &asked())
}

fn said(answers: impl IntoIterator<Item = Record>) -> Response {
    let mut message = answer(ResponseCode::NoError);
    message.add_answers(answers);
    read(&message)
}

fn found(last: &[u8], ttl: u64) -> Response {
    let addresses = last.iter().map(|last| [192, 0, 2, *last].into()).collect();
    Response::Addresses(addresses, Duration::from_secs(ttl))
}

#[test]
fn addresses_of_the_name_and_of_its_aliases() {
    let own = "API.Example.com.";
    for (answers, expected) in [
        (
            vec![a(own, 60, 1), a(own, 30, 2), a(own, 90, 1)],
            found(&[1, 2], 30),
        ),
        (
            vec![
                a("c.net.", 90, 3),
                alias("b.net.", 20, "C.net."),
                alias(own, 50, "b.net."),
            ],
            found(&[3], 20),
        ),
        // What nobody asked for is not believed.
        (
            vec![a("other.example.com.", 60, 1)],
            Response::NoAddress(Duration::ZERO),
        ),
        (
            vec![alias(own, 50, "b.net."), a("c.net.", 60, 1)],
            Response::NoAddress(Duration::ZERO),
        ),
        // Around in circles.
        (
            vec![alias(own, 50, "b.net."), alias("b.net.", 50, own)],
            Response::NoAddress(Duration::ZERO),
        ),
        // A time that cannot be is none.
        (vec![a(own, 1 << 31, 1)], found(&[1], 0)),
    ] {
        assert_eq!(said(answers.clone()), expected, "{answers:?}");
    }
    let longest: Vec<_> = (0..MOST_ALIASES)
        .map(|n| match n {
            0 => alias(own, 9, "n1.net."),
            n => alias(&format!("n{n}.net."), 9, &format!("n{}.net.", n + 1)),
        })
        .collect();
    let end = a(&format!("n{MOST_ALIASES}.net."), 9, 5);
    let whole = longest.iter().cloned().chain([end.clone()]);
    assert_eq!(said(whole), found(&[5], 9));
    let more = a("more.net.", 9, 5);
    let longer = alias(&end.name.to_ascii(), 9, "more.net.");
    assert_eq!(
        said(longest.into_iter().chain([longer, more])),
        Response::NoAddress(Duration::ZERO)
    );
}

#[test]
fn as_many_addresses_as_are_kept() {
    let many = (0..=255).map(|last| a("api.example.com.", 60, last));
    let kept: Vec<u8> = (0..32).collect();
    assert_eq!(said(many), found(&kept, 60));
    let family = AAAA("2001:db8::1".parse().unwrap());
    let other = Record::from_rdata(name("api.example.com."), 60, RData::AAAA(family));
    assert_eq!(said([other]), Response::NoAddress(Duration::ZERO));
}

#[test]
fn how_long_there_is_nothing() {
    let zone = |minimum, ttl| {
        let zone = SOA::new(name("ns."), name("who."), 1, 2, 3, 4, minimum);
        Record::from_rdata(name("example.com."), ttl, RData::SOA(zone))
    };
    let seconds = Duration::from_secs;
    for (authorities, expected) in [
        (vec![], 0),
        (vec![zone(20, 300)], 20),
        (vec![zone(300, 10)], 10),
        (vec![zone(u32::MAX, 10)], 0),
    ] {
        let mut none = answer(ResponseCode::NXDomain);
        none.add_authorities(authorities.clone());
        assert_eq!(read(&none), Response::NoSuchName(seconds(expected)));
        let mut empty = answer(ResponseCode::NoError);
        empty.add_authorities(authorities);
        assert_eq!(read(&empty), Response::NoAddress(seconds(expected)));
    }
    // The name does not exist, whatever else is said.
    let mut both = answer(ResponseCode::NXDomain);
    both.add_answer(a("api.example.com.", 60, 1));
    assert_eq!(read(&both), Response::NoSuchName(Duration::ZERO));
}

proptest! {
    /// Nothing that happens to an answer on its way is more than an answer or none.
    #[test]
    fn a_spoilt_answer_is_read_or_not(place in 0_usize..80, byte: u8, len in 0_usize..80) {
        let mut message = answer(ResponseCode::NoError);
        message.add_answers([alias("api.example.com.", 30, "b.net."), a("b.net.", 60, 1)]);
        let whole = message.to_vec().unwrap();
        prop_assert_eq!(Response::read(&whole, &asked()), found(&[1], 30));
        let cut = &whole[..len.min(whole.len() - 1)];
        prop_assert_eq!(Response::read(cut, &asked()), Response::Mismatched);
        let mut spoilt = whole.clone();
        spoilt[place % whole.len()] = byte;
        if let Response::Addresses(addresses, _) = Response::read(&spoilt, &asked()) {
            prop_assert_eq!(addresses.len(), 1);
        }
    }
}

#[test]
fn only_answers_to_the_question_count() {
    let good = a("api.example.com.", 60, 1);
    let with = |questions: Vec<Question>, code| {
        let mut message = answer(code);
        message.queries = questions;
        message.add_answer(good.clone());
        read(&message)
    };
    let other = Question::query(name("api.example.org."), RecordType::A);
    let kind = Question::query(name("api.example.com."), RecordType::AAAA);
    for questions in [vec![], vec![other], vec![kind], vec![asked(), asked()]] {
        for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
            assert_eq!(with(questions.clone(), code), Response::Mismatched);
        }
        // Whoever cannot tell may well not have understood.
        let refused = ResponseCode::Refused;
        assert_eq!(with(questions, refused), Response::Failed(refused));
    }
    assert_eq!(with(vec![asked()], ResponseCode::NoError), found(&[1], 60));
    assert_eq!(Response::read(&[0; 11], &asked()), Response::Mismatched);

    let mut cut = answer(ResponseCode::NoError);
    cut.metadata.truncation = true;
    cut.add_answer(good);
    assert_eq!(read(&cut), Response::Truncated);
}
