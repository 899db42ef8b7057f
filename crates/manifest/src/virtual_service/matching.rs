//! What requests must be.

use std::collections::BTreeMap;

use crate::fields::fields;

fields! {
    /// What a request must be, all of it.
    HttpMatch {
        name: Option<String>,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        without_headers: BTreeMap<String, StringMatch>,
        query_params: BTreeMap<String, StringMatch>,
        ignore_uri_case: Option<bool>,
        port: Option<i64>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
        gateways: Vec<String>,
        stat_prefix: Option<String>,
    }

    /// What a text must be: one of these, or anything that is there.
    StringMatch {
        exact: Option<String>,
        prefix: Option<String>,
        regex: Option<String>,
    }
}
