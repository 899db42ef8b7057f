//! Namespaces: made, entered, named.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tulle_net::Netns;

use crate::support::isolated;

#[test]
fn new_namespace_has_loopback_up_and_nothing_else() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        netns
            .enter(|| {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                assert_eq!(interfaces.lines().count(), 3, "{interfaces}");
            })
            .unwrap();
    });
}

#[test]
fn visits_nest_and_come_back() {
    isolated(|| {
        let home = Netns::current().unwrap();
        let (a, b) = (Netns::create().unwrap(), Netns::create().unwrap());
        let here = || Netns::current().unwrap().id();
        let seen = a.enter(|| {
            let inner = b
                .enter(|| (here(), a.enter(here).unwrap(), here()))
                .unwrap();
            (inner, here())
        });
        assert_eq!(seen.unwrap(), ((b.id(), a.id(), b.id()), a.id()));
        assert_eq!(here(), home.id());
        assert_eq!(home.enter(here).unwrap(), home.id());
    });
}

#[test]
fn a_panic_inside_a_visit_comes_back_too() {
    isolated(|| {
        let home = Netns::current().unwrap();
        let away = Netns::create().unwrap();
        let visit = AssertUnwindSafe(|| away.enter(|| panic!("on purpose")));
        assert!(catch_unwind(visit).is_err());
        assert_eq!(Netns::current().unwrap(), home);
    });
}

#[test]
fn identities_differ_between_namespaces_only() {
    isolated(|| {
        let (a, b) = (Netns::create().unwrap(), Netns::create().unwrap());
        let again = Netns::from_fd(a.fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(
            (a.id(), a.cookie().unwrap()),
            (again.id(), again.cookie().unwrap())
        );
        assert_ne!(a.id(), b.id());
        assert_ne!(a.cookie().unwrap(), b.cookie().unwrap());
    });
}

#[test]
fn only_network_namespaces_are_accepted() {
    isolated(|| {
        for path in [
            "/dev/null",
            "/proc/self/ns/pid",
            "/proc/self/status",
            "/tmp",
        ] {
            let refused = Netns::open(path).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput, "{path}");
        }
    });
}

#[test]
fn a_name_keeps_a_namespace_until_it_is_taken_back() {
    isolated(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod");
        let netns = Netns::create().unwrap();
        netns.persist(&path).unwrap();
        assert_eq!(
            netns.persist(&path).unwrap_err().kind(),
            std::io::ErrorKind::AlreadyExists
        );
        let (id, cookie) = (netns.id(), netns.cookie().unwrap());
        drop(netns);

        let reopened = Netns::open(&path).unwrap();
        assert_eq!((reopened.id(), reopened.cookie().unwrap()), (id, cookie));
        Netns::unpersist(&path).unwrap();
        assert!(!path.exists());
        Netns::unpersist(&path).unwrap();
    });
}
