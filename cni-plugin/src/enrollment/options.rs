//! How one pod is captured: what its annotations say.

use std::{collections::BTreeSet, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Networks, Texts};

/// What a pod's annotations change about its redirection. The default is to capture everything.
///
/// A value that cannot be read changes nothing: too much is captured rather than too little.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `ambient.istio.io/bypass-inbound-capture`: what arrives in the clear goes past the mesh.
    pub bypass_inbound: bool,
    /// `ambient.istio.io/dns-capture`: overrides the node's default.
    pub dns_capture: Option<bool>,
    /// `istio.io/reroute-virtual-interfaces`: what arrives there counts as sent by the app.
    pub virtual_interfaces: BTreeSet<String>,
    /// `ambient.tulle.io/exclude-inbound-ports`.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// `ambient.tulle.io/exclude-outbound-ports`.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// `ambient.tulle.io/exclude-inbound-cidrs`.
    pub exclude_inbound: Networks,
    /// `ambient.tulle.io/exclude-outbound-cidrs`.
    pub exclude_outbound: Networks,
    /// Values that could not be read.
    #[serde(skip)]
    pub ignored: Vec<Ignored>,
}

/// An annotation, or an entry of it, that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is {problem}; it is ignored")]
pub struct Ignored {
    /// Which.
    pub annotation: &'static str,
    /// Its value, or the entry.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Options {
    /// Reads annotations; those that are not about redirection are not looked at.
    pub fn read(annotations: &Texts) -> Self {
        let mut ignored = Vec::new();
        let mut reader = Reader {
            annotations,
            ignored: &mut ignored,
        };
        let options = Self {
            bypass_inbound: reader.flag(BYPASS_INBOUND).unwrap_or_default(),
            dns_capture: reader.flag(DNS_CAPTURE),
            virtual_interfaces: reader.list(
                VIRTUAL_INTERFACES,
                "no interface name",
                |name: &String| is_interface(name),
            ),
            exclude_inbound_ports: reader.list(EXCLUDE_INBOUND_PORTS, NO_PORT, is_port),
            exclude_outbound_ports: reader.list(EXCLUDE_OUTBOUND_PORTS, NO_PORT, is_port),
            exclude_inbound: reader.list(EXCLUDE_INBOUND, NO_CIDR, |_| true),
            exclude_outbound: reader.list(EXCLUDE_OUTBOUND, NO_CIDR, |_| true),
            ignored: Vec::new(),
        };
        Self { ignored, ..options }
    }
}

struct Reader<'a> {
    annotations: &'a Texts,
    ignored: &'a mut Vec<Ignored>,
}

impl Reader<'_> {
    fn flag(&mut self, annotation: &'static str) -> Option<bool> {
        let value = self.annotations.get(annotation)?;
        let flag = value.parse().ok();
        if flag.is_none() {
            self.ignore(annotation, value.clone(), "neither true nor false");
        }
        flag
    }

    fn list<T: FromStr + Ord>(
        &mut self,
        annotation: &'static str,
        problem: &'static str,
        valid: fn(&T) -> bool,
    ) -> BTreeSet<T> {
        let Some(value) = self.annotations.get(annotation) else {
            return BTreeSet::new();
        };
        let mut read = BTreeSet::new();
        for entry in value.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            match entry.parse().ok().filter(valid) {
                Some(entry) => {
                    read.insert(entry);
                }
                None => self.ignore(annotation, entry.to_owned(), problem),
            }
        }
        read
    }

    fn ignore(&mut self, annotation: &'static str, value: String, problem: &'static str) {
        self.ignored.push(Ignored {
            annotation,
            value,
            problem,
        });
    }
}

fn is_port(port: &u16) -> bool {
    *port != 0
}

fn is_interface(name: &str) -> bool {
    name.len() <= 15 && !name.contains(['/', ':']) && !name.contains(char::is_whitespace)
}

const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";
const VIRTUAL_INTERFACES: &str = "istio.io/reroute-virtual-interfaces";
const EXCLUDE_INBOUND_PORTS: &str = "ambient.tulle.io/exclude-inbound-ports";
const EXCLUDE_OUTBOUND_PORTS: &str = "ambient.tulle.io/exclude-outbound-ports";
const EXCLUDE_INBOUND: &str = "ambient.tulle.io/exclude-inbound-cidrs";
const EXCLUDE_OUTBOUND: &str = "ambient.tulle.io/exclude-outbound-cidrs";
const NO_PORT: &str = "no port between 1 and 65535";
const NO_CIDR: &str = "no network such as 10.0.0.0/8";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Options {
        let pair = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        Options::read(&pairs.iter().map(pair).collect())
    }

    #[test]
    fn annotations_are_read() {
        assert_eq!(read(&[("unrelated", "true")]), Options::default());
        let options = read(&[
            (BYPASS_INBOUND, "true"),
            (DNS_CAPTURE, "false"),
            (VIRTUAL_INTERFACES, "tap0, tap1"),
            (EXCLUDE_INBOUND_PORTS, "22"),
            (EXCLUDE_OUTBOUND_PORTS, "3306,5432,"),
            (EXCLUDE_INBOUND, "10.0.0.0/8"),
            (EXCLUDE_OUTBOUND, "192.168.0.0/16,fd00::/8"),
        ]);
        let expected = Options {
            bypass_inbound: true,
            dns_capture: Some(false),
            virtual_interfaces: ["tap0".to_owned(), "tap1".to_owned()].into(),
            exclude_inbound_ports: [22].into(),
            exclude_outbound_ports: [3306, 5432].into(),
            exclude_inbound: ["10.0.0.0/8".parse().unwrap()].into(),
            exclude_outbound: ["192.168.0.0/16", "fd00::/8"]
                .map(|network| network.parse().unwrap())
                .into(),
            ignored: Vec::new(),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_excludes_nothing() {
        let options = read(&[
            (BYPASS_INBOUND, "yes"),
            (EXCLUDE_OUTBOUND_PORTS, "80,0,x,443"),
            (EXCLUDE_OUTBOUND, "0.0.0.0/33"),
            (VIRTUAL_INTERFACES, "a/b"),
        ]);
        assert!(!options.bypass_inbound);
        assert_eq!(options.exclude_outbound_ports, [80, 443].into());
        assert!(options.exclude_outbound.is_empty());
        let told: Vec<String> = options.ignored.iter().map(ToString::to_string).collect();
        let told: Vec<&str> = told.iter().map(String::as_str).collect();
        let expected = [
            "annotation ambient.istio.io/bypass-inbound-capture: \"yes\" is neither true nor false; it is ignored",
            "annotation istio.io/reroute-virtual-interfaces: \"a/b\" is no interface name; it is ignored",
            "annotation ambient.tulle.io/exclude-outbound-ports: \"0\" is no port between 1 and 65535; it is ignored",
            "annotation ambient.tulle.io/exclude-outbound-ports: \"x\" is no port between 1 and 65535; it is ignored",
            "annotation ambient.tulle.io/exclude-outbound-cidrs: \"0.0.0.0/33\" is no network such as 10.0.0.0/8; \
             it is ignored",
        ];
        assert_eq!(told, expected);
    }
}
