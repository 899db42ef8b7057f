//! What a client needs to know.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde_json::Value as Json;
use tulle_identity::control_tls::{ChannelConfig, Credentials};
use tulle_proto::discovery;

use super::ClientMetrics;
use crate::ResourceType;

/// How to reach a control plane, and as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The server.
    pub channel: ChannelConfig,
    /// Token and other metadata, applied to each new stream.
    pub credentials: Credentials,
    /// Who is asking.
    pub node: NodeConfig,
    /// What is asked for. Default [`ResourceType::L4`].
    pub kinds: Vec<ResourceType>,
    /// Largest response in bytes. Default 200 MiB.
    pub max_message: usize,
    /// Pace of reconnects.
    pub backoff: BackoffConfig,
    /// Where the client counts.
    pub metrics: Arc<ClientMetrics>,
}

impl ClientConfig {
    /// The default limits.
    pub fn new(channel: ChannelConfig, credentials: Credentials, node: NodeConfig) -> Self {
        Self {
            channel,
            credentials,
            node,
            kinds: ResourceType::L4.to_vec(),
            max_message: 200 << 20,
            backoff: BackoffConfig::default(),
            metrics: Arc::default(),
        }
    }
}

/// Pace of reconnects: doubling from `first` to `max`, each a random share between half and all of it.
#[derive(Clone, Debug)]
pub struct BackoffConfig {
    /// After the first failure. Default 10 ms.
    pub first: Duration,
    /// Never longer. Default 15 s.
    pub max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(10),
            max: Duration::from_secs(15),
        }
    }
}

/// Who is asking. Servers authorize the token, and use this only to choose what to send.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// First part of the node id, by which control planes tell proxies apart. Default `ztunnel`.
    pub proxy_type: String,
    /// Address of the proxy itself.
    pub instance_ip: Option<IpAddr>,
    /// Pod name.
    pub name: String,
    /// Pod namespace.
    pub namespace: String,
    /// Name of the Kubernetes node.
    pub node_name: String,
    /// More metadata; replaces the entries above if it has the same keys.
    pub metadata: BTreeMap<String, Json>,
}

impl NodeConfig {
    /// A ztunnel without further metadata.
    pub fn new(name: &str, namespace: &str, node_name: &str) -> Self {
        Self {
            proxy_type: "ztunnel".to_owned(),
            instance_ip: None,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            node_name: node_name.to_owned(),
            metadata: BTreeMap::new(),
        }
    }

    /// As it is sent.
    pub fn to_wire(&self) -> discovery::Node {
        let Self {
            proxy_type,
            name,
            namespace,
            ..
        } = self;
        let ip = self.instance_ip.map_or_else(
            || PLACEHOLDER_IP.to_owned(),
            |ip| ip.to_canonical().to_string(),
        );
        discovery::Node {
            id: format!("{proxy_type}~{ip}~{name}.{namespace}~{namespace}.svc.cluster.local"),
            cluster: String::new(),
            metadata: Some(self.metadata_struct(&ip)),
        }
    }

    fn metadata_struct(&self, ip: &str) -> prost_types::Struct {
        let own = [
            ("NAME", self.name.as_str()),
            ("NAMESPACE", &self.namespace),
            ("INSTANCE_IPS", ip),
            ("NODE_NAME", &self.node_name),
        ];
        let own = own
            .into_iter()
            .map(|(key, text)| (key.to_owned(), protobuf_value(&Json::from(text))));
        let more = self.metadata.iter();
        prost_types::Struct {
            fields: own
                .chain(more.map(|(key, value)| (key.clone(), protobuf_value(value))))
                .collect(),
        }
    }
}

fn protobuf_value(json: &Json) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        // Protobuf knows only this kind of number; without arbitrary precision every JSON number has such a form.
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.iter().map(protobuf_value).collect(),
        }),
        Json::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields
                .iter()
                .map(|(key, value)| (key.clone(), protobuf_value(value)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// What upstream puts into the node id when the proxy does not know its address.
const PLACEHOLDER_IP: &str = "1.1.1.1";

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::value::Kind;
    use serde_json::json;

    #[test]
    fn node_names_pod_and_metadata() {
        let mut config = NodeConfig::new("ztunnel-x", "mesh", "node-1");
        config.instance_ip = Some("::ffff:10.0.0.9".parse().unwrap());
        config.metadata = [
            ("CLUSTER_ID".to_owned(), json!("c1")),
            ("NODE_NAME".to_owned(), json!("node-2")),
            ("LABELS".to_owned(), json!({"a": [1, true, null]})),
        ]
        .into();
        let node = config.to_wire();
        assert_eq!(
            node.id,
            "ztunnel~10.0.0.9~ztunnel-x.mesh~mesh.svc.cluster.local"
        );
        let fields = node.metadata.unwrap().fields;
        let text = |key: &str| match &fields[key].kind {
            Some(Kind::StringValue(text)) => text.clone(),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(text("NAME"), "ztunnel-x");
        assert_eq!(text("NAMESPACE"), "mesh");
        assert_eq!(text("INSTANCE_IPS"), "10.0.0.9");
        assert_eq!(text("NODE_NAME"), "node-2");
        assert_eq!(text("CLUSTER_ID"), "c1");
        assert!(matches!(fields["LABELS"].kind, Some(Kind::StructValue(_))));
    }

    #[test]
    fn unknown_address_has_a_placeholder() {
        let node = NodeConfig::new("z", "mesh", "n").to_wire();
        assert_eq!(node.id, "ztunnel~1.1.1.1~z.mesh~mesh.svc.cluster.local");
    }
}
