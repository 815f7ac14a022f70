//! The writing side of adoption: blocks that are on disk get further names.
//!
//! A block has to be there under the whole old reference, secret included, before it gets another. An adoption is
//! found at once; it becomes durable with the next checkpoint, which writes the rows of all segments that got names
//! since. A power loss before that loses the adoption and nothing else. When a segment has names under as many keys
//! as there may be, one makes way: that which expired first, or else that which came first.

use std::collections::BTreeMap;

use super::disk::SegmentId;
use super::name::Name;
use super::names::{Adopted, KEYS_MAX, NamesRow};
use super::table::{Place, Table};
use super::writer::{During, Fault, Writer};
use crate::block::{KeyId, Reference};

/// Under which keys blocks of each segment were adopted, in the order in which the keys came.
#[derive(Debug, Default)]
pub(super) struct Adoptions {
    segments: BTreeMap<SegmentId, Vec<(u32, KeyId)>>,
}

/// What the blocks of one segment were adopted under.
pub(super) struct OtherNames {
    keys: Vec<(KeyId, BTreeMap<u32, Adopted>)>,
}

impl Adoptions {
    /// Notes a row that was found.
    pub(super) fn add(&mut self, id: SegmentId, key: KeyId, order: u32) {
        let keys = self.segments.entry(id).or_default();
        let at = keys.partition_point(|(other, _)| *other < order);
        keys.insert(at, (order, key));
    }

    fn keys(&self, id: SegmentId) -> impl Iterator<Item = KeyId> + '_ {
        self.segments.get(&id).into_iter().flatten().map(|(_, key)| *key)
    }

    fn order(&self, id: SegmentId, key: KeyId) -> u32 {
        let of =
            |keys: &Vec<(u32, KeyId)>| keys.iter().find(|(_, other)| *other == key).map(|(order, _)| *order);
        self.segments.get(&id).and_then(of).unwrap_or(0)
    }

    /// Makes room for a key; returns the one that has to go for it.
    fn admit(&mut self, id: SegmentId, key: KeyId, expired: &[KeyId]) -> Option<KeyId> {
        let keys = self.segments.entry(id).or_default();
        if keys.iter().any(|(_, other)| *other == key) {
            return None;
        }
        let order = keys.last().map_or(0, |(last, _)| last.saturating_add(1));
        keys.push((order, key));
        if keys.len() <= KEYS_MAX {
            return None;
        }
        let at = |wanted: &KeyId| keys[..KEYS_MAX].iter().position(|(_, other)| other == wanted);
        let goes = expired.iter().find_map(at).unwrap_or(0);
        Some(keys.remove(goes).1)
    }
}

impl OtherNames {
    /// Returns those of the block at the place that still lead there.
    pub(super) fn at(&self, place: Place, table: &Table) -> Vec<(KeyId, Adopted)> {
        let name = |(key, names): &(KeyId, BTreeMap<u32, Adopted>)| Some((*key, *names.get(&place.offset)?));
        let leads_there = |(key, name): &(KeyId, Adopted)| table.peek(&name.hint(*key)) == Some(place);
        self.keys.iter().filter_map(name).filter(leads_there).collect()
    }
}

