//! A hash map whose copies share what did not change.

use std::{fmt, hash::BuildHasher, hash::Hash, sync::Arc};

use hashbrown::{DefaultHashBuilder, Equivalent, HashTable, hash_table::Entry};

/// A hash map that is cheap to clone and cheap to change after being cloned.
///
/// Entries are spread over [`SHARDS`] small tables. A clone shares all of them; a change copies the one table it
/// falls into, unless nobody shares it. Changing k of n entries of a shared map costs k tables of n / 256 entries at
/// most, and filling a map that nobody shares copies nothing.
pub(crate) struct CowMap<K, V> {
    hasher: DefaultHashBuilder,
    shards: Arc<[Shard<K, V>]>,
    len: usize,
}

type Shard<K, V> = Option<Arc<HashTable<(K, V)>>>;

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    pub(crate) fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shards.get(shard_of(hash))?.as_ref()?;
        let entry = shard.find(hash, |(k, _)| key.equivalent(k))?;
        Some(&entry.1)
    }

    /// The value of `key`, made from nothing if there is none, for changing.
    pub(crate) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let hash = self.hasher.hash_one(&key);
        let hasher = self.hasher.clone();
        let table = Self::table(&mut self.shards, hash);
        let entry = table.entry(hash, |(k, _)| *k == key, |(k, _)| hasher.hash_one(k));
        let occupied = match entry {
            Entry::Occupied(occupied) => occupied,
            Entry::Vacant(vacant) => {
                self.len += 1;
                vacant.insert((key, V::default()))
            }
        };
        &mut occupied.into_mut().1
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        let hasher = self.hasher.clone();
        let table = Self::table(&mut self.shards, hash);
        match table.entry(hash, |(k, _)| *k == key, |(k, _)| hasher.hash_one(k)) {
            Entry::Occupied(mut occupied) => {
                let (_, old) = std::mem::replace(occupied.get_mut(), (key, value));
                Some(old)
            }
            Entry::Vacant(vacant) => {
                vacant.insert((key, value));
                self.len += 1;
                None
            }
        }
    }

    pub(crate) fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let table = Self::table(&mut self.shards, hash);
        let entry = table.find_entry(hash, |(k, _)| key.equivalent(k)).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        Some(value)
    }

    /// Changes a value in place, and drops the entry if `keep` says so by returning false.
    pub(crate) fn retain_entry<Q: Hash + Equivalent<K> + ?Sized>(
        &mut self,
        key: &Q,
        keep: impl FnOnce(&mut V) -> bool,
    ) {
        if self.get(key).is_none() {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let table = Self::table(&mut self.shards, hash);
        if let Ok(mut entry) = table.find_entry(hash, |(k, _)| key.equivalent(k))
            && !keep(&mut entry.get_mut().1)
        {
            entry.remove();
            self.len -= 1;
        }
    }

    /// In no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards
            .iter()
            .flatten()
            .flat_map(|table| table.iter())
            .map(|(key, value)| (key, value))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn table(shards: &mut Arc<[Shard<K, V>]>, hash: u64) -> &mut HashTable<(K, V)> {
        let shard = Arc::make_mut(shards)
            .get_mut(shard_of(hash))
            .expect("a shard number is below SHARDS");
        Arc::make_mut(shard.get_or_insert_default())
    }
}

/// The tables use the lowest and the highest bits of a hash; these are others.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| None).collect(),
            len: 0,
        }
    }
}

impl<K, V> Clone for CowMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            hasher: self.hasher.clone(),
            shards: Arc::clone(&self.shards),
            len: self.len,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone + PartialEq> PartialEq for CowMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self
                .iter()
                .all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for CowMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// At 100 000 entries one changed entry copies a table of about 400.
const SHARDS: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn shared_shards<K, V>(a: &CowMap<K, V>, b: &CowMap<K, V>) -> usize {
        a.shards
            .iter()
            .zip(b.shards.iter())
            .filter(|pair| match pair {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            })
            .count()
    }

    #[test]
    fn a_change_copies_one_shard_and_leaves_the_clone_alone() {
        let mut map = CowMap::default();
        for number in 0..10_000_u32 {
            map.insert(number, number);
        }
        let before = map.clone();
        assert_eq!(map.insert(7, 70), Some(7));
        assert_eq!((before.get(&7), map.get(&7)), (Some(&7), Some(&70)));
        assert_eq!(shared_shards(&before, &map), SHARDS - 1);
        assert_eq!(map.remove(&10_001), None);
        assert_eq!(shared_shards(&before, &map), SHARDS - 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u8),
        Remove(u16),
        Change(u16, u8),
        Drop(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0_u16..400;
        prop_oneof![
            (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Insert(k, v)),
            key.clone().prop_map(Step::Remove),
            (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Change(k, v)),
            key.prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_clones_do_not_change(steps in vec(step(), 0..300)) {
            let (mut map, mut model) = (CowMap::default(), BTreeMap::new());
            let mut clones = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(k, v) => prop_assert_eq!(map.insert(k, v), model.insert(k, v)),
                    Step::Remove(k) => prop_assert_eq!(map.remove(&k), model.remove(&k)),
                    Step::Change(k, v) => {
                        *map.entry(k) = v;
                        *model.entry(k).or_default() = v;
                    }
                    Step::Drop(k) => {
                        map.retain_entry(&k, |_| false);
                        model.remove(&k);
                    }
                }
                if number % 50 == 0 {
                    clones.push((map.clone(), model.clone()));
                }
            }
            clones.push((map, model));
            for (map, model) in clones {
                prop_assert_eq!(map.len(), model.len());
                let entries: BTreeMap<u16, u8> = map.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(entries, model);
            }
        }
    }
}
