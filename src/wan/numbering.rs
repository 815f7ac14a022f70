//! Short names for references: the numbers under which a link's frames introduced them.
//!
//! A reference has 76 bytes, and a file that is read again has one for each of its blocks. So each side numbers the
//! references that it introduces, from 0 up and over all flows of the link, and names them by number from then on.
//! [`Numbers`] is the sender's side and [`Numbered`] the receiver's, for one direction; both live as long as the link.
//!
//! The streams of a link are not in order among each other. So a number is used only once the other side said that it
//! took the frame which introduced it ([`Numbers::confirm`]), and only while it is among the newest half of what the
//! other side keeps: the other half is the room for what overtakes the frame that uses it. Numbers of frames that
//! never arrived, since their flow was reset, are gaps.
//!
//! Nothing here can name a wrong block: the sender compares whole digests, and the receiver keeps whole references.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use wanigan_parsers::wan::{Digest, KeyId, NUMBERED_MAX, Named, Reference};

/// The numbers that this side gave. Shared by the flows of a link; every call is short and none waits.
#[derive(Debug, Default)]
pub struct Numbers(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    /// The server secret of all references here: those of another are named anew.
    key: Option<KeyId>,
    /// The newest references, the last of which has the number before `next`. 36 bytes of memory each.
    recent: VecDeque<Entry>,
    next: u64,
    /// The latest confirmed number of each block of `recent`, by the first bytes of its digest.
    confirmed: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Entry {
    digest: Digest,
    len: u32,
}

impl Numbers {
    /// Gives a reference the next number, for the frame that introduces it.
    pub fn assign(&self, reference: &Reference) -> u64 {
        self.with(|given| {
            if given.key != Some(reference.key) {
                given.key = Some(reference.key);
                given.recent.clear();
                given.confirmed.clear();
            }
            if given.recent.len() == USABLE_MAX {
                given.drop_oldest();
            }
            given.recent.push_back(Entry { digest: reference.digest, len: reference.len });
            given.next += 1;
            given.next - 1
        })
    }

    /// Notes that the other side took the frame which introduced a number.
    pub fn confirm(&self, number: u64) {
        self.with(|given| {
            if let Some(entry) = given.entry(number) {
                let prefix = prefix(&entry.digest);
                // Of two the newer one can be used for longer.
                let latest = given.confirmed.entry(prefix).or_insert(number);
                *latest = number.max(*latest);
            }
        });
    }

    /// Returns a number that names the reference to the other side.
    #[must_use]
    pub fn find(&self, reference: &Reference) -> Option<u64> {
        self.with(|given| {
            let number = *given.confirmed.get(&prefix(&reference.digest))?;
            let entry = given.entry(number)?;
            let same = given.key == Some(reference.key)
                && entry.digest == reference.digest
                && entry.len == reference.len;
            same.then_some(number)
        })
    }

    fn with<T>(&self, call: impl FnOnce(&mut Given) -> T) -> T {
        call(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Given {
    /// Returns the number of the oldest reference here.
    fn oldest(&self) -> u64 {
        self.next - self.recent.len() as u64
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.recent.get(usize::try_from(number.checked_sub(self.oldest())?).ok()?)
    }

    fn drop_oldest(&mut self) {
        let number = self.oldest();
        let Some(entry) = self.recent.pop_front() else { return };
        let prefix = prefix(&entry.digest);
        if self.confirmed.get(&prefix) == Some(&number) {
            self.confirmed.remove(&prefix);
        }
    }
}

/// The references that the other side introduced. Shared by the flows of a link; every call is short and none waits.
#[derive(Debug, Default)]
pub struct Numbered {
    /// Each at its number modulo [`NUMBERED_MAX`]. Grows as numbers do, to some 96 bytes of memory for each.
    slots: Mutex<Vec<Option<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    reference: Reference,
    older: Option<Box<Named>>,
}

/// A number was used for two references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("number {0} introduces a second reference")]
pub struct NumberTaken(pub u64);

impl Numbered {
    /// Takes a reference that a frame introduces. One that arrives when a newer one has its place is of no use to its
    /// sender, which is not to name it any longer.
    ///
    /// # Errors
    /// [`NumberTaken`] if the number is another reference's.
    pub fn insert(&self, number: u64, reference: Reference, older: Option<Named>) -> Result<(), NumberTaken> {
        let place = place(number);
        self.with(|slots| {
            if slots.len() <= place {
                slots.resize_with(place + 1, || None);
            }
            match &slots[place] {
                Some(slot) if slot.number == number && slot.reference != reference => {
                    return Err(NumberTaken(number));
                }
                Some(slot) if slot.number > number => {}
                _ => slots[place] = Some(Slot { number, reference, older: older.map(Box::new) }),
            }
            Ok(())
        })
    }

    /// Returns the reference of a number, and its name under the older server secret where the frame had it.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<(Reference, Option<Named>)> {
        self.with(|slots| {
            let slot = slots.get(place(number))?.as_ref().filter(|slot| slot.number == number)?;
            Some((slot.reference, slot.older.as_deref().copied()))
        })
    }

    fn with<T>(&self, call: impl FnOnce(&mut Vec<Option<Slot>>) -> T) -> T {
        call(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % NUMBERED_MAX as u64).expect("below NUMBERED_MAX")
}

fn prefix(digest: &Digest) -> u64 {
    u64::from_le_bytes(digest.0[..8].try_into().expect("a digest has 32 bytes"))
}

/// Numbers that a sender may use, back from the newest.
const USABLE_MAX: usize = NUMBERED_MAX / 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wanigan_parsers::wan::Secret;

    use super::*;

    #[test]
    fn a_number_is_used_once_the_other_side_has_its_reference_and_under_its_key_only() {
        let numbers = Numbers::default();
        let (one, two) = (reference(1, 1), reference(2, 1));
        assert_eq!((numbers.assign(&one), numbers.assign(&two)), (0, 1));
        assert_eq!(numbers.find(&two), None);
        numbers.confirm(1);
        assert_eq!((numbers.find(&one), numbers.find(&two)), (None, Some(1)));
        assert_eq!(numbers.find(&Reference { len: 9, ..two }), None);
        // The server secret rotates, and what arrives late of before means nothing.
        let renamed = reference(2, 2);
        assert_eq!(numbers.find(&renamed), None);
        assert_eq!(numbers.assign(&renamed), 2);
        numbers.confirm(0);
        numbers.confirm(77);
        assert_eq!((numbers.find(&one), numbers.find(&two), numbers.find(&renamed)), (None, None, None));
        numbers.confirm(2);
        assert_eq!(numbers.find(&renamed), Some(2));
    }

    #[test]
    fn a_second_introduction_replaces_the_first_when_it_was_taken() {
        let numbers = Numbers::default();
        let one = reference(1, 1);
        let (first, second) = (numbers.assign(&one), numbers.assign(&one));
        numbers.confirm(first);
        assert_eq!(numbers.find(&one), Some(first));
        numbers.confirm(second);
        assert_eq!(numbers.find(&one), Some(second));
        let third = numbers.assign(&one);
        numbers.confirm(third);
        numbers.confirm(first);
        assert_eq!(numbers.find(&one), Some(third));
    }

    #[test]
    fn only_the_newest_are_kept_and_used() {
        let numbers = Numbers::default();
        for n in 0..USABLE_MAX as u64 {
            numbers.confirm(numbers.assign(&reference(n, 1)));
        }
        assert_eq!(numbers.find(&reference(0, 1)), Some(0));
        numbers.assign(&reference(u64::MAX, 1));
        assert_eq!((numbers.find(&reference(0, 1)), numbers.find(&reference(1, 1))), (None, Some(1)));
        for n in 0..NUMBERED_MAX as u64 {
            numbers.confirm(numbers.assign(&reference(n, 2)));
        }
        numbers
            .with(|given| assert_eq!((given.recent.len(), given.confirmed.len()), (USABLE_MAX, USABLE_MAX)));
    }

    #[test]
    fn blocks_whose_digests_begin_alike_are_told_apart() {
        let numbers = Numbers::default();
        let one = reference(1, 1);
        let mut digest = one.digest;
        digest.0[31] ^= 1;
        let other = Reference { digest, ..one };
        numbers.confirm(numbers.assign(&one));
        assert_eq!(numbers.find(&other), None);
        numbers.confirm(numbers.assign(&other));
        assert_eq!((numbers.find(&one), numbers.find(&other)), (None, Some(1)));
    }

    #[test]
    fn a_number_means_one_reference_and_a_late_one_takes_no_newer_ones_place() {
        let numbered = Numbered::default();
        let (one, two, most) = (reference(1, 1), reference(2, 1), NUMBERED_MAX as u64);
        let older = Some(Named { key: KeyId([9; 8]), secret: Secret([9; 32]) });
        assert_eq!(numbered.get(7), None);
        assert_eq!(numbered.insert(7, one, older), Ok(()));
        assert_eq!(numbered.insert(7, one, older), Ok(()));
        assert_eq!(numbered.insert(7, two, None), Err(NumberTaken(7)));
        assert_eq!(numbered.get(7), Some((one, older)));
        assert_eq!(numbered.insert(7 + most, two, None), Ok(()));
        assert_eq!(numbered.insert(7, one, None), Ok(()));
        assert_eq!((numbered.get(7), numbered.get(7 + most)), (None, Some((two, None))));
    }

    #[test]
    fn numbers_of_no_measure_take_no_more_memory_than_others() {
        let numbered = Numbered::default();
        for number in [u64::MAX, 0, u64::MAX / 3, 1 << 40, u64::MAX - 1, 3] {
            assert_eq!(numbered.insert(number, reference(number, 1), None), Ok(()));
            assert_eq!(numbered.get(number), Some((reference(number, 1), None)));
        }
        numbered.with(|slots| assert!(slots.len() <= NUMBERED_MAX));
        assert_eq!(numbered.get(4), None);
    }

    proptest! {
        /// Frames of one stream keep their order, those of several do not; streams end, and word of what was taken
        /// comes late.
        #[test]
        fn what_is_found_means_the_same_at_the_other_side(
            steps in proptest::collection::vec((0usize..4, 0u64..12, 0u8..8), 1..400),
        ) {
            let (numbers, numbered) = (Numbers::default(), Numbered::default());
            // Each frame introduces its number, or uses it.
            let mut streams: [VecDeque<(bool, u64, Reference)>; 4] = Default::default();
            let mut taken: [VecDeque<u64>; 4] = Default::default();
            let mut key = 1;
            for (stream, n, what) in steps {
                match what {
                    0 if n == 0 => key += 1,
                    0 if n == 1 => {
                        streams[stream].clear();
                        taken[stream].clear();
                    }
                    1..=3 => {
                        let reference = reference(n, key);
                        streams[stream].push_back(match numbers.find(&reference) {
                            Some(number) => (false, number, reference),
                            None => (true, numbers.assign(&reference), reference),
                        });
                    }
                    4 | 5 => match streams[stream].pop_front() {
                        Some((true, number, reference)) => {
                            prop_assert_eq!(numbered.insert(number, reference, None), Ok(()));
                            taken[stream].push_back(number);
                        }
                        Some((false, number, reference)) => {
                            prop_assert_eq!(numbered.get(number), Some((reference, None)));
                        }
                        None => {}
                    },
                    _ => taken[stream].drain(..).for_each(|number| numbers.confirm(number)),
                }
            }
        }
    }

    fn reference(n: u64, key: u8) -> Reference {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        Reference { digest: Digest(digest), secret: Secret([key; 32]), key: KeyId([key; 8]), len: 100 }
    }
}
