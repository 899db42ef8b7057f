//! The parents in a route's status: an entry for each parent and controller, in one list.
//!
//! The definitions of the Gateway API say that this list is atomic, so whoever applies it has all of it, and what other controllers have
//! said is gone. It is therefore read, our entries in it are exchanged, and it is written back as long as nobody else has written in
//! between: the patch names the version that was read, and the API server refuses it (409) for another one. Then it is tried again.

use serde_json::{Map, Value, json};
use tulle_manifest::route::ParentReference;

use super::written;
use crate::statuses::{CONTROLLER, Wanted};

/// What makes the status of a route, as it was read, as it should be.
pub(super) fn patch(route: Value, status: &Wanted, now: &str) -> Value {
    let there = route.pointer("/status/parents").and_then(Value::as_array);
    let is_other = |entry: &&Value| entry.get("controllerName") != Some(&json!(CONTROLLER));
    let others = there.into_iter().flatten().filter(is_other).cloned();
    let ours = status.parents.iter().map(|parent| {
        let conditions = parent.conditions.iter();
        let conditions: Vec<Value> = conditions
            .map(|condition| written(condition, now))
            .collect();
        json!({
            "parentRef": reference(&parent.parent_ref),
            "controllerName": parent.controller_name,
            "conditions": conditions,
        })
    });
    // What others have said stays, if there is no room for both.
    let parents: Vec<Value> = others.chain(ours).take(MOST).collect();
    json!({
        "metadata": {
            "uid": status.uid,
            "resourceVersion": route.pointer("/metadata/resourceVersion"),
        },
        "status": {"parents": parents},
    })
}

/// A parent as the route names it, and nothing that it does not say.
fn reference(parent: &ParentReference) -> Value {
    let texts = [
        ("group", &parent.group),
        ("kind", &parent.kind),
        ("namespace", &parent.namespace),
        ("sectionName", &parent.section_name),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(field, text)| Some((field.to_owned(), text.clone()?.into())));
    let mut fields: Map<String, Value> = texts.collect();
    fields.insert("name".to_owned(), parent.name.clone().into());
    if let Some(port) = parent.port {
        fields.insert("port".to_owned(), port.into());
    }
    fields.into()
}

/// The API server takes no more entries.
const MOST: usize = 32;

#[cfg(test)]
mod tests {
    use tulle_manifest::{
        Kind, ObjectId, ObjectKey, StatusCondition,
        route::{RouteParentStatus, RouteStatus},
    };

    use super::*;

    fn wanted(names: &[&str]) -> Wanted {
        let parents = names.iter().map(|name| RouteParentStatus {
            parent_ref: ParentReference {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                name: (*name).to_owned(),
                port: Some(80),
                ..ParentReference::default()
            },
            controller_name: CONTROLLER.to_owned(),
            conditions: vec![StatusCondition {
                kind: "Accepted".to_owned(),
                status: "True".to_owned(),
                ..StatusCondition::default()
            }],
        });
        Wanted {
            id: ObjectId {
                kind: Kind::HTTPRoute,
                key: ObjectKey::new("shop", "r"),
            },
            uid: "u-1".to_owned(),
            generation: 2,
            conditions: Vec::new(),
            addresses: Vec::new(),
            parents: parents.collect(),
        }
    }

    fn route(parents: Value) -> Value {
        json!({"metadata": {"resourceVersion": "77", "uid": "u-1"}, "status": {"parents": parents}})
    }

    #[test]
    fn what_other_controllers_say_stays_as_it_is() {
        let other = json!({
            "controllerName": "example.com/other",
            "parentRef": {"name": "g", "future": [1]},
            "conditions": [{"type": "Accepted", "status": "False"}],
        });
        let stale = json!({"controllerName": CONTROLLER, "parentRef": {"name": "old"}});
        let patched = patch(route(json!([stale, other])), &wanted(&["s"]), "now");
        assert_eq!(
            patched["metadata"],
            json!({"uid": "u-1", "resourceVersion": "77"})
        );
        let parents = patched["status"]["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 2);
        assert_eq!(parents[0], other);
        let reference = json!({"group": "", "kind": "Service", "name": "s", "port": 80});
        assert_eq!(parents[1]["parentRef"], reference);
        assert_eq!(parents[1]["conditions"][0]["lastTransitionTime"], "now");
        // What was written is read as what was meant.
        let read: RouteStatus = serde_json::from_value(patched["status"].clone()).unwrap();
        assert_eq!(
            read.parents[1].parent_ref,
            wanted(&["s"]).parents[0].parent_ref
        );
    }

    #[test]
    fn without_anything_to_say_only_our_own_goes() {
        let other = json!({"controllerName": "example.com/other"});
        let ours = json!({"controllerName": CONTROLLER});
        let patched = patch(route(json!([ours, other])), &wanted(&[]), "now");
        assert_eq!(patched["status"]["parents"], json!([other]));
        let patched = patch(json!({"metadata": {}}), &wanted(&[]), "now");
        assert_eq!(patched["status"]["parents"], json!([]));
    }

    #[test]
    fn no_more_entries_are_written_than_there_may_be() {
        let others: Vec<Value> = (0..31)
            .map(|n| json!({"controllerName": "o", "n": n}))
            .collect();
        let patched = patch(route(others.clone().into()), &wanted(&["a", "b"]), "now");
        let parents = patched["status"]["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 32);
        assert_eq!(parents[..31], others);
    }
}
