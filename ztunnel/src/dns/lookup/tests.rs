//! Against a name server on loopback that says what it is told to.

use std::{cell::RefCell, net::SocketAddr};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, rdata::A},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};
use tulle_net::Netns;

use super::*;
use crate::dns::servers::{exchange, framed};

/// Messages for one query, by UDP and then by TCP.
type Script = fn(Message, Transport) -> Vec<Message>;

struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    script: Script,
    asked: RefCell<Vec<(Transport, u16, SocketAddr)>>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let udp = UdpSocket::bind(tcp.local_addr().unwrap()).await.unwrap();
        Self {
            udp,
            tcp,
            script,
            asked: RefCell::default(),
        }
    }

    async fn serve(&self) {
        let mut buffer = [0; 512];
        loop {
            tokio::select! {
                received = self.udp.recv_from(&mut buffer) => {
                    let (len, from) = received.unwrap();
                    for answer in self.answers(&buffer[..len], Transport::Udp, from) {
                        self.udp.send_to(&answer, from).await.unwrap();
                    }
                }
                accepted = self.tcp.accept() => {
                    let (mut stream, from) = accepted.unwrap();
                    let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                    stream.read_exact(&mut query).await.unwrap();
                    for answer in self.answers(&query, Transport::Tcp, from) {
                        stream.write_all(&framed(&answer).unwrap()).await.unwrap();
                    }
                }
            }
        }
    }

    fn answers(&self, query: &[u8], transport: Transport, from: SocketAddr) -> Vec<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let id = query.metadata.id;
        self.asked.borrow_mut().push((transport, id, from));
        let answers = (self.script)(query, transport).into_iter();
        answers.map(|answer| answer.to_vec().unwrap()).collect()
    }

    /// What is found, asking this server.
    async fn look_up(&self, name: &str) -> Result<Found, Missing> {
        tokio::select! {
            found = look_up(self, name, Family::Ipv4) => found,
            () = self.serve() => unreachable!("it serves for ever"),
        }
    }
}

impl Ask for Server {
    async fn put(&self, query: &Query, transport: Transport) -> Result<Vec<u8>, AskError> {
        let own = Netns::current().unwrap();
        let server = self.udp.local_addr().unwrap();
        let asked = exchange(&own, None, server, query, transport).await;
        let server = server.ip();
        let answered = asked.map_err(|error| AskError::Failed { server, error });
        answered.map(|reply| reply.bytes)
    }
}

fn reply(query: &Message, code: ResponseCode, last: &[u8]) -> Message {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    message.add_queries(query.queries.clone());
    let owner = query.queries[0].name();
    message.add_answers(last.iter().map(|last| {
        let address = A::new(192, 0, 2, *last);
        Record::from_rdata(owner.clone(), 60, RData::A(address))
    }));
    message
}

fn good(query: &Message, last: &[u8]) -> Message {
    reply(query, ResponseCode::NoError, last)
}

fn found(last: &[u8]) -> Result<Found, Missing> {
    Ok(Found {
        addresses: last.iter().map(|last| [192, 0, 2, *last].into()).collect(),
        ttl: Duration::from_secs(60),
    })
}

#[tokio::test]
async fn what_is_not_the_answer_is_not_heard() {
    let server = Server::start(|query, _| {
        let mut wrong_id = good(&query, &[66]);
        wrong_id.metadata.id ^= 1;
        let mut wrong_name = good(&query, &[66]);
        wrong_name.queries[0].set_name(Name::from_ascii("other.example.").unwrap());
        let mut wrong_kind = good(&query, &[66]);
        wrong_kind.queries[0].set_query_type(RecordType::AAAA);
        vec![
            wrong_id,
            wrong_name,
            wrong_kind,
            query.clone(),
            good(&query, &[1]),
        ]
    });
    let server = server.await;
    assert_eq!(server.look_up("api.example.com").await, found(&[1]));
    assert_eq!(server.asked.borrow().len(), 1);
}

#[tokio::test]
async fn number_and_port_are_others_each_time() {
    let server = Server::start(|query, _| vec![good(&query, &[1])]).await;
    for _ in 0..8 {
        assert_eq!(server.look_up("api.example.com").await, found(&[1]));
    }
    let asked = server.asked.borrow();
    let unlike_first = |differs: fn(&(u16, SocketAddr), &(u16, SocketAddr)) -> bool| {
        let each: Vec<_> = asked.iter().map(|(_, id, from)| (*id, *from)).collect();
        each.iter().any(|other| differs(other, &each[0]))
    };
    // That all eight are equal by chance happens once in 2^112.
    assert!(unlike_first(|a, b| a.0 != b.0));
    assert!(unlike_first(|a, b| a.1.port() != b.1.port()));
}

#[tokio::test]
async fn too_much_for_udp_comes_by_tcp() {
    let server = Server::start(|query, transport| {
        let mut cut = good(&query, &[1]);
        cut.metadata.truncation = true;
        match transport {
            Transport::Udp => vec![cut],
            Transport::Tcp => vec![good(&query, &[1, 2, 3])],
        }
    });
    let server = server.await;
    assert_eq!(server.look_up("api.example.com").await, found(&[1, 2, 3]));
    let asked = server.asked.take();
    let by: Vec<_> = asked.iter().map(|(transport, ..)| *transport).collect();
    assert_eq!(by, [Transport::Udp, Transport::Tcp]);

    let always = Server::start(|query, _| {
        let mut cut = good(&query, &[1]);
        cut.metadata.truncation = true;
        vec![cut]
    });
    let outcome = always.await.look_up("api.example.com").await;
    assert_eq!(outcome, Err(failed("a name server's answer is incomplete")));
}

#[tokio::test]
async fn reasons_why_there_is_nothing() {
    let reason = async |script: Script| {
        let outcome = Server::start(script).await.look_up("api.example.com").await;
        outcome.unwrap_err().reason
    };
    let none = reason(|query, _| vec![reply(&query, ResponseCode::NXDomain, &[])]).await;
    assert_eq!(none, ResolveError::NoSuchName);
    let empty = reason(|query, _| vec![good(&query, &[])]).await;
    assert_eq!(empty, ResolveError::NoAddress);
    let refused = reason(|query, _| vec![reply(&query, ResponseCode::Refused, &[])]).await;
    assert_eq!(refused.to_string(), "name server: Query Refused");
}

#[tokio::test]
async fn names_that_are_asked_for() {
    let server = Server::start(|query, _| vec![good(&query, &[1])]).await;
    let long_part = "a".repeat(64);
    let long = [
        "a".repeat(60),
        "b".repeat(60),
        "c".repeat(60),
        "d".repeat(60),
        "e".repeat(60),
    ];
    for name in [
        "",
        ".",
        "*.example.com",
        "a..example",
        &long_part,
        &long.join("."),
    ] {
        let missing = server.look_up(name).await.unwrap_err();
        assert_eq!(missing.reason, ResolveError::NotAName, "{name}");
    }
    assert!(server.asked.borrow().is_empty());
    // As they are, without a search domain.
    for name in ["db", "_db.example.com", "API.example.com."] {
        assert_eq!(server.look_up(name).await, found(&[1]), "{name}");
    }
}
