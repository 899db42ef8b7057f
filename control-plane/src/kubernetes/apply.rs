//! Writing as the control plane does it.

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tulle_kubernetes::{APPLY, CallError, Client};

/// Makes the object at `path`, or the part of it that is there, as it is written, whoever else has written these fields. What we
/// wrote before and do not write any more goes; what others have written besides stays. Returns the object as it is then.
///
/// Fields that the server's version of a kind does not have are left out by it: a status is told as far as it can be.
///
/// Spec: Kubernetes, server-side apply.
pub(super) async fn apply<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    object: &Value,
) -> Result<T, CallError> {
    write(client, Method::PATCH, path, "&force=true", APPLY, object).await
}

/// Writes an object, or a part of it, to `path`; where that is not there, to that of the version before, if its kind has one: it may be
/// all that this API server serves. Returns the object as it is then.
pub(super) async fn write<T: DeserializeOwned>(
    client: &Client,
    method: Method,
    path: &str,
    options: &str,
    form: &str,
    object: &Value,
) -> Result<T, CallError> {
    let mut path = path.to_owned();
    loop {
        let body = of_version(&path, object).into_bytes();
        let target = format!("{path}?fieldManager={MANAGER}{options}");
        let answer = client.call(method.clone(), &target, form, body).await;
        match (answer, earlier(&path)) {
            (Err(error), Some(earlier)) if is_absent(&error) => path = earlier,
            (answer, _) => return Ok(serde_json::from_slice(&answer?)?),
        }
    }
}

/// Reads what [`write`] would change.
pub(super) async fn read(client: &Client, path: &str) -> Result<Value, CallError> {
    let mut path = path.to_owned();
    loop {
        match (client.get(&path).await, earlier(&path)) {
            (Err(error), Some(earlier)) if is_absent(&error) => path = earlier,
            (read, _) => return read,
        }
    }
}

fn is_absent(error: &CallError) -> bool {
    error.code() == Some(StatusCode::NOT_FOUND)
}

/// The object as it is written to this path: by the version that the path is of.
fn of_version(path: &str, object: &Value) -> String {
    let mut object = object.clone();
    if let (Some(version), Some(written)) = (version(path), object.get_mut("apiVersion")) {
        *written = version.into();
    }
    object.to_string()
}

/// Of `/apis/apps/v1/…`, `apps/v1`.
fn version(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/apis/")?;
    let group = path.find('/')?;
    let version = path.get(group + 1..)?.find('/')?;
    path.get(..group + 1 + version)
}

/// The same path by the version before, which is of the same form.
fn earlier(path: &str) -> Option<String> {
    let now = version(path)?;
    let (group, number) = now.split_once('/')?;
    let before = match group {
        _ if number != "v1" => return None,
        "gateway.networking.k8s.io" if path.contains("/grpcroutes/") => "v1alpha2",
        "telemetry.istio.io" => "v1alpha1",
        "gateway.networking.k8s.io" | "networking.istio.io" | "security.istio.io" => "v1beta1",
        _ => return None,
    };
    Some(path.replacen(now, &format!("{group}/{before}"), 1))
}

/// As whom we write.
pub(super) const MANAGER: &str = "tulled";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kinds_with_an_earlier_version_have_its_path() {
        for (path, expected) in [
            (
                "/apis/security.istio.io/v1/namespaces/a/authorizationpolicies/v1/status",
                Some(
                    "/apis/security.istio.io/v1beta1/namespaces/a/authorizationpolicies/v1/status",
                ),
            ),
            (
                "/apis/telemetry.istio.io/v1/namespaces/a/telemetries/b/status",
                Some("/apis/telemetry.istio.io/v1alpha1/namespaces/a/telemetries/b/status"),
            ),
            (
                "/apis/gateway.networking.k8s.io/v1/namespaces/a/grpcroutes/b",
                Some("/apis/gateway.networking.k8s.io/v1alpha2/namespaces/a/grpcroutes/b"),
            ),
            (
                "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
                Some("/apis/gateway.networking.k8s.io/v1beta1/gatewayclasses"),
            ),
            (
                "/apis/security.istio.io/v1beta1/namespaces/a/authorizationpolicies/b",
                None,
            ),
            ("/apis/apps/v1/namespaces/a/deployments/b", None),
            ("/api/v1/namespaces/a/services/b/status", None),
        ] {
            assert_eq!(earlier(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn an_object_is_written_by_the_version_of_its_path() {
        let object = serde_json::json!({"apiVersion": "security.istio.io/v1", "status": {}});
        let path = "/apis/security.istio.io/v1beta1/namespaces/a/authorizationpolicies/b/status";
        let written: Value = serde_json::from_str(&of_version(path, &object)).unwrap();
        assert_eq!(
            written,
            serde_json::json!({"apiVersion": "security.istio.io/v1beta1", "status": {}})
        );
    }
}
