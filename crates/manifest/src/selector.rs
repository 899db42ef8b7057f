//! Label selectors of Kubernetes.

use serde::Deserialize;

use super::meta::Labels;

/// What labels must be like; all of it must hold. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with exactly these values.
    #[serde(default)]
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(default)]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What is required of it.
    pub operator: Operator,
    /// Its values, for `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// What a requirement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values; it may be missing.
    NotIn,
    /// There is such a label.
    Exists,
    /// There is none.
    DoesNotExist,
}

/// A selector that Kubernetes would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelector {
    /// In and NotIn compare with values.
    #[error("label {0:?}: In and NotIn need values")]
    NoValues(String),
    /// Exists and DoesNotExist do not.
    #[error("label {0:?}: Exists and DoesNotExist take no values")]
    Values(String),
}

impl LabelSelector {
    /// Checks what a schema cannot.
    ///
    /// # Errors
    /// The first requirement that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        self.match_expressions.iter().try_for_each(|requirement| {
            let key = || requirement.key.clone();
            match (requirement.operator, requirement.values.is_empty()) {
                (Operator::In | Operator::NotIn, true) => Err(InvalidSelector::NoValues(key())),
                (Operator::Exists | Operator::DoesNotExist, false) => {
                    Err(InvalidSelector::Values(key()))
                }
                _ => Ok(()),
            }
        })
    }

    /// Whether labels are as required.
    pub fn matches(&self, labels: &Labels) -> bool {
        let mut equal = self.match_labels.iter();
        equal.all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_saphyr::from_str(json).unwrap()
    }

    #[test]
    fn requirements_hold_together() {
        let labels: Labels = [("a", "1"), ("b", "2")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for (json, expected) in [
            ("{}", true),
            (r#"{"matchLabels": {"a": "1"}}"#, true),
            (r#"{"matchLabels": {"a": "2"}}"#, false),
            (r#"{"matchLabels": {"a": "1", "c": ""}}"#, false),
            (
                r#"{"matchExpressions": [{"key": "a", "operator": "In", "values": ["0", "1"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "c", "operator": "In", "values": ["1"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["1"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "b", "operator": "Exists"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}"#,
                false,
            ),
            (
                r#"{"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]}"#,
                false,
            ),
        ] {
            let selector = selector(json);
            assert_eq!(selector.validate(), Ok(()), "{json}");
            assert_eq!(selector.matches(&labels), expected, "{json}");
        }
    }

    #[test]
    fn mistakes_are_found() {
        let wrong = selector(r#"{"matchExpressions": [{"key": "a", "operator": "In"}]}"#);
        assert_eq!(wrong.validate(), Err(InvalidSelector::NoValues("a".into())));
        let wrong =
            r#"{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["1"]}]}"#;
        assert_eq!(
            selector(wrong).validate(),
            Err(InvalidSelector::Values("a".into()))
        );
        for unknown in [
            r#"{"matchLabel": {}}"#,
            r#"{"matchExpressions": [{"key": "a", "operator": "Is"}]}"#,
        ] {
            assert!(
                serde_saphyr::from_str::<LabelSelector>(unknown).is_err(),
                "{unknown}"
            );
        }
    }
}
