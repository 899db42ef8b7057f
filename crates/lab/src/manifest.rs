//! The objects of a lab: a folder of manifests, one file per object, each replaced whole; or what an API server holds.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;

/// What identifies an object: kind, namespace (empty for those without one) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// Its kind, such as `Pod`.
    pub kind: String,
    /// Its namespace, empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectId {
    /// Names an object.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn of(object: &Value) -> Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").context("an object without kind")?;
        let name =
            text("/metadata/name").with_context(|| format!("a {kind} without metadata.name"))?;
        Ok(Self::new(
            kind,
            text("/metadata/namespace").unwrap_or_default(),
            name,
        ))
    }

    fn file_name(&self) -> String {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        format!("{}.{namespace}.{name}.yaml", kind.to_lowercase()).replace("..", ".")
    }
}

/// The objects of a lab, and where they are written.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
    cluster: Option<Arc<Cluster>>,
    objects: BTreeMap<ObjectId, Value>,
}

impl Manifests {
    /// Makes an empty folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            cluster: None,
            objects: BTreeMap::new(),
        })
    }

    /// Objects in an API server: no file is written.
    pub(crate) fn in_cluster(cluster: Arc<Cluster>, folder: PathBuf) -> Self {
        Self {
            folder,
            cluster: Some(cluster),
            objects: BTreeMap::new(),
        }
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds or replaces every object of a YAML text, which may have several documents.
    ///
    /// # Errors
    /// When it is not YAML, an object lacks kind or name, or a file cannot be written.
    pub fn apply(&mut self, yaml: &str) -> Result<Vec<ObjectId>> {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(yaml).with_context(|| format!("not a manifest: {yaml}"))?;
        objects.into_iter().map(|object| self.put(object)).collect()
    }

    /// Adds or replaces one object.
    ///
    /// # Errors
    /// When it lacks kind or name, or its file cannot be written.
    pub fn put(&mut self, object: Value) -> Result<ObjectId> {
        let id = ObjectId::of(&object)?;
        if self.objects.get(&id) != Some(&object) {
            let written = self.write(&id, object)?;
            self.objects.insert(id.clone(), written);
        }
        Ok(id)
    }

    /// Removes an object.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&mut self, id: &ObjectId) -> Result<()> {
        let Some(object) = self.objects.remove(id) else {
            bail!("there is no {id:?}");
        };
        match &self.cluster {
            Some(cluster) => cluster.delete(&object),
            None => Ok(fs::remove_file(self.folder.join(id.file_name()))?),
        }
    }

    /// An object as it was last written.
    pub fn get(&self, id: &ObjectId) -> Option<&Value> {
        self.objects.get(id)
    }

    /// Sets a label, or an annotation, or removes it: `field` is `labels` or `annotations`.
    ///
    /// # Errors
    /// When there is no such object or it cannot be written.
    pub fn mark(
        &mut self,
        id: &ObjectId,
        field: &str,
        name: &str,
        value: Option<&str>,
    ) -> Result<()> {
        let mut object = self
            .get(id)
            .with_context(|| format!("there is no {id:?}"))?
            .clone();
        let metadata = object
            .pointer_mut("/metadata")
            .and_then(Value::as_object_mut)
            .context("metadata is not a map")?;
        let marks = metadata
            .entry(field)
            .or_insert_with(|| Value::Object(serde_json::Map::new()))
            .as_object_mut()
            .with_context(|| format!("metadata.{field} is not a map"))?;
        match value {
            Some(value) => marks.insert(name.into(), value.into()),
            None => marks.remove(name),
        };
        self.put(object).map(drop)
    }

    /// The UID of an object, if it has one.
    pub(crate) fn uid(&self, id: &ObjectId) -> Option<&str> {
        self.get(id)?.pointer("/metadata/uid")?.as_str()
    }

    /// Returns the object as it is then. A file is replaced in one step: a reader sees the old object or the new one.
    fn write(&self, id: &ObjectId, mut object: Value) -> Result<Value> {
        if let Some(cluster) = &self.cluster {
            let written = cluster.put(&object)?;
            let uid = written.pointer("/metadata/uid").cloned();
            if let (Some(uid), Some(own)) = (uid, object.pointer_mut("/metadata")) {
                let own = own.as_object_mut().context("metadata is not a map")?;
                own.insert("uid".into(), uid);
            }
            return Ok(object);
        }
        let path = self.folder.join(id.file_name());
        let draft = path.with_extension("draft");
        fs::write(&draft, serde_saphyr::to_string(&object)?)?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_files_and_go_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifests = Manifests::create(dir.path().join("m")).unwrap();
        let ids = manifests
            .apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n")
            .unwrap();
        assert_eq!(
            ids,
            [
                ObjectId::new("Namespace", "", "shop"),
                ObjectId::new("Service", "shop", "web")
            ]
        );
        let files = || {
            let mut names: Vec<_> = fs::read_dir(manifests_folder(&dir))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(files(), ["namespace.shop.yaml", "service.shop.web.yaml"]);
        manifests.mark(&ids[0], "labels", "a", Some("b")).unwrap();
        let text = fs::read_to_string(manifests.folder().join("namespace.shop.yaml")).unwrap();
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            back.pointer("/metadata/labels/a"),
            Some(&"b".into()),
            "{text}"
        );
        manifests.remove(&ids[1]).unwrap();
        assert_eq!(files(), ["namespace.shop.yaml"]);
        assert!(manifests.remove(&ids[1]).is_err());
    }

    fn manifests_folder(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("m")
    }

    #[test]
    fn numbers_and_words_that_look_like_others_survive_writing() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifests = Manifests::create(dir.path().into()).unwrap();
        let object = serde_json::json!({
            "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "true", "b": "1", "c": "null", "d": "1e3", "e": "~"}},
            "spec": {"port": 80, "on": true},
        });
        let id = manifests.put(object.clone()).unwrap();
        let text = fs::read_to_string(dir.path().join(id.file_name())).unwrap();
        assert_eq!(
            serde_saphyr::from_str::<Value>(&text).unwrap(),
            object,
            "{text}"
        );
    }
}
