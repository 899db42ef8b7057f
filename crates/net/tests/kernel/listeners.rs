//! Who listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tulle_net::Netns;
use tulle_net::listen::{ListenOptions, listen};
use tulle_net::listeners::listening;

use crate::support::{FAMILIES, app, dial, isolated, isolated_async};

#[test]
fn listeners_on_any_address_are_found_and_nothing_else() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let [v4, v6] = FAMILIES;
        let at = |ip: IpAddr, port| {
            let options = ListenOptions::new(SocketAddr::new(ip, port));
            listen(&netns, &options).unwrap().socket
        };
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let _open = [
            at(v4.loopback, 15053),
            at(v6.loopback, 15001),
            at(unspecified, 15006),
        ];
        let everywhere = app(&netns, 15008);
        // The ports of both ends of a connection are not listened on, whatever its listener does.
        let passing = app(&netns, 9000);
        let client = dial(&netns, v4.loopback, 9000).await;
        let (server, _) = passing.accept().await.unwrap();
        drop(passing);

        let connected = [client.local_addr().unwrap().port(), 9000];
        let asked = [15001, 15006, 15008, 15053, 1, connected[0], connected[1]];
        let found = listening(&netns, &asked).unwrap();
        assert_eq!(found, [15001, 15006, 15008, 15053]);
        let in_order_of_asking = listening(&netns, &[15053, 9000, 15001]).unwrap();
        assert_eq!(in_order_of_asking, [15053, 15001]);

        drop((everywhere, client, server));
        assert_eq!(listening(&netns, &[15008, 15006]).unwrap(), [15006]);
    });
}

#[test]
fn listeners_elsewhere_do_not_count() {
    isolated(|| {
        let (pod, other) = (Netns::create().unwrap(), Netns::create().unwrap());
        let options = ListenOptions::new(SocketAddr::from(([0, 0, 0, 0], 15001)));
        let _open = listen(&other, &options).unwrap();
        assert_eq!(listening(&pod, &[15001]).unwrap(), [0_u16; 0]);
        assert_eq!(listening(&other, &[15001]).unwrap(), [15001]);
        assert_eq!(listening(&other, &[]).unwrap(), [0_u16; 0]);
    });
}
