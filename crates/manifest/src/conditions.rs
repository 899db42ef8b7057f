//! What controllers say of an object: its conditions.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::meta::or_default;

/// The status of an object, as far as it is conditions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Conditions {
    /// At most one of each type.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Vec<StatusCondition>,
}

/// One thing that holds, or does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are those of the API")]
pub struct StatusCondition {
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    #[serde(default, deserialize_with = "or_default")]
    pub reason: String,
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    /// Of the specification that it is about. Some write it as a text.
    #[serde(default, deserialize_with = "number")]
    pub observed_generation: i64,
    #[serde(default, deserialize_with = "or_default")]
    pub last_transition_time: String,
}

impl Conditions {
    /// Leaves out all conditions but those of these types.
    pub fn keep(&mut self, kinds: &[&str]) {
        let is_kept = |condition: &StatusCondition| kinds.contains(&condition.kind.as_str());
        self.conditions.retain(is_kept);
        self.conditions.shrink_to_fit();
    }
}

/// Reads a status that cannot be understood like one that says nothing: it is others who write there. For `deserialize_with`.
///
/// # Errors
/// When the text itself is broken.
pub fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Status(T),
        Other(de::IgnoredAny),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Status(status) => status,
        Either::Other(_) => T::default(),
    })
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Number)
}

struct Number;

impl de::Visitor<'_> for Number {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<i64, E> {
        Ok(i64::try_from(value).unwrap_or_default())
    }

    fn visit_str<E>(self, value: &str) -> Result<i64, E> {
        Ok(value.parse().unwrap_or_default())
    }

    fn visit_unit<E>(self) -> Result<i64, E> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_makes_no_sense_says_nothing() {
        #[derive(Deserialize)]
        struct Object {
            #[serde(default, deserialize_with = "lenient")]
            status: Conditions,
        }
        for status in [
            "7",
            "null",
            "{conditions: 7}",
            "{conditions: [{type: [a]}]}",
            "[a]",
        ] {
            let object: Object = serde_saphyr::from_str(&format!("status: {status}\n")).unwrap();
            assert_eq!(object.status, Conditions::default(), "{status}");
        }
        let object: Object =
            serde_saphyr::from_str("status: {other: 1, conditions: [{type: a}]}\n").unwrap();
        assert_eq!(object.status.conditions.len(), 1);
    }

    #[test]
    fn conditions_are_read_however_they_are_written() {
        let text = r#"{"conditions": [
            {"type": "a", "status": "True", "observedGeneration": "7"},
            {"type": "b", "status": "False", "observedGeneration": 8, "reason": null},
            {"type": "c"}]}"#;
        let mut conditions: Conditions = serde_saphyr::from_str(text).unwrap();
        let seen: Vec<i64> = conditions
            .conditions
            .iter()
            .map(|condition| condition.observed_generation)
            .collect();
        assert_eq!(seen, [7, 8, 0]);
        conditions.keep(&["b", "x"]);
        assert_eq!(conditions.conditions.len(), 1);
        assert_eq!(conditions.conditions[0].kind, "b");
    }
}
