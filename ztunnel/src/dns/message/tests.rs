use std::net::Ipv4Addr;

use hickory_proto::rr::RecordType;

use super::*;

fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn read(message: &Message) -> Query {
    Query::read(message.to_vec().unwrap()).unwrap()
}

fn addresses(count: u32) -> Known {
    Known {
        alias: None,
        addresses: (0..count)
            .map(|number| Ipv4Addr::from_bits(0x0a00_0000 + number).into())
            .collect(),
    }
}

fn answer(query: &Query, known: &Known, transport: Transport) -> Message {
    Message::from_vec(&query.answer(known, transport).unwrap()).unwrap()
}

#[test]
fn addresses_are_asked_for() {
    for (kind, family, text) in [
        (RecordType::A, Some(Family::Ipv4), "A"),
        (RecordType::AAAA, Some(Family::Ipv6), "AAAA"),
        (RecordType::SRV, None, "SRV"),
        (RecordType::ANY, None, "ANY"),
        (RecordType::Unknown(65_280), None, "other"),
    ] {
        let query = read(&asked("Web.Shop.", kind));
        assert_eq!((query.family(), query.kind()), (family, text));
        assert_eq!(query.name().unwrap(), "web.shop");
    }
    let mut update = asked("web.shop.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(
        (read(&update).family(), read(&update).kind()),
        (None, "other")
    );
    let mut chaos = asked("web.shop.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(read(&chaos).family(), None);
    let mut two = asked("web.shop.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(read(&two).family(), None);
    let mut laden = asked("web.shop.", RecordType::A);
    let record = || Record::from_rdata(Name::root(), TTL, RData::A(A(Ipv4Addr::LOCALHOST)));
    laden.add_additionals((0..3).map(|_| record()));
    assert_eq!(read(&laden).family(), None);
}

#[test]
fn what_is_no_query_is_nobodys() {
    let whole = asked("web.shop.", RecordType::A).to_vec().unwrap();
    for len in 0..HEADER {
        assert!(Query::read(whole[..len].to_vec()).is_none(), "{len}");
    }
    for len in HEADER..whole.len() {
        let query = Query::read(whole[..len].to_vec()).unwrap();
        assert_eq!((query.family(), query.name()), (None, None), "{len}");
        assert!(query.answer(&addresses(1), Transport::Udp).is_none());
        assert!(query.fail().is_some());
    }
    let mut answered = whole;
    answered[2] |= 0x80;
    assert!(Query::read(answered).is_none());
    // A name that points at itself has no end.
    let mut endless = vec![0; HEADER];
    endless[5] = 1;
    endless.extend([0xc0, HEADER as u8, 0, 1, 0, 1]);
    assert_eq!(Query::read(endless).unwrap().name(), None);
}

#[test]
fn answers_have_addresses() {
    let query = read(&asked("Web.Shop.", RecordType::A));
    let message = answer(&query, &addresses(2), Transport::Udp);
    assert_eq!(message.id, 0x1234);
    assert!(message.authoritative && message.recursion_available && message.recursion_desired);
    assert_eq!(message.queries, asked("Web.Shop.", RecordType::A).queries);
    let lines: Vec<_> = message.answers.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["Web.Shop. 30 IN A 10.0.0.0", "Web.Shop. 30 IN A 10.0.0.1"]
    );
    assert!(message.edns.is_none());

    let nothing = answer(&query, &addresses(0), Transport::Udp);
    assert_eq!(nothing.response_code, ResponseCode::NoError);
    assert!(nothing.answers.is_empty());

    let known = Known {
        alias: Some("web.shop".to_owned()),
        ..addresses(1)
    };
    let query = read(&asked("web.shop.svc.cluster.local.", RecordType::A));
    let message = answer(&query, &known, Transport::Udp);
    let lines: Vec<_> = message.answers.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "web.shop.svc.cluster.local. 30 IN CNAME web.shop.",
            "web.shop. 30 IN A 10.0.0.0"
        ]
    );
}

#[test]
fn answers_fit_what_the_client_takes() {
    let plain = asked("web.shop.", RecordType::A);
    let mut large = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    large.set_edns(edns.clone());
    let known = addresses(100);
    for (asked, transport, is_cut) in [
        (&plain, Transport::Udp, true),
        (&plain, Transport::Tcp, false),
        (&large, Transport::Udp, false),
    ] {
        let query = read(asked);
        let message = answer(&query, &known, transport);
        assert_eq!(message.truncation, is_cut, "{transport:?}");
        // 26 bytes for header and question, 16 for each address.
        assert_eq!(message.answers.len(), if is_cut { 30 } else { 100 });
        assert_eq!(message.edns.is_some(), asked.edns.is_some());
    }
    let many = read(&asked("web.shop.", RecordType::A)).answer(&addresses(9000), Transport::Tcp);
    assert!(many.unwrap().len() <= usize::from(u16::MAX));
    let failed = Message::from_vec(&read(&large).fail().unwrap()).unwrap();
    assert_eq!(failed.response_code, ResponseCode::ServFail);
    assert!(failed.edns.is_some());
    edns.set_version(1);
    large.set_edns(edns);
    assert!(read(&large).answer(&known, Transport::Udp).is_none());
}

#[test]
fn only_the_answer_is_relayed() {
    let asked = asked("Web.Example.", RecordType::TXT);
    let query = read(&asked);
    let sent = query.renumbered(77);
    assert_eq!(sent[..2], [0, 77]);
    assert_eq!(sent[2..], asked.to_vec().unwrap()[2..]);

    let mut reply = sent.clone();
    reply[2] |= 0x80;
    reply.extend(b"whatever stands behind it");
    let relayed = query.relayed(&reply, 77).unwrap();
    assert!(relayed.is_final);
    assert_eq!(relayed.bytes[..2], [0x12, 0x34]);
    assert_eq!(relayed.bytes[2..], reply[2..]);
    // Some servers write names in their own way.
    let lower = [&reply[..HEADER], &reply[HEADER..].to_ascii_lowercase()].concat();
    assert!(query.relayed(&lower, 77).is_some());

    // Nobody answers without saying what.
    let mut mute = reply[..HEADER].to_vec();
    mute[4..6].fill(0);
    assert!(query.relayed(&mute, 77).is_none());
    assert!(query.relayed(&reply, 78).is_none());
    assert!(query.relayed(&sent, 77).is_none());
    assert!(query.relayed(&reply[..HEADER + 3], 77).is_none());
    let mut other = reply.clone();
    other[HEADER + 1] = b'x';
    assert!(query.relayed(&other, 77).is_none());

    let mut refused = reply.clone();
    refused[3] = 5;
    assert!(!query.relayed(&refused, 77).unwrap().is_final);
    // What was not understood is not repeated.
    let mut misread = reply[..HEADER].to_vec();
    misread[3] = 1;
    misread[4..6].fill(0);
    assert!(query.relayed(&misread, 77).unwrap().is_final);
}
