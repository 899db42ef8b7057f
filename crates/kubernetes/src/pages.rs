//! Lists, a page at a time.

use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Client,
    call::{CallError, JSON},
};

impl Client {
    /// All objects of the list at `path`. `only` says which: parameters, each with `&` behind it.
    ///
    /// # Errors
    /// [`CallError`], also when one of them cannot be understood.
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        only: &str,
    ) -> Result<Vec<T>, CallError> {
        let mut all = Vec::new();
        let pages = Pages {
            path,
            only,
            accept: JSON,
            page: PAGE,
        };
        let read = pages.read(self, |item| {
            all.push(serde_json::from_str(item.get())?);
            Ok(())
        });
        read.await?;
        Ok(all)
    }
}

/// A list that is read in parts.
pub(crate) struct Pages<'a> {
    pub(crate) path: &'a str,
    pub(crate) only: &'a str,
    /// In which form.
    pub(crate) accept: &'a str,
    /// How many objects at a time.
    pub(crate) page: usize,
}

impl Pages<'_> {
    /// What is there now, not what some cache had: no version is named. Returns the version that it is of.
    pub(crate) async fn read(
        &self,
        client: &Client,
        mut each: impl FnMut(&RawValue) -> Result<(), CallError>,
    ) -> Result<String, CallError> {
        let Self { path, only, .. } = self;
        let page = self.page;
        let mut rest = String::new();
        loop {
            let path = format!("{path}?{only}limit={page}{rest}");
            let answer = client.call(Method::GET, &path, self.accept, Vec::new());
            let answer = answer.await?;
            let list: List<'_> = serde_json::from_slice(&answer)?;
            let mut items = list.items.into_iter().flatten();
            items.try_for_each(&mut each)?;
            match list.metadata.rest.as_deref() {
                None | Some("") => return Ok(list.metadata.resource_version),
                Some(token) => rest = format!("&continue={}", escape(token)),
            }
        }
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMetadata,
    /// Without any, of metadata there is null.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    rest: Option<String>,
}

/// A value in a query. Tokens and versions are the server's and may be anything.
pub(crate) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Of objects of any size an answer holds as many.
const PAGE: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_metadata_may_be_null() {
        for (items, count) in [("null", 0), ("[]", 0), ("[{}, {}]", 2)] {
            let text = format!(r#"{{"metadata": {{"resourceVersion": "7"}}, "items": {items}}}"#);
            let list: List<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(list.items.iter().flatten().count(), count, "{items}");
        }
    }

    #[test]
    fn tokens_of_the_server_are_escaped() {
        assert_eq!(escape("aZ0-_.~"), "aZ0-_.~");
        assert_eq!(escape("a+b/c=&d é"), "a%2Bb%2Fc%3D%26d%20%C3%A9");
    }
}
