//! Objects as whoever may write some would: read or refused; what is read is translated, and nothing is left of it when it is gone.

#![no_main]

use std::{path::Path, sync::Arc};

use libfuzzer_sys::fuzz_target;
use tulle_control_plane::{index::Index, mesh::Mesh};
use tulle_manifest::source::{Document, Folder};

fuzz_target!(|text: &str| {
    let Ok(document) = Document::parse(text) else {
        return;
    };
    let mut folder = Folder::default();
    let path = Path::new("any.yaml");
    let changes = folder.write(path, text).expect("it was just parsed");
    assert_eq!(changes.is_empty(), document.objects.is_empty());
    let mut index = Index::new(Arc::new(Mesh::default()));
    index.apply(changes);
    let transaction = index.apply(folder.remove(path));
    let left = transaction
        .addresses
        .iter()
        .any(|(_, address)| address.is_some());
    assert!(!left, "something is served of nothing");
    assert!(
        transaction
            .configurations
            .iter()
            .all(|(_, configuration)| configuration.is_none())
    );
});
