//! What a VirtualService says that is not done yet, and what becomes of it.

use tulle_manifest::virtual_service::{HeaderOperations, VirtualServiceSpec};

use crate::translate::Finding;

/// Each with its path. What cannot be done refuses the requests that it is about, unless it says otherwise.
pub fn undone(spec: &VirtualServiceSpec) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut tell = |path: String, message: &str| found.push(Finding::new(path, message));
    for (number, host) in spec.hosts.iter().enumerate() {
        if host.starts_with('*') {
            tell(format!("spec.hosts[{number}]"), "no effect yet: wildcards");
        }
    }
    for (field, there) in [("tls", !spec.tls.is_empty()), ("tcp", !spec.tcp.is_empty())] {
        if there {
            tell(
                format!("spec.{field}"),
                "no effect yet: connections go to the service itself",
            );
        }
    }
    for (number, rule) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{number}]");
        if rule.delegate.is_some() {
            tell(
                format!("{path}.delegate"),
                "not done yet: requests are refused",
            );
        }
        for (number, fits) in rule.r#match.iter().enumerate() {
            let path = format!("{path}.match[{number}]");
            for (field, there) in [
                ("sourceLabels", !fits.source_labels.is_empty()),
                ("sourceNamespace", fits.source_namespace.is_some()),
            ] {
                if there {
                    tell(
                        format!("{path}.{field}"),
                        "not known here yet: no request fits",
                    );
                }
            }
        }
        for (number, to) in rule.route.iter().enumerate() {
            let path = format!("{path}.route[{number}]");
            let headers = to
                .headers
                .as_ref()
                .and_then(|headers| headers.request.as_ref());
            if headers.is_some_and(sets_host) {
                let message = "a host for one of several is not done yet: its share is refused";
                tell(format!("{path}.headers.request.set"), message);
            }
        }
    }
    found
}

fn sets_host(operations: &HeaderOperations) -> bool {
    let mut names = operations.set.keys();
    names.any(|name| matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority"))
}
