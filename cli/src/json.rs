//! Objects as the API server tells them: JSON, of which anything may be missing.

use serde_json::Value;

/// The text at `pointer`; empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let text = object.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default()
}

/// The number at `pointer`; 0 if there is none, which is what the API server leaves out.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    let number = object.pointer(pointer).and_then(Value::as_i64);
    number.unwrap_or_default()
}

/// What is in the list at `pointer`; nothing if there is none.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// A label; empty if there is none.
pub(crate) fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    entry(object, "labels", name)
}

/// An annotation; empty if there is none.
pub(crate) fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    entry(object, "annotations", name)
}

fn entry<'a>(object: &'a Value, of: &str, name: &str) -> &'a str {
    let metadata = object.get("metadata");
    let entry = metadata.and_then(|metadata| metadata.get(of)?.get(name)?.as_str());
    entry.unwrap_or_default()
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The namespace of an object; empty if it has none.
pub(crate) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// As people write it: `namespace/name`.
pub(crate) fn full_name(object: &Value) -> String {
    format!("{}/{}", namespace(object), name(object))
}

/// The condition of a type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").find(|condition| text(condition, "/type") == kind)
}

/// Whether the condition of a type is true.
pub(crate) fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

/// The object for people: `kind namespace/name`.
pub(crate) fn title(object: &Value) -> String {
    let (kind, name) = (text(object, "/kind"), name(object));
    match namespace(object) {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}
