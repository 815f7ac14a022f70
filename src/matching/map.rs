//! The content map: which bytes of which block lie where in an object, as far as they were seen.
//!
//! It is a hint and nothing more. What it says is compared, byte for byte, with what the sender has just read, so a
//! wrong entry costs a comparison. One thing in it is more than a hint: the [`Version`] of an extent says that every
//! byte of the extent's block was released at that place in that version, and by that a slice of the block may be
//! named. So a version is only ever what [`ContentMap::learn`] or [`ContentMap::confirm`] was told, or what
//! [`ContentMap::load`] is given by who kept it from being tampered with.
//!
//! An *extent* is a run of an object that a run of one block explains. The extents of an object do not overlap: a new
//! one takes the place of what it covers, and what sticks out stays. Beside them the map has *keys*, 64 bits that name
//! content (an anchor, the beginning of a block's digest), and where that was.
//!
//! # Bounds
//!
//! So many extents, some 150 bytes each, and as much again for an object of one; so many keys, some 40 bytes each. When
//! extents are too many the objects go that were not used for longest (every call that names an object uses it), and of
//! an object that is alone what is farthest from where it was last learned. Keys have two generations, like the
//! [`Record`](super::Record).
//!
//! # What survives
//!
//! An object's extents, as bytes ([`ContentMap::poll_dirty`], [`ContentMap::load`]; drawn in `map/saved.rs`). Keys do
//! not, but for those that the digests of loaded extents give.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use crate::block::Digest;
use crate::object::{Place, Version};

mod keys;
mod saved;
#[cfg(test)]
mod tests;

use keys::Keys;

/// A run of a block that explains a run of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The block.
    pub digest: Digest,
    /// Bytes of the whole block.
    pub block_len: u32,
    /// Where in the block the run begins.
    pub skip: u32,
    /// Bytes of the run.
    pub len: u32,
    /// A version of the object in which every byte of the *block* was released at this place.
    pub version: Option<Version>,
}

/// Where blocks are known to be; shared by the flows of a node.
pub type MapHandle = Arc<Mutex<ContentMap>>;

/// Which blocks explain which bytes of which objects.
#[derive(Debug)]
pub struct ContentMap {
    extents_max: usize,
    objects: HashMap<Place, Tracked>,
    /// All extents, by the number of their object and their offset in it.
    extents: BTreeMap<(u64, u64), Extent>,
    /// Objects from the one that was not used for longest to the one that was just used.
    used: BTreeMap<i64, Place>,
    keys: Keys,
    /// Objects that changed since they were polled; of those that are gone, the ones that were polled or loaded.
    dirty: BTreeSet<Place>,
    /// Where polling goes on, so that objects that change all the time hold no other up.
    polled: Option<Place>,
    next_number: u64,
}

/// What is known of an object beside its extents, of which it has one at least.
#[derive(Debug)]
struct Tracked {
    number: u64,
    used: i64,
    extents: usize,
    dirty: bool,
    /// Somebody keeps it, and has to hear when it is gone.
    kept: bool,
}

impl Extent {
    /// Returns whether the run lies within its block, and somewhere.
    fn is_sound(&self, offset: u64) -> bool {
        self.len > 0
            && self.skip.checked_add(self.len).is_some_and(|end| end <= self.block_len)
            && offset.checked_add(u64::from(self.len)).is_some()
    }

    /// Returns what is left without the first bytes.
    fn after(self, cut: u64) -> Self {
        let cut = u32::try_from(cut).expect("a cut is within the extent");
        Self { skip: self.skip + cut, len: self.len - cut, ..self }
    }

    /// Returns the first bytes.
    fn before(self, cut: u64) -> Self {
        Self { len: u32::try_from(cut).expect("a cut is within the extent"), ..self }
    }

    /// Returns both as one if `next`, which follows in the object, follows in the block too.
    fn joined(self, next: Self) -> Option<Self> {
        let follows = Self { skip: self.skip + self.len, len: next.len, ..self } == next;
        follows.then(|| Self { len: self.len + next.len, ..self })
    }
}

impl ContentMap {
    /// Makes an empty map of at most so many extents and keys.
    #[must_use]
    pub fn new(extents_max: usize, keys_max: usize) -> Self {
        Self {
            extents_max,
            objects: HashMap::new(),
            extents: BTreeMap::new(),
            used: BTreeMap::new(),
            keys: Keys::new(keys_max),
            dirty: BTreeSet::new(),
            polled: None,
            next_number: 0,
        }
    }

    /// Returns the extent that covers `offset`, and where it begins.
    pub fn at(&mut self, place: &Place, offset: u64) -> Option<(u64, Extent)> {
        let number = self.touch(place)?;
        covering(&self.extents, number, offset)
    }

    /// Returns the first extent that begins at `offset` or after it, and where.
    pub fn after(&mut self, place: &Place, offset: u64) -> Option<(u64, Extent)> {
        let number = self.touch(place)?;
        let (&(_, at), extent) = self.extents.range((number, offset)..=(number, u64::MAX)).next()?;
        Some((at, *extent))
    }

