//! Resources of a small mesh, for tests.

use tulle_model::{
    Destination, GatewayAddress, NetworkAddress, PortMapping, Service, ServiceKey, ServicePort,
    TunnelProtocol, Vip, Workload,
};

/// A pod of the mesh in namespace `shop`, on node `node`. Name and service account are the end of the UID.
pub fn pod(uid: &str, address: &str) -> Workload {
    let name = uid.rsplit('/').next().expect("a split has a part");
    let start =
        Workload::new(uid, Default::default(), "shop", name).expect("test names fit a SPIFFE ID");
    Workload {
        name: name.into(),
        addresses: vec![address.parse().expect("test addresses parse")],
        tunnel_protocol: TunnelProtocol::Hbone,
        node: "node".into(),
        ..start
    }
}

/// Makes a workload an endpoint of `<name>.shop`, with these ports.
pub fn serving(mut workload: Workload, name: &str, ports: &[(u16, u16)]) -> Workload {
    let ports = ports.iter().map(|(service_port, target_port)| PortMapping {
        service_port: *service_port,
        target_port: *target_port,
    });
    workload.services.insert(key(name), ports.collect());
    workload
}

/// The service `<name>.shop` in namespace `shop`, port 80 to 8080.
pub fn service(name: &str, vips: &[&str]) -> Service {
    let vip = |text: &&str| Vip::Host(address(text));
    Service {
        vips: vips.iter().map(vip).collect(),
        ports: vec![ServicePort {
            service_port: 80,
            target_port: 8080,
            app_protocol: Default::default(),
        }],
        ..Service::new(name, "shop", &key(name).hostname)
    }
}

/// Key of [`service`].
pub fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", format!("{name}.shop"))
}

/// An address of the default network.
pub fn address(text: &str) -> NetworkAddress {
    NetworkAddress::new(
        "".into(),
        text.parse().expect("test addresses or keys parse"),
    )
}

/// A waypoint by address, or by `namespace/hostname`.
pub fn gateway(text: &str, port: u16) -> GatewayAddress {
    let by_name = || Destination::Hostname(text.parse().expect("test addresses or keys parse"));
    GatewayAddress {
        destination: (text.parse())
            .map_or_else(|_| by_name(), |ip| Destination::Address(address_of(ip))),
        hbone_mtls_port: port,
    }
}

fn address_of(ip: std::net::IpAddr) -> NetworkAddress {
    NetworkAddress::new("".into(), ip)
}
