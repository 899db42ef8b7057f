//! What the kernel has, compared with what is wanted, and how to get there.

use std::collections::BTreeSet;
use std::io;

use crate::netns::Netns;
use crate::nft::{Batch, Element, Set, Table, read_table};

/// How a table differs.
#[derive(Debug)]
pub(super) enum Difference {
    /// It is not there.
    Table,
    /// Something other than elements.
    Rules,
    /// Elements only. Sets without any difference are left out.
    Elements(Vec<SetDifference>),
}

/// How the elements of a set differ.
#[derive(Debug)]
pub(super) struct SetDifference {
    name: String,
    pub(super) missing: Vec<Element>,
    pub(super) surplus: Vec<Element>,
}

impl Difference {
    /// `None` if the kernel has what is wanted.
    pub(super) fn read(netns: &Netns, wanted: &Table) -> io::Result<Option<Self>> {
        let found = match read_table(netns, wanted.family, &wanted.name) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Some(Self::Table)),
            // Kinds of chains and sets that we never write.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Some(Self::Rules));
            }
            Err(error) => return Err(error),
        };
        if without_elements(&found) != without_elements(wanted) {
            return Ok(Some(Self::Rules));
        }
        let pairs = wanted.sets.iter().zip(&found.sets);
        let sets: Vec<_> = pairs.filter_map(SetDifference::between).collect();
        Ok((!sets.is_empty()).then_some(Self::Elements(sets)))
    }

    /// What makes the table the wanted one, in one transaction.
    pub(super) fn batch(&self, wanted: &Table) -> Batch {
        let Self::Elements(sets) = self else {
            return Batch::new().replace(wanted);
        };
        let (family, table) = (wanted.family, wanted.name.as_str());
        sets.iter().fold(Batch::new(), |batch, set| {
            batch
                .delete_elements(family, table, &set.name, &set.surplus)
                .add_elements(family, table, &set.name, &set.missing)
        })
    }
}

impl SetDifference {
    fn between((wanted, found): (&Set, &Set)) -> Option<Self> {
        let [wanted_elements, found_elements] =
            [wanted, found].map(|set| set.elements.iter().collect::<BTreeSet<_>>());
        let only_in = |a: &BTreeSet<&Element>, b| a.difference(b).copied().cloned().collect();
        let difference = Self {
            name: wanted.name.clone(),
            missing: only_in(&wanted_elements, &found_elements),
            surplus: only_in(&found_elements, &wanted_elements),
        };
        let differs = !(difference.missing.is_empty() && difference.surplus.is_empty());
        differs.then_some(difference)
    }
}

fn without_elements(table: &Table) -> Table {
    let mut table = table.clone();
    for set in &mut table.sets {
        set.elements.clear();
    }
    table
}