impl Writer {
    /// Makes a block be found under `new` too, if it is there under `old`.
    pub(super) fn adopt(&mut self, old: &Reference, new: &Reference) -> Result<(), Fault> {
        let table = &self.reader.table;
        if table.contains(&Name::of(new).hint()) {
            return Ok(());
        }
        let place = table.peek(&Name::of(old).hint()).filter(|place| self.reader.has(old, *place));
        if let Some(place) = place {
            self.adopt_at(place, new.key, Adopted::new(new, place.offset))?;
        }
        if self.reader.names.fresh_len() >= FRESH_MAX {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Gives the block at a place a name, which somebody vouches for.
    pub(super) fn adopt_at(&mut self, place: Place, key: KeyId, name: Adopted) -> Result<(), Fault> {
        if let Some(goes) = self.adoptions.admit(place.segment, key, &self.expired.keys()) {
            self.drop_names(place.segment, goes)?;
        }
        self.reader.names.adopt(place.segment, key, name);
        self.reader.table.insert_adopted(&name.hint(key), place);
        Ok(())
    }

    /// Makes the list of expired keys durable.
    pub(super) fn save_expired(&mut self) -> Result<(), Fault> {
        Ok(self.index.set_expired(&self.expired.keys())?)
    }

    /// Returns the rows of all segments that got names since the last checkpoint.
    pub(super) fn fresh_rows(&self) -> Result<Vec<(SegmentId, KeyId, Vec<u8>)>, Fault> {
        let mut rows = Vec::new();
        for ((id, key), fresh) in self.reader.names.fresh() {
            let Some(secret) = self.reader.secret(id) else { continue };
            let old = self.index.names(id, key)?.and_then(|row| NamesRow::decode(&secret, id, key, &row));
            let old = old.map_or_else(Vec::new, |row| row.entries);
            let entries: BTreeMap<u32, Adopted> =
                old.into_iter().map(|name| (name.offset, name)).chain(fresh).collect();
            let row =
                NamesRow { order: self.adoptions.order(id, key), entries: entries.into_values().collect() };
            rows.push((id, key, row.encode(&secret, id, key).during("make a salt")?));
        }
        Ok(rows)
    }

    /// Returns what the blocks of a segment were adopted under.
    pub(super) fn other_names(&self, id: SegmentId) -> OtherNames {
        OtherNames {
            keys: self.adoptions.keys(id).map(|key| (key, self.reader.adopted_in(id, key))).collect(),
        }
    }

    /// Forgets the names of a segment that is dropped.
    pub(super) fn forget_names_of(&mut self, id: SegmentId) {
        for (_, key) in self.adoptions.segments.remove(&id).unwrap_or_default() {
            self.reader.names.forget(id, key);
        }
    }

    fn drop_names(&mut self, id: SegmentId, key: KeyId) -> Result<(), Fault> {
        for (offset, name) in self.reader.adopted_in(id, key) {
            self.reader.table.remove(&name.hint(key), Place { segment: id, offset });
        }
        self.index.remove_names(&[(id, key)])?;
        self.reader.names.forget(id, key);
        Ok(())
    }
}

/// Adoptions between two checkpoints: bounds what they take in memory until they have rows.
const FRESH_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_expired_first_makes_way_or_else_the_one_that_came_first() {
        let mut adoptions = Adoptions::default();
        let id = SegmentId(1);
        for n in 1..=4 {
            assert_eq!(adoptions.admit(id, key(n), &[]), None);
            assert_eq!(adoptions.admit(id, key(n), &[]), None);
        }
        assert_eq!(adoptions.admit(id, key(5), &[key(9), key(3), key(2)]), Some(key(3)));
        assert_eq!(adoptions.admit(id, key(6), &[]), Some(key(1)));
        assert_eq!(adoptions.keys(id).collect::<Vec<_>>(), [2, 4, 5, 6].map(key));
        assert_eq!(adoptions.order(id, key(6)), 5);
    }

    #[test]
    fn rows_come_back_in_their_order() {
        let mut adoptions = Adoptions::default();
        for order in [7, 2, 9, 4] {
            adoptions.add(SegmentId(1), key(order), u32::from(order));
        }
        assert_eq!(adoptions.keys(SegmentId(1)).collect::<Vec<_>>(), [2, 4, 7, 9].map(key));
        assert_eq!(adoptions.admit(SegmentId(1), key(1), &[]), Some(key(2)));
        assert_eq!(adoptions.order(SegmentId(1), key(1)), 10);
    }

    fn key(n: u8) -> KeyId {
        KeyId([n; 8])
    }
}
