//! What is different between an object before and after, for people.

use serde_json::Value;

/// The fields that are different, each with what it was and what it is; but for what the API server counts itself.
pub(super) fn difference(before: &Value, after: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    compare("", before, after, &mut fields);
    fields
}

fn compare(path: &str, before: &Value, after: &Value, fields: &mut Vec<String>) {
    if before == after || COUNTED.contains(&path) {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let at = |object: &serde_json::Map<String, Value>| object.get(key).cloned();
                let (before, after) = (
                    at(before).unwrap_or_default(),
                    at(after).unwrap_or_default(),
                );
                compare(&join(path, key), &before, &after, fields);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(&format!("{path}[{index}]"), before, after, fields);
            }
        }
        _ => fields.push(format!("{path}: {} → {}", short(before), short(after))),
    }
}

fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

fn short(value: &Value) -> String {
    let mut text = match value {
        Value::Null => "nothing".to_owned(),
        value => value.to_string(),
    };
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST));
        text.push('…');
    }
    text
}

/// Change with every change, and say nothing of it.
const COUNTED: [&str; 4] = [
    "metadata.managedFields",
    "metadata.resourceVersion",
    "metadata.generation",
    "status",
];
const MOST: usize = 60;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_told_by_their_fields() {
        let before = json!({
            "metadata": {"resourceVersion": "1", "generation": 1, "labels": {"a": "b"}},
            "spec": {"list": [{"image": "x:1"}, {"image": "y:1"}], "old": true},
        });
        let mut after = before.clone();
        assert_eq!(difference(&before, &after), Vec::<String>::new());
        after["metadata"]["resourceVersion"] = "2".into();
        after["metadata"]["generation"] = 2.into();
        assert_eq!(difference(&before, &after), Vec::<String>::new());
        after["spec"]["list"][1]["image"] = "y:2".into();
        after["spec"].as_object_mut().unwrap().remove("old");
        after["metadata"]["labels"]["c/d"] = "e".into();
        assert_eq!(
            difference(&before, &after),
            [
                "metadata.labels.c/d: nothing → \"e\"",
                "spec.list[1].image: \"y:1\" → \"y:2\"",
                "spec.old: true → nothing",
            ]
        );
    }
}
