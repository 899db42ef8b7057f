//! What is installed: the manifest that the chart renders to, built into this program.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::json::{label, name, namespace, text};

mod platform;

pub(crate) use platform::{Platform, detect, runtime};

/// The objects of a mesh, in the order in which they are installed.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    objects: Vec<Value>,
}

impl Manifest {
    /// The mesh with every value of the chart at its default, but for what the platform takes.
    ///
    /// # Errors
    /// None: what is built in is read by a test.
    pub(crate) fn of(platform: Platform) -> Result<Self> {
        let mut objects = read(MESH)?;
        for special in read(platform.manifest())? {
            let usual = objects.iter_mut().find(|usual| is_same(usual, &special));
            match usual {
                Some(usual) => *usual = special,
                None => objects.push(special),
            }
        }
        for object in &mut objects {
            mark(object);
        }
        objects.sort_by_key(|object| place(text(object, "/kind")));
        Ok(Self { objects })
    }

    /// The objects, in the order in which they are installed.
    pub(crate) fn objects(&self) -> &[Value] {
        &self.objects
    }

    /// Takes images from another place, and in another version, if either is given.
    pub(crate) fn use_images(&mut self, registry: Option<&str>, tag: Option<&str>) {
        for container in self.objects.iter_mut().filter_map(containers_mut).flatten() {
            for image in images_mut(container) {
                let written = Image::read(image.as_str().unwrap_or_default());
                let wanted = Image {
                    registry: registry.unwrap_or(written.registry),
                    tag: tag.unwrap_or(written.tag),
                    ..written
                };
                *image = wanted.to_string().into();
            }
        }
    }

    /// Where images are taken from.
    pub(crate) fn registry(&self) -> &str {
        let mut images = self.objects.iter().flat_map(images);
        images.next().map_or("", |image| image.registry)
    }

    /// The name of the namespace that the mesh is in.
    pub(crate) fn namespace(&self) -> &str {
        let namespace = self
            .objects
            .iter()
            .find(|object| text(object, "/kind") == "Namespace");
        namespace.map(name).unwrap_or_default()
    }

    /// Version and kind of every object that any mesh of ours may have, definitions and namespaces apart: the last first, as they
    /// are removed.
    ///
    /// # Errors
    /// None: what is built in is read by a test.
    pub(crate) fn kinds() -> Result<Vec<(String, String)>> {
        let mut kinds: Vec<(String, String)> = Vec::new();
        for platform in Platform::ALL {
            for object in Self::of(platform)?.objects {
                let kind = text(&object, "/kind").to_owned();
                let kind = (text(&object, "/apiVersion").to_owned(), kind);
                if !kinds.contains(&kind) && !KEPT.contains(&kind.1.as_str()) {
                    kinds.push(kind);
                }
            }
        }
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(place(kind)));
        Ok(kinds)
    }
}

/// Whether two are versions of the same object.
pub(crate) fn is_same(one: &Value, other: &Value) -> bool {
    let group = |object| {
        let version = text(object, "/apiVersion");
        version.split_once('/').map_or("", |(group, _)| group)
    };
    let key = |object| {
        (
            group(object),
            text(object, "/kind"),
            namespace(object),
            name(object),
        )
    };
    key(one) == key(other)
}

/// Whether an object is of the mesh, and was installed from this manifest, not by Helm.
pub(crate) fn is_ours(object: &Value) -> bool {
    label(object, PART_OF) == MESH_NAME && label(object, MANAGED_BY) == MESH_NAME
}

/// Which objects these are, for lists.
pub(crate) const OURS: &str =
    "labelSelector=app.kubernetes.io%2Fpart-of%3Dtulle%2Capp.kubernetes.io%2Fmanaged-by%3Dtulle&";
/// Objects of the mesh, whoever installed them, for lists.
pub(crate) const MESHS: &str = "labelSelector=app.kubernetes.io%2Fpart-of%3Dtulle&";
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of";
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(crate) const VERSION: &str = "app.kubernetes.io/version";
pub(crate) const MESH_NAME: &str = "tulle";
/// Who owns the fields that are written when the mesh is installed.
pub(crate) const MANAGER: &str = "tulle";

/// An image by its parts: `registry/name:tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image<'a> {
    pub(crate) registry: &'a str,
    pub(crate) name: &'a str,
    pub(crate) tag: &'a str,
}

impl<'a> Image<'a> {
    pub(crate) fn read(image: &'a str) -> Self {
        let (registry, rest) = image.rsplit_once('/').unwrap_or(("", image));
        let (name, tag) = rest.split_once(':').unwrap_or((rest, ""));
        Self {
            registry,
            name,
            tag,
        }
    }
}

impl std::fmt::Display for Image<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.name, self.tag)
    }
}

/// The images of a workload's pods.
pub(crate) fn images(workload: &Value) -> impl Iterator<Item = Image<'_>> {
    crate::json::items(workload, "/spec/template/spec/containers")
        .map(|container| Image::read(text(container, "/image")))
}

fn containers_mut(object: &mut Value) -> Option<&mut Vec<Value>> {
    let containers = object.pointer_mut("/spec/template/spec/containers")?;
    containers.as_array_mut()
}

/// The image of a container, and those that it is told to start others from.
fn images_mut(container: &mut Value) -> Vec<&mut Value> {
    let mut images = Vec::new();
    for (key, part) in container.as_object_mut().into_iter().flatten() {
        match (key.as_str(), part) {
            ("image", image) => images.push(image),
            ("env", Value::Array(variables)) => {
                let named = variables
                    .iter_mut()
                    .filter(|variable| text(variable, "/name").ends_with("_IMAGE"));
                images.extend(named.filter_map(|variable| variable.get_mut("value")));
            }
            _ => {}
        }
    }
    images
}

fn read(yaml: &str) -> Result<Vec<Value>> {
    if yaml.is_empty() {
        return Ok(Vec::new());
    }
    serde_saphyr::from_multiple(yaml).context("the built-in manifest cannot be read")
}

/// Namespace and definitions have no labels in the manifest, since Helm takes neither for its own.
fn mark(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(metadata) = metadata else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(PART_OF.to_owned(), MESH_NAME.into());
        labels.insert(MANAGED_BY.to_owned(), MESH_NAME.into());
    }
}

/// What is needed by others comes before them.
fn place(kind: &str) -> usize {
    let place = ORDER.iter().position(|ordered| *ordered == kind);
    place.unwrap_or(OTHERS)
}

const MESH: &str = include_str!("../../deploy/tulle.yaml");
const ORDER: [&str; 14] = [
    "Namespace",
    "CustomResourceDefinition",
    "ResourceQuota",
    "ServiceAccount",
    "ClusterRole",
    "Role",
    "ClusterRoleBinding",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "DaemonSet",
];
/// Before those that make pods.
const OTHERS: usize = 11;
/// With these go objects that are not the mesh's.
const KEPT: [&str; 2] = ["Namespace", "CustomResourceDefinition"];

#[cfg(test)]
mod tests;
