//! The executable as a runtime uses it: real process, real environment, real socket.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const ENROLLED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{\"verdict\":\"enrolled\"}";

/// What the plugin before us made. Its numbers and its order must survive.
fn previous(version: &str) -> String {
    let ip_version = match version.starts_with('1') {
        true => "",
        false => "\"version\":\"4\",",
    };
    format!(
        "{{\"cniVersion\":\"{version}\",\"zone\":12345678901234567890.10,\"interfaces\":[{{\"name\":\"eth0\",\
         \"sandbox\":\"/run/netns/x\"}}],\"ips\":[{{{ip_version}\"interface\":0,\"address\":\"10.1.2.3/24\",\
         \"gateway\":\"10.1.2.1\"}},{{\"address\":\"fd00::3/64\"}}],\"dns\":{{}}}}"
    )
}

/// A runtime with one pod.
struct Runtime {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

struct Outcome {
    stdout: String,
    success: bool,
}

impl Outcome {
    /// Code and message of the error that was printed.
    fn error(&self) -> (u64, String) {
        assert!(!self.success, "no error but: {}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        let code = error["code"].as_u64().unwrap();
        (code, error["msg"].as_str().unwrap().to_owned())
    }
}

impl Runtime {
    fn new() -> Self {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1";
        Self {
            dir: TempDir::new().unwrap(),
            variables: vec![
                ("CNI_CONTAINERID", "c-1".into()),
                ("CNI_NETNS", "/run/netns/x".into()),
                ("CNI_IFNAME", "eth0".into()),
                ("CNI_PATH", "/opt/cni/bin".into()),
                ("CNI_ARGS", arguments.into()),
            ],
        }
    }

    fn set(mut self, name: &'static str, value: &str) -> Self {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
        self
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("pluginevent.sock")
    }

    fn config(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "pods",
            "type": "tulle-cni",
            "cni_agent_run_dir": self.dir.path(),
            "timeout_seconds": 1,
        })
    }

    /// Executes a verb as a chained plugin of `version`.
    fn run(&self, verb: &str, version: &str) -> Outcome {
        // By hand, since a parser would not keep the numbers.
        let config = self.config(version).to_string();
        let config = config.strip_suffix('}').unwrap();
        let input = format!("{config},\"prevResult\":{}}}", previous(version));
        self.run_with(verb, &input)
    }

    fn run_with(&self, verb: &str, input: &str) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tulle-cni"))
            .env_clear()
            .env("CNI_COMMAND", verb)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Outcome {
            stdout: String::from_utf8(output.stdout).unwrap(),
            success: output.status.success(),
        }
    }

    /// An agent that gives this answer to every request, and the requests that it gets.
    fn agent(&self, answer: &'static str) -> Receiver<(String, Value)> {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (asked, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&mut stream);
                stream.write_all(answer.as_bytes()).unwrap();
                if asked.send(request).is_err() {
                    return;
                }
            }
        });
        requests
    }
}

