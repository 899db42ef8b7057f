//! Writing as the control plane does it.

use http::Method;
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
    let path = format!("{path}?fieldManager={MANAGER}&force=true");
    let body = object.to_string().into_bytes();
    let answer = client.call(Method::PATCH, &path, APPLY, body).await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// As whom we write.
pub(super) const MANAGER: &str = "tulled";
