//! What the runtime says in environment variables.

use std::{ffi::OsString, path::PathBuf};

use super::{CniError, Code};

/// A verb of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A container is about to start.
    Add,
    /// A container is gone, or will not start.
    Del,
    /// Is a container still as ADD left it?
    Check,
    /// Only these containers are left.
    Gc,
    /// Could a container be added?
    Status,
    /// Which versions are spoken?
    Version,
}

/// The variables, checked. What a verb requires is there; what it does not need may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// What is asked.
    pub command: Command,
    /// The container; present for ADD, DEL and CHECK.
    pub container: Option<String>,
    /// Its network namespace; present for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// The interface in it; present for ADD, DEL and CHECK.
    pub interface: Option<String>,
    /// What Kubernetes adds.
    pub pod: PodArgs,
}

/// The pod that a container belongs to, as far as the runtime tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty if the runtime is too old to tell.
    pub uid: String,
}

impl Environment {
    /// Reads the variables by `variable`.
    ///
    /// # Errors
    /// [`Code::InvalidEnvironment`], naming the variable.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) if value.is_empty() => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(invalid(name, "is not UTF-8")),
        };
        let command = match text("CNI_COMMAND")?.as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("GC") => Command::Gc,
            Some("STATUS") => Command::Status,
            Some("VERSION") => Command::Version,
            Some(other) => return Err(invalid("CNI_COMMAND", &format!("is unknown: {other:?}"))),
            None => return Err(invalid("CNI_COMMAND", "is missing")),
        };
        let (needs_container, needs_netns) = match command {
            Command::Add | Command::Check => (true, true),
            Command::Del => (true, false),
            Command::Gc | Command::Status | Command::Version => (false, false),
        };
        let required = |name: &str, needed: bool, valid: fn(&str) -> bool| match text(name)? {
            Some(_) if !needed => Ok(None),
            Some(value) if valid(&value) => Ok(Some(value)),
            Some(value) => Err(invalid(name, &format!("is invalid: {value:?}"))),
            None if needed => Err(invalid(name, "is missing")),
            None => Ok(None),
        };
        let netns = variable("CNI_NETNS").filter(|path| !path.is_empty());
        if needs_netns && netns.is_none() {
            return Err(invalid("CNI_NETNS", "is missing"));
        }
        Ok(Self {
            command,
            container: required("CNI_CONTAINERID", needs_container, is_container_id)?,
            netns: netns.map(PathBuf::from),
            interface: required("CNI_IFNAME", needs_container, is_interface)?,
            pod: match needs_container {
                true => PodArgs::parse(&text("CNI_ARGS")?.unwrap_or_default())?,
                false => PodArgs::default(),
            },
        })
    }
}

impl PodArgs {
    /// Reads `K=V;K=V`. Unknown keys are an error unless `IgnoreUnknown` is true.
    fn parse(text: &str) -> Result<Self, CniError> {
        let mut pod = Self::default();
        let mut unknown = None;
        let mut ignore = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                let what = format!("has a part without \"=\": {pair:?}");
                return Err(invalid("CNI_ARGS", &what));
            };
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => ignore = matches!(value, "1" | "t" | "T" | "true" | "True"),
                other => unknown = Some(other),
            }
        }
        match unknown.filter(|_| !ignore) {
            Some(key) => Err(invalid("CNI_ARGS", &format!("has an unknown key: {key:?}"))),
            None => Ok(pod),
        }
    }
}

fn invalid(variable: &str, what: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("{variable} {what}"))
}

/// A letter or digit, then letters, digits, `_`, `.` and `-`.
fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// What the kernel takes as a name: 1 to 15 bytes without `/`, `:` and space, neither `.` nor `..`.
fn is_interface(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text
            .chars()
            .any(|c| matches!(c, '/' | ':') || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "abc-1"),
        ("CNI_NETNS", "/var/run/netns/cni-1"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1;X=y",
        ),
    ];

    fn read(changes: &[(&str, Option<&str>)]) -> Result<Environment, CniError> {
        Environment::read(|name| {
            let changed = changes.iter().find(|(changed, _)| *changed == name);
            let usual = || FULL.iter().find(|(usual, _)| *usual == name);
            match changed {
                Some((_, value)) => value.map(OsString::from),
                None => usual().map(|(_, value)| OsString::from(value)),
            }
        })
    }

    #[test]
    fn variables_of_a_pod_are_read() {
        let expected = Environment {
            command: Command::Add,
            container: Some("abc-1".into()),
            netns: Some("/var/run/netns/cni-1".into()),
            interface: Some("eth0".into()),
            pod: PodArgs {
                namespace: "shop".into(),
                name: "web-0".into(),
                uid: "u-1".into(),
            },
        };
        assert_eq!(read(&[]), Ok(expected));
    }

    #[test]
    fn each_verb_asks_for_what_it_needs() {
        for (command, variable, message) in [
            ("ADD", "CNI_CONTAINERID", Some("CNI_CONTAINERID is missing")),
            ("ADD", "CNI_NETNS", Some("CNI_NETNS is missing")),
            ("ADD", "CNI_IFNAME", Some("CNI_IFNAME is missing")),
            ("ADD", "CNI_ARGS", None),
            ("CHECK", "CNI_NETNS", Some("CNI_NETNS is missing")),
            ("DEL", "CNI_CONTAINERID", Some("CNI_CONTAINERID is missing")),
            ("DEL", "CNI_NETNS", None),
            ("GC", "CNI_CONTAINERID", None),
            ("STATUS", "CNI_IFNAME", None),
            ("VERSION", "CNI_CONTAINERID", None),
        ] {
            for missing in [None, Some("")] {
                let result = read(&[("CNI_COMMAND", Some(command)), (variable, missing)]);
                let found = result.err().map(|error| {
                    assert_eq!(error.code, Code::InvalidEnvironment);
                    error.message
                });
                assert_eq!(found.as_deref(), message, "{command} without {variable}");
            }
        }
    }

    #[test]
    fn invalid_values_are_named() {
        for (variable, value, message) in [
            ("CNI_COMMAND", "add", "CNI_COMMAND is unknown: \"add\""),
            ("CNI_COMMAND", "", "CNI_COMMAND is missing"),
            (
                "CNI_CONTAINERID",
                "-a",
                "CNI_CONTAINERID is invalid: \"-a\"",
            ),
            (
                "CNI_CONTAINERID",
                "a/b",
                "CNI_CONTAINERID is invalid: \"a/b\"",
            ),
            ("CNI_IFNAME", "..", "CNI_IFNAME is invalid: \"..\""),
            ("CNI_IFNAME", "a b", "CNI_IFNAME is invalid: \"a b\""),
            (
                "CNI_IFNAME",
                "abcdefghijklmnop",
                "CNI_IFNAME is invalid: \"abcdefghijklmnop\"",
            ),
            ("CNI_ARGS", "A", "CNI_ARGS has a part without \"=\": \"A\""),
            ("CNI_ARGS", "A=b", "CNI_ARGS has an unknown key: \"A\""),
            (
                "CNI_ARGS",
                "IgnoreUnknown=0;A=b",
                "CNI_ARGS has an unknown key: \"A\"",
            ),
        ] {
            let error = read(&[(variable, Some(value))]).unwrap_err();
            assert_eq!(error, CniError::new(Code::InvalidEnvironment, message));
        }
    }

    proptest! {
        #[test]
        fn any_arguments_are_read(text in ".{0,200}") {
            let _ = PodArgs::parse(&text);
        }
    }
}