    /// Notes what lies at `offset`, in place of what the extent covers; what sticks out of it on either side stays.
    ///
    /// Runs that follow each other in their block as well are one extent from then on. An extent that is known
    /// already, and in a version, stays as it is when it comes again without one: what was true of the version is
    /// still. An extent that is not within its block is ignored.
    pub fn learn(&mut self, place: &Place, offset: u64, extent: Extent) {
        if !extent.is_sound(offset) || self.extents_max == 0 || self.explains(place, offset, &extent) {
            return;
        }
        let number = self.track(place);
        let count = self.extents.len();
        let end = offset + u64::from(extent.len);
        self.clear(number, offset, end);
        let at = self.insert(number, offset, extent);
        self.note_count(place, count);
        self.note_dirty(place);
        self.evict(place, number, at);
    }

    /// Notes that the block at `offset`, if it has this digest, was seen whole in this version.
    pub fn confirm(&mut self, place: &Place, offset: u64, digest: &Digest, version: Version) {
        let Some((number, at, extent)) = self.find_block(place, offset, digest) else { return };
        if extent.version != Some(version) {
            self.extents.insert((number, at), Extent { version: Some(version), ..extent });
            self.note_dirty(place);
        }
    }

    /// Forgets what is at `offset`, if it is of the block with this digest: nobody has that block any more.
    pub fn forget(&mut self, place: &Place, offset: u64, digest: &Digest) {
        let Some((number, at, _)) = self.find_block(place, offset, digest) else { return };
        let count = self.extents.len();
        self.extents.remove(&(number, at));
        self.note_count(place, count);
        self.note_dirty(place);
        if self.objects.get(place).is_some_and(|object| object.extents == 0) {
            self.drop_object(place);
        }
    }

    /// Notes where content is that the key names: in place of where it was before.
    pub fn index(&mut self, key: u64, place: &Place, offset: u64) {
        self.keys.insert(key, *place, offset);
    }

    /// Has content found by its anchors ([`anchors::of_block`](super::anchors::of_block)), and by its digest if it is
    /// a whole block.
    pub fn index_all(
        &mut self,
        place: &Place,
        offset: u64,
        digest: Option<&Digest>,
        anchors: &[(usize, u64)],
    ) {
        if let Some(digest) = digest {
            self.index(digest_key(digest), place, offset);
        }
        for (end, key) in anchors {
            self.index(*key, place, offset.wrapping_add(*end as u64));
        }
    }

    /// Returns where content was that the key names. It may be gone, or other content.
    pub fn find(&mut self, key: u64) -> Option<(Place, u64)> {
        self.keys.find(key)
    }

    /// Returns an object that changed since it was last returned here, with its extents as bytes, or without any if
    /// it is gone. Whoever keeps them gives them to [`ContentMap::load`] at the next start.
    pub fn poll_dirty(&mut self) -> Option<(Place, Option<Vec<u8>>)> {
        let after = self.polled.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.dirty.range((after, Bound::Unbounded));
        let place = *rest.next().or_else(|| self.dirty.first())?;
        self.polled = Some(place);
        self.dirty.remove(&place);
        let Some(object) = self.objects.get_mut(&place) else { return Some((place, None)) };
        (object.dirty, object.kept) = (false, true);
        let all = (object.number, 0)..=(object.number, u64::MAX);
        let extents = self.extents.range(all).map(|(&(_, offset), extent)| (offset, extent));
        Some((place, Some(saved::encode(extents, object.extents))))
    }

    /// Takes an object as [`ContentMap::poll_dirty`] gave it, as the one that was not used for longest: so whoever
    /// loads several begins with the latest. Returns whether it did: not if the bytes are no extents, if there is no
    /// room for them, or if the object is known.
    ///
    /// The digests of the extents become keys.
    pub fn load(&mut self, place: Place, bytes: &[u8]) -> bool {
        if self.objects.contains_key(&place) {
            return false;
        }
        let Some(extents) = saved::decode(bytes, self.extents_max - self.extents.len()) else { return false };
        let used = self.used.first_key_value().map_or(0, |(used, _)| used - 1);
        let number = self.add_object(place, used);
        for (offset, extent) in &extents {
            self.extents.insert((number, *offset), *extent);
            self.keys.insert(digest_key(&extent.digest), place, *offset);
        }
        self.dirty.remove(&place);
        if let Some(object) = self.objects.get_mut(&place) {
            (object.extents, object.kept) = (extents.len(), true);
        }
        true
    }

    /// Returns the number of extents.
    #[must_use]
    pub fn extents(&self) -> usize {
        self.extents.len()
    }

    /// Returns the number of objects.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Returns whether the object already has this very run, in this version or in a known one.
    fn explains(&mut self, place: &Place, offset: u64, extent: &Extent) -> bool {
        let Some((at, known)) = self.at(place, offset) else { return false };
        let (skipped, end) = (offset - at, offset - at + u64::from(extent.len));
        if end > u64::from(known.len) || (extent.version.is_some() && extent.version != known.version) {
            return false;
        }
        known.after(skipped).before(u64::from(extent.len)) == Extent { version: known.version, ..*extent }
    }