/// Path and body of a request.
fn read_request(stream: &mut UnixStream) -> (String, Value) {
    let mut bytes = Vec::new();
    loop {
        let mut block = [0; 4096];
        let length = stream.read(&mut block).unwrap();
        bytes.extend_from_slice(&block[..length]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        if let Ok(body) = serde_json::from_str(body) {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            return (path, body);
        }
        assert_ne!(length, 0, "request ends early: {text}");
    }
}

#[test]
fn every_verb_answers_in_every_version() {
    let runtime = Runtime::new();
    let _requests = runtime.agent(ENROLLED);
    for version in VERSIONS {
        let supported = "\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]";
        let unknown = |verb: &str| {
            format!(
                "{{\"cniVersion\":\"{version}\",\"code\":1,\"msg\":\"version {version} has no {verb}\"}}\n"
            )
        };
        let since = |verb: &str, first: &str| match version >= first {
            true => (String::new(), true),
            false => (unknown(verb), false),
        };
        let versions = format!("{{\"cniVersion\":\"{version}\",{supported}}}\n");
        for (verb, (stdout, success)) in [
            ("ADD", (previous(version) + "\n", true)),
            ("DEL", (String::new(), true)),
            ("CHECK", since("Check", "0.4.0")),
            ("STATUS", since("Status", "1.1.0")),
            ("VERSION", (versions, true)),
        ] {
            let outcome = runtime.run(verb, version);
            assert_eq!(outcome.stdout, stdout, "{verb} {version}");
            assert_eq!(outcome.success, success, "{verb} {version}");
        }
        let mut config = runtime.config(version);
        config["cni.dev/valid-attachments"] = json!([{"containerID": "c-1", "ifname": "eth0"}]);
        let outcome = runtime.run_with("GC", &config.to_string());
        assert_eq!((outcome.stdout, outcome.success), since("Gc", "1.1.0"));
    }
}

#[test]
fn agent_is_told_all_that_the_runtime_knows() {
    let runtime = Runtime::new();
    let requests = runtime.agent(ENROLLED);
    let pod = json!({
        "Netns": "/run/netns/x",
        "PodName": "web-0",
        "PodNamespace": "shop",
        "IPs": [
            {"Interface": 0, "Address": {"IP": "10.1.2.3", "Mask": "////AA=="}, "Gateway": "10.1.2.1"},
            {"Interface": null, "Address": {"IP": "fd00::3", "Mask": "//////////8AAAAAAAAAAA=="}, "Gateway": ""},
        ],
        "PodUID": "u-1",
        "ContainerID": "c-1",
    });
    assert!(runtime.run("ADD", "1.1.0").success);
    assert_eq!(requests.recv().unwrap(), ("/cmdadd".into(), pod.clone()));
    assert!(runtime.run("CHECK", "1.1.0").success);
    assert_eq!(requests.recv().unwrap(), ("/cmdcheck".into(), pod));
    assert!(runtime.run("DEL", "1.1.0").success);
    let gone = json!({"ContainerID": "c-1", "PodUID": "u-1"});
    assert_eq!(requests.recv().unwrap(), ("/cmddel".into(), gone));
    let mut config = runtime.config("1.1.0");
    let attachments = json!([{"containerID": "c-2", "ifname": "eth0"}]);
    config["cni.dev/valid-attachments"] = attachments.clone();
    assert!(runtime.run_with("GC", &config.to_string()).success);
    let left = json!({"attachments": attachments});
    assert_eq!(requests.recv().unwrap(), ("/cmdgc".into(), left));
}

#[test]
fn pod_does_not_start_without_an_answer() {
    let runtime = Runtime::new();
    let socket = runtime.socket();
    let at = socket.display();
    let absent = runtime.run("ADD", "1.0.0").error();
    let expected = format!(
        "pod shop/web-0: cannot talk to the node agent at {at}: No such file or directory (os error 2); \
         is tulle-node running on this node?"
    );
    assert_eq!(absent, (11, expected));

    let hung = UnixListener::bind(&socket).unwrap();
    let expected = format!("pod shop/web-0: no answer from the node agent at {at} within 1s");
    assert_eq!(runtime.run("ADD", "1.0.0").error(), (11, expected.clone()));
    assert_eq!(runtime.run("CHECK", "1.0.0").error(), (11, expected));
    drop(hung);

    let left_over = runtime.run("ADD", "1.0.0").error();
    assert_eq!(left_over.0, 11, "{}", left_over.1);
}

#[test]
fn pod_does_not_start_when_the_agent_refuses() {
    for (answer, expected) in [
        (
            "HTTP/1.1 503 x\r\n\r\n{\"error\":\"no ztunnel connected\",\"retry\":true}",
            (
                11,
                "pod shop/web-0: the node agent refused: no ztunnel connected",
            ),
        ),
        (
            "HTTP/1.1 400 x\r\n\r\n{\"error\":\"the namespace holds no address of the pod\"}",
            (
                100,
                "pod shop/web-0: the node agent refused: the namespace holds no address of the pod",
            ),
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\n{\"verdict\":\"maybe\"}",
            (100, "the node agent's answer is not understood"),
        ),
        (
            "",
            (11, "pod shop/web-0: the node agent went away in the middle"),
        ),
    ] {
        let runtime = Runtime::new();
        let _requests = runtime.agent(answer);
        let (code, message) = runtime.run("ADD", "1.1.0").error();
        assert_eq!((code, message.as_str()), expected);
    }
}

#[test]
fn both_good_verdicts_let_the_pod_start() {
    for answer in [
        ENROLLED,
        "HTTP/1.1 200 OK\r\n\r\n{\"verdict\":\"passed\",\"reason\":\"not labelled\"}",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let runtime = Runtime::new();
        let _requests = runtime.agent(answer);
        let outcome = runtime.run("ADD", "1.1.0");
        assert_eq!(outcome.stdout, previous("1.1.0") + "\n");
        assert!(outcome.success);
    }
}

#[test]
fn pods_that_must_start_without_the_agent_do() {
    for (arguments, starts) in [
        ("", true),
        ("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns-1", true),
        (
            "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=tulle-node-x1",
            true,
        ),
        (
            "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=ztunnel-x1",
            true,
        ),
        (
            "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=tulled-x1",
            true,
        ),
        (
            "K8S_POD_NAMESPACE=istio-system;K8S_POD_NAME=gateway-x1",
            false,
        ),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=ztunnel-x1", false),
        ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0", false),
    ] {
        let runtime = Runtime::new().set("CNI_ARGS", arguments);
        assert_eq!(runtime.run("ADD", "1.1.0").success, starts, "{arguments}");
        assert_eq!(runtime.run("CHECK", "1.1.0").success, starts, "{arguments}");
    }
}

#[test]
fn del_always_succeeds() {
    let runtime = Runtime::new().set("CNI_NETNS", "").set("CNI_ARGS", "");
    for input in [
        runtime.config("1.1.0").to_string(),
        String::new(),
        "{\"cniVersion\":\"9.9.9\"}".to_owned(),
        "{\"mistake\":1}".to_owned(),
    ] {
        for _ in 0..2 {
            let outcome = runtime.run_with("DEL", &input);
            assert_eq!(
                (outcome.stdout.as_str(), outcome.success),
                ("", true),
                "{input}"
            );
        }
    }
}

#[test]
fn node_without_agent_is_not_blocked() {
    let runtime = Runtime::new();
    assert!(runtime.run("STATUS", "1.1.0").success);
    let mut config = runtime.config("1.1.0");
    config["cni.dev/valid-attachments"] = json!([]);
    assert!(runtime.run_with("GC", &config.to_string()).success);
}

#[test]
fn version_needs_no_configuration() {
    let outcome = Runtime::new().run_with("VERSION", "");
    assert_eq!(
        outcome.stdout,
        "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
    );
    assert!(outcome.success);
}

/// Without waiting for input.
#[test]
fn a_person_can_ask_which_version_it_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_tulle-cni"))
        .arg("--version")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.starts_with("tulle-cni 0."),
        "{said}"
    );
}

#[test]
fn mistakes_are_structured_errors() {
    let runtime = Runtime::new();
    let config = runtime.config("1.0.0").to_string();
    let mistaken = config.replace("timeout_seconds", "time_out");
    for (verb, input, code, message) in [
        ("ADD", "", 6, "the network configuration is no JSON object"),
        (
            "ADD",
            config.as_str(),
            7,
            "no prevResult: tulle-cni comes after the plugin that makes the pod's network",
        ),
        (
            "ADD",
            mistaken.as_str(),
            7,
            "unknown key \"time_out\" in the plugin's configuration",
        ),
        (
            "STATUS",
            "{\"cniVersion\":\"2.0.0\"}",
            1,
            "CNI version \"2.0.0\" is none of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0",
        ),
        ("add", config.as_str(), 4, "CNI_COMMAND is unknown: \"add\""),
    ] {
        let outcome = runtime.run_with(verb, input);
        assert_eq!(outcome.error(), (code, message.to_owned()));
    }
    let removed = Runtime::new().set("CNI_NETNS", "");
    let outcome = removed.run("ADD", "1.0.0");
    assert_eq!(outcome.error(), (4, "CNI_NETNS is missing".to_owned()));
}
