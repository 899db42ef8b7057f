//! One object after the other, first without effect.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http::StatusCode;
use serde_json::Value;
use tulle_kubernetes::{Apply, CallError, Objects};

use super::difference::difference;
use crate::{
    check::before::DEFINITION,
    definition::{Definition, is_established},
    json::{name, namespace, text, title},
    manifest::{MANAGED_BY, MANAGER, Manifest, PART_OF, is_ours},
    progress::Progress,
    wait::{Left, Wait},
};

/// An object that is to be there.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) wanted: Value,
    /// As it was before.
    found: Option<Value>,
    /// Whether its namespace is there, without which nothing in it can be tried.
    can_be_tried: bool,
    /// Who installed it, if it is left as it is.
    kept: Option<String>,
}

/// What became of an object, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    /// Which fields, from what, to what.
    Changed(Vec<String>),
    Unchanged,
    /// Left as somebody else made it.
    Kept(String),
}

impl Change {
    pub(super) fn is_one(&self) -> bool {
        matches!(self, Self::Created | Self::Changed(_))
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Created => "created".to_owned(),
            Self::Changed(_) => "changed".to_owned(),
            Self::Unchanged => "as it should be".to_owned(),
            Self::Kept(by) => format!("kept as installed by {by}"),
        }
    }
}

impl Step {
    /// What is to be done for a manifest, given what is there.
    pub(super) async fn plan(objects: &Objects, manifest: &Manifest) -> Result<Vec<Self>> {
        let mut steps = Vec::<Self>::new();
        for wanted in manifest.objects() {
            let found = objects.find(wanted).await.with_context(|| title(wanted))?;
            let inside = namespace(wanted);
            let is_absent = |step: &Self| name(&step.wanted) == inside && step.found.is_none();
            let can_be_tried = inside.is_empty() || !steps.iter().any(is_absent);
            steps.push(Self::of(wanted.clone(), found, can_be_tried)?);
        }
        Ok(steps)
    }

    fn of(mut wanted: Value, found: Option<Value>, can_be_tried: bool) -> Result<Self> {
        let mut kept = None;
        match text(&wanted, "/kind") {
            DEFINITION => match Definition::compare(&wanted, found.as_ref()) {
                Definition::Absent | Definition::Ours => {}
                Definition::Others(by) | Definition::TooOld(by, _) => kept = Some(by),
                Definition::Ending => bail!("{} is being deleted", title(&wanted)),
            },
            // One that was there before us stays when we go.
            "Namespace" if found.as_ref().is_some_and(|found| !is_ours(found)) => {
                let labels = wanted.pointer_mut("/metadata/labels");
                if let Some(labels) = labels.and_then(Value::as_object_mut) {
                    labels.retain(|label, _| label != MANAGED_BY && label != PART_OF);
                }
            }
            _ => {}
        }
        Ok(Self {
            wanted,
            found,
            can_be_tried,
            kept,
        })
    }

    /// Makes the object what it should be.
    pub(super) async fn apply(&self, objects: &Objects, force: bool) -> Result<Change> {
        self.attempt(objects, force, false).await
    }

    async fn attempt(&self, objects: &Objects, force: bool, dry_run: bool) -> Result<Change> {
        if let Some(by) = &self.kept {
            return Ok(Change::Kept(by.clone()));
        }
        if dry_run && !self.can_be_tried {
            return Ok(Change::Created);
        }
        let how = Apply {
            manager: MANAGER,
            force,
            dry_run,
        };
        let applied = objects.apply(&self.wanted, how).await;
        let applied = applied.map_err(|error| refusal(&self.wanted, error))?;
        let Some(found) = &self.found else {
            return Ok(Change::Created);
        };
        let fields = difference(found, &applied);
        Ok(match fields.is_empty() {
            true => Change::Unchanged,
            false => Change::Changed(fields),
        })
    }
}

/// Tries every step without effect.
///
/// # Errors
/// All that would be refused.
pub(super) async fn rehearse(
    objects: &Objects,
    steps: &[Step],
    force: bool,
) -> Result<Vec<Change>> {
    let (mut changes, mut refused) = (Vec::new(), Vec::new());
    for step in steps {
        match step.attempt(objects, force, true).await {
            Ok(change) => changes.push(change),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    match refused.is_empty() {
        true => Ok(changes),
        false => Err(anyhow!(refused.join("\n"))),
    }
}

/// Waits until an object is of use to those that come after it.
pub(super) async fn settle(
    objects: &Objects,
    step: &Step,
    limit: Duration,
    progress: &Progress,
) -> Result<()> {
    if text(&step.wanted, "/kind") != DEFINITION {
        return Ok(());
    }
    let wait = Wait {
        what: &format!("{} is not served", title(&step.wanted)),
        limit,
        progress,
    };
    wait.until(async || {
        let found = objects.find(&step.wanted).await?;
        let is_done = found.as_ref().is_some_and(is_established);
        Ok((!is_done).then(|| Left::all("the API server has not taken it up yet")))
    })
    .await
}

/// With what to do about it.
fn refusal(object: &Value, error: CallError) -> anyhow::Error {
    let todo = match error.code() {
        Some(StatusCode::CONFLICT) => {
            "; --force-conflicts takes these fields; to keep them as they are, install by Helm with values that say so"
        }
        Some(StatusCode::FORBIDDEN) => {
            "; `tulle check --pre` names every permission that is missing"
        }
        _ => "",
    };
    anyhow!("{}: {error}{todo}", title(object))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(wanted: &Value, found: Option<Value>) -> Step {
        Step::of(wanted.clone(), found, true).unwrap()
    }

    #[test]
    fn a_namespace_of_somebody_else_does_not_become_ours() {
        let wanted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "istio-system",
            "labels": {MANAGED_BY: "tulle", PART_OF: "tulle", "a": "b"},
        }});
        let theirs = json!({"metadata": {"name": "istio-system", "labels": {"c": "d"}}});
        let kept = of(&wanted, Some(theirs));
        assert_eq!(kept.wanted["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(of(&wanted, None).wanted, wanted);
        assert_eq!(of(&wanted, Some(wanted.clone())).wanted, wanted);
    }

    #[test]
    fn a_definition_of_somebody_else_is_kept() {
        let wanted = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": DEFINITION,
            "metadata": {"name": "a.b"}, "spec": {"versions": [{"name": "v1", "served": true}]}});
        let mut theirs = wanted.clone();
        theirs["metadata"]["managedFields"] = json!([{"manager": "helm"}]);
        assert_eq!(of(&wanted, Some(theirs)).kept.as_deref(), Some("helm"));
        assert_eq!(of(&wanted, None).kept, None);
        let mut ending = wanted.clone();
        ending["metadata"]["deletionTimestamp"] = "now".into();
        assert!(Step::of(wanted, Some(ending), true).is_err());
    }
}