    fn find_block(&mut self, place: &Place, offset: u64, digest: &Digest) -> Option<(u64, u64, Extent)> {
        let number = self.touch(place)?;
        let (at, extent) = covering(&self.extents, number, offset)?;
        (extent.digest == *digest).then_some((number, at, extent))
    }

    /// Empties a range of an object.
    fn clear(&mut self, number: u64, offset: u64, end: u64) {
        if let Some((at, extent)) = covering(&self.extents, number, offset)
            && at < offset
        {
            self.extents.insert((number, at), extent.before(offset - at));
            let extent_end = at + u64::from(extent.len);
            if extent_end > end {
                self.extents.insert((number, end), extent.after(end - at));
            }
        }
        while let Some((&(_, at), &extent)) = self.extents.range((number, offset)..(number, end)).next() {
            self.extents.remove(&(number, at));
            let extent_end = at + u64::from(extent.len);
            if extent_end > end {
                self.extents.insert((number, end), extent.after(end - at));
            }
        }
    }

    /// Puts an extent where there is none, joined with what follows and what it follows. Returns where it begins.
    fn insert(&mut self, number: u64, mut offset: u64, mut extent: Extent) -> u64 {
        let end = offset + u64::from(extent.len);
        if let Some(next) = self.extents.get(&(number, end))
            && let Some(joined) = extent.joined(*next)
        {
            self.extents.remove(&(number, end));
            extent = joined;
        }
        if let Some(last) = offset.checked_sub(1)
            && let Some((at, before)) = covering(&self.extents, number, last)
            && let Some(joined) = before.joined(extent)
        {
            (offset, extent) = (at, joined);
        }
        self.extents.insert((number, offset), extent);
        offset
    }

    /// Makes room: other objects go first, then what is farthest from the extent at `kept` in its own object.
    fn evict(&mut self, place: &Place, number: u64, kept: u64) {
        while self.extents.len() > self.extents_max
            && let Some(oldest) = self.used.first_key_value().map(|(_, oldest)| *oldest)
        {
            if oldest != *place {
                self.drop_object(&oldest);
                continue;
            }
            let count = self.extents.len();
            let mut all = self.extents.range((number, 0)..=(number, u64::MAX));
            let (first, last) = (all.next().map(|(at, _)| *at), all.next_back().map(|(at, _)| *at));
            // Of one extent there is no other end, and it fits.
            let (Some(first), Some(last)) = (first, last) else { return };
            let far = if kept - first.1 >= last.1 - kept { first } else { last };
            self.extents.remove(&far);
            self.note_count(place, count);
        }
    }

    fn drop_object(&mut self, place: &Place) {
        let Some(object) = self.objects.remove(place) else { return };
        self.used.remove(&object.used);
        while let Some((&at, _)) = self.extents.range((object.number, 0)..=(object.number, u64::MAX)).next() {
            self.extents.remove(&at);
        }
        if object.kept {
            self.dirty.insert(*place);
        } else {
            self.dirty.remove(place);
        }
    }

    /// Marks an object as just used and returns its number.
    fn touch(&mut self, place: &Place) -> Option<u64> {
        let object = self.objects.get_mut(place)?;
        let latest = self.used.last_key_value().map_or(0, |(used, _)| *used);
        if object.used != latest {
            self.used.remove(&object.used);
            object.used = latest + 1;
            self.used.insert(object.used, *place);
        }
        Some(object.number)
    }

    fn track(&mut self, place: &Place) -> u64 {
        self.touch(place).unwrap_or_else(|| {
            let used = self.used.last_key_value().map_or(0, |(used, _)| used + 1);
            self.add_object(*place, used)
        })
    }

    fn add_object(&mut self, place: Place, used: i64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        // What is gone and still to be told of is what somebody keeps.
        let kept = self.dirty.contains(&place);
        self.objects.insert(place, Tracked { number, used, extents: 0, dirty: false, kept });
        self.used.insert(used, place);
        number
    }

    /// Follows a change of one object's extents, of which there were `before` in all.
    fn note_count(&mut self, place: &Place, before: usize) {
        if let Some(object) = self.objects.get_mut(place) {
            object.extents = object.extents + self.extents.len() - before;
        }
    }

    fn note_dirty(&mut self, place: &Place) {
        if let Some(object) = self.objects.get_mut(place)
            && !object.dirty
        {
            object.dirty = true;
            self.dirty.insert(*place);
        }
    }
}

/// Stands for a digest where a wrong guess costs one comparison, since what it leads to is compared.
#[must_use]
pub fn digest_key(digest: &Digest) -> u64 {
    u64::from_le_bytes(digest.0[..8].try_into().expect("a digest has 32 bytes"))
}

fn covering(extents: &BTreeMap<(u64, u64), Extent>, number: u64, offset: u64) -> Option<(u64, Extent)> {
    let (&(_, at), extent) = extents.range((number, 0)..=(number, offset)).next_back()?;
    (offset - at < u64::from(extent.len)).then_some((at, *extent))
}
