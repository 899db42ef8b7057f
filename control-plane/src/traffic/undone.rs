//! What a DestinationRule says that is not done yet, and what becomes of it.

use tulle_manifest::destination_rule::{
    ClientTls, ConnectionPool, DestinationRuleSpec, LoadBalancer, TrafficPolicy,
};

use crate::translate::Finding;

/// Each with its path.
pub fn undone(spec: &DestinationRuleSpec) -> Vec<Finding> {
    let mut found = Undone(Vec::new());
    found.policy("spec.trafficPolicy", spec.traffic_policy.as_ref());
    for (number, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{number}].trafficPolicy");
        found.policy(&path, subset.traffic_policy.as_ref());
    }
    found.0
}

struct Undone(Vec<Finding>);

impl Undone {
    fn tell(&mut self, path: String, there: bool, message: &str) {
        if there {
            self.0.push(Finding::new(path, message));
        }
    }

    fn policy(&mut self, path: &str, policy: Option<&TrafficPolicy>) {
        let Some(policy) = policy else { return };
        self.shared(
            path,
            &policy.load_balancer,
            &policy.connection_pool,
            &policy.tls,
        );
        for (number, of) in policy.port_level_settings.iter().enumerate() {
            let path = format!("{path}.portLevelSettings[{number}]");
            self.shared(&path, &of.load_balancer, &of.connection_pool, &of.tls);
        }
        self.tell(format!("{path}.tunnel"), policy.tunnel.is_some(), REFUSED);
        let proxy_protocol = policy.proxy_protocol.is_some();
        self.tell(format!("{path}.proxyProtocol"), proxy_protocol, REFUSED);
    }

    fn shared(
        &mut self,
        path: &str,
        balancer: &Option<LoadBalancer>,
        pool: &Option<ConnectionPool>,
        tls: &Option<ClientTls>,
    ) {
        if let Some(balancer) = balancer {
            let path = format!("{path}.loadBalancer");
            let passes = balancer.simple.as_deref() == Some("PASSTHROUGH");
            let message = "endpoints are chosen by what they have to do";
            self.tell(format!("{path}.simple"), passes, message);
            let locality = balancer.locality_lb_setting.as_ref();
            let locality = locality.is_some_and(|setting| setting.enabled != Some(false));
            let message = "no effect yet: trafficDistribution of the service says what is near";
            self.tell(format!("{path}.localityLbSetting"), locality, message);
            let sizes = balancer.consistent_hash.as_ref().is_some_and(|hash| {
                hash.ring_hash.is_some()
                    || hash.maglev.is_some()
                    || hash.minimum_ring_size.is_some()
            });
            let message =
                "no effect: there is one kind of ring, whose size goes with the endpoints";
            self.tell(format!("{path}.consistentHash"), sizes, message);
        }
        if let Some(pool) = pool {
            let path = format!("{path}.connectionPool");
            let tcp = pool.tcp.as_ref();
            let http = pool.http.as_ref();
            let message = "no effect: tunnels to endpoints have timeouts of their own";
            for (field, there) in [
                (
                    "tcp.tcpKeepalive",
                    tcp.is_some_and(|tcp| tcp.tcp_keepalive.is_some()),
                ),
                (
                    "http.http2KeepAlive",
                    http.is_some_and(|http| http.http2_keep_alive.is_some()),
                ),
            ] {
                self.tell(format!("{path}.{field}"), there, message);
            }
            let message = "no effect yet";
            for (field, there) in [
                (
                    "tcp.maxConnectionDuration",
                    tcp.is_some_and(|tcp| tcp.max_connection_duration.is_some()),
                ),
                (
                    "tcp.idleTimeout",
                    tcp.is_some_and(|tcp| tcp.idle_timeout.is_some()),
                ),
                (
                    "http.maxConcurrentStreams",
                    http.is_some_and(|http| http.max_concurrent_streams.is_some()),
                ),
            ] {
                self.tell(format!("{path}.{field}"), there, message);
            }
        }
        let tls = tls.as_ref().and_then(|tls| tls.mode.as_deref());
        let originates = matches!(tls, Some("SIMPLE" | "MUTUAL"));
        self.tell(format!("{path}.tls"), originates, REFUSED);
    }
}

const REFUSED: &str = "not done yet: what this is about is refused";
