//! Objects of an earlier version that this one does not have.

use anyhow::Result;
use serde_json::Value;
use tulle_kubernetes::Objects;

use super::apply::Step;
use crate::{
    cluster::list_kind,
    manifest::{Manifest, OURS, is_same},
};

/// Those that carry our labels, of the kinds that we install, and are not to be there. Definitions and namespaces are none of
/// them: with those go objects of others.
pub(super) async fn find(objects: &Objects, steps: &[Step]) -> Result<Vec<Value>> {
    let mut left = Vec::new();
    for (version, kind) in Manifest::kinds()? {
        let ours = list_kind(objects, &version, &kind, OURS).await?;
        left.extend(ours.into_iter().filter(|object| is_leftover(object, steps)));
    }
    Ok(left)
}

fn is_leftover(object: &Value, steps: &[Step]) -> bool {
    // What belongs to another object goes with that, and may have its labels from there.
    let owned = object.pointer("/metadata/ownerReferences").is_some();
    !owned && !steps.iter().any(|step| is_same(&step.wanted, object))
}
