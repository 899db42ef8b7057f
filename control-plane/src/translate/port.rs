//! Ports: declared protocols, and where a service port leads on a pod.

use tulle_model::{AppProtocol, PortMapping};

use tulle_manifest::{Pod, Service, ServicePort, TargetPort};

/// The declared protocol: `appProtocol`, then the prefix of the name, then a well-known number.
pub(super) fn app_protocol(port: &ServicePort) -> AppProtocol {
    match port.app_protocol.as_str() {
        "kubernetes.io/h2c" => return AppProtocol::Http2,
        "kubernetes.io/ws" => return AppProtocol::Http11,
        "kubernetes.io/wss" => return AppProtocol::Tls,
        _ => {}
    }
    let name = port.name.to_ascii_lowercase();
    let prefix = match name.as_str() {
        // The only protocol with a dash of its own.
        "grpc-web" => "grpc-web",
        name if name.starts_with("grpc-web-") => "grpc-web",
        name => name.split('-').next().unwrap_or(""),
    };
    protocol(&port.app_protocol.to_ascii_lowercase())
        .or_else(|| protocol(prefix))
        .unwrap_or(match port.port {
            25 | 53 | 3306 | 27017 => AppProtocol::Tcp,
            _ => AppProtocol::Unknown,
        })
}

fn protocol(name: &str) -> Option<AppProtocol> {
    Some(match name {
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" | "grpc-web" => AppProtocol::Grpc,
        "https" | "tls" => AppProtocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" | "hbone" => AppProtocol::Tcp,
        // UDP is not ours to carry; the port is listed all the same.
        "udp" => AppProtocol::Unknown,
        _ => return None,
    })
}

/// What the pod serves for each port of the service. A named port that the pod does not have is left out.
pub(super) fn mappings(service: &Service, pod: &Pod) -> Vec<PortMapping> {
    let ports = service.spec.ports.iter().filter(|port| port.port != 0);
    let mapping = |port: &ServicePort| {
        let target_port = match &port.target_port {
            TargetPort::Same => port.port,
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => named_port(pod, name)?,
        };
        Some(PortMapping {
            service_port: port.port,
            target_port,
        })
    };
    ports.filter_map(mapping).collect()
}

/// The first TCP port with this name, of the containers and then of the sidecars among the init containers.
pub(super) fn named_port(pod: &Pod, name: &str) -> Option<u16> {
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|container| container.restart_policy == "Always");
    pod.spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .find(|port| port.name == name && matches!(port.protocol.as_str(), "" | "TCP"))
        .map(|port| port.container_port)
        .filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tulle_manifest::{Container, ContainerPort};

    #[test]
    fn protocol_is_declared_then_named_then_well_known() {
        for (app_protocol_field, name, port, expected) in [
            ("", "http", 80, AppProtocol::Http11),
            ("", "http-admin", 80, AppProtocol::Http11),
            ("", "http2", 80, AppProtocol::Http2),
            ("", "httpfoo", 80, AppProtocol::Unknown),
            ("", "grpc-web", 80, AppProtocol::Grpc),
            ("", "grpc-web-x", 80, AppProtocol::Grpc),
            ("", "https", 443, AppProtocol::Tls),
            ("", "tls-x", 443, AppProtocol::Tls),
            ("", "redis", 6379, AppProtocol::Tcp),
            ("", "", 3306, AppProtocol::Tcp),
            ("", "", 80, AppProtocol::Unknown),
            ("", "udp-x", 53, AppProtocol::Unknown),
            ("HTTP2", "tcp", 80, AppProtocol::Http2),
            ("kubernetes.io/h2c", "tcp", 80, AppProtocol::Http2),
            ("kubernetes.io/ws", "", 80, AppProtocol::Http11),
            ("kubernetes.io/wss", "", 80, AppProtocol::Tls),
            ("example.com/own", "tcp", 80, AppProtocol::Tcp),
            ("example.com/own", "", 80, AppProtocol::Unknown),
        ] {
            let port = ServicePort {
                name: name.to_owned(),
                port,
                app_protocol: app_protocol_field.to_owned(),
                ..ServicePort::default()
            };
            assert_eq!(app_protocol(&port), expected, "{port:?}");
        }
    }

    #[test]
    fn named_ports_are_looked_up_in_containers_and_sidecars() {
        let container = |name: &str, port, protocol: &str, restart: &str| Container {
            ports: vec![ContainerPort {
                name: name.to_owned(),
                container_port: port,
                protocol: protocol.to_owned(),
            }],
            restart_policy: restart.to_owned(),
        };
        let mut pod = Pod::default();
        pod.spec.containers = vec![
            container("web", 53, "UDP", ""),
            container("web", 8080, "TCP", ""),
            container("web", 8081, "", ""),
        ];
        pod.spec.init_containers = vec![
            container("side", 1, "", ""),
            container("side", 2, "", "Always"),
        ];
        let port = |port, target_port| ServicePort {
            port,
            target_port,
            ..ServicePort::default()
        };
        let named = |name: &str| TargetPort::Name(name.to_owned());
        let mut service = Service::default();
        service.spec.ports = vec![
            port(80, named("web")),
            port(81, named("side")),
            port(82, named("none")),
            port(83, TargetPort::Number(9000)),
            port(84, TargetPort::Same),
        ];
        let got: Vec<_> = mappings(&service, &pod)
            .iter()
            .map(|mapping| (mapping.service_port, mapping.target_port))
            .collect();
        assert_eq!(got, [(80, 8080), (81, 2), (83, 9000), (84, 84)]);
    }
}
